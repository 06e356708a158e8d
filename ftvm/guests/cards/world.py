"""The outside of a guest whose cards are pumped: `PumpWorld`. Inputs do not pass here: a card hands them on itself."""

from collections.abc import Callable, Mapping, Sequence

from ftvm.checkpoint import Output
from ftvm.guests.cards.card import CardCounters, PumpedCard
from ftvm.guests.datagram import announcement_frames, mac_bytes

__all__ = ["PumpWorld"]


class PumpWorld:
    """A guest's outside over its cards, and if wanted, a console. Keeps interfaces.World.

    The cards stay their owner's, the guest's.
    """

    def __init__(
        self, cards: Mapping[str, tuple[PumpedCard, str]], *, console: Callable[[bytes], object] | None = None
    ) -> None:
        """`cards` are named by the channel of their outputs, each with its address.

        `console` gets what the guest writes there, and must not block for long.
        """
        self._cards = {channel: card for channel, (card, _) in cards.items()}
        self._announcements = [(card, announcement_frames(mac_bytes(mac))) for card, mac in cards.values()]
        self._console = console
        self._outputs_unrouted = 0

    @property
    def counters(self) -> CardCounters:
        """What the cards moved, and what was dropped."""
        counted = [card.counters for card in self._cards.values()]
        sums = {name: sum(getattr(each, name) for each in counted) for name in CardCounters.__slots__}
        sums["outputs_unrouted"] += self._outputs_unrouted
        return CardCounters(**sums)

    def fds(self) -> tuple[int, ...]:
        """Nothing to wait for."""
        return ()

    def receive(self, limit: int) -> Sequence[tuple[str, bytes]]:
        """Nothing ever comes this way."""
        del limit
        return ()

    def release(self, output: Output) -> None:
        """Let one output leave: the frames of a card, or what was written to the console."""
        card = self._cards.get(output.channel)
        if card is not None:
            card.release(output.payload)
        elif output.channel == "console" and self._console is not None:
            self._console(output.payload)
        else:
            self._outputs_unrouted += 1

    def announce(self) -> None:
        """Send frames from the guest's addresses, so that switches learn where they are now."""
        for card, frames in self._announcements:
            for frame in frames:
                card.send(frame)

    def close(self) -> None:
        """Nothing to give back."""
