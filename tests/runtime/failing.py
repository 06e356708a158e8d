"""Pairs whose guest fails, or ends, where and when a test says."""

from collections.abc import Callable, Iterator

from ftvm.checkpoint import END_CHANNEL
from ftvm.errors import GuestError
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import Pair


class FailingGuest(SimGuest):
    """A SimGuest that fails where and when a test says."""

    error: GuestError | None = None
    reason: str | None = None
    dies_of_error: bool = False
    is_idle: bool = False
    extra: bytes = b""

    def __init__(self, boots: bool) -> None:
        super().__init__(page_count=24, pages_per_step=2, output_every=4, boots=boots)

    def save_devices(self) -> bytes:
        devices = super().save_devices() + self.extra
        error, self.error = self.error, None
        if error is not None:
            self.reason = str(error) if self.dies_of_error else self.reason
            raise error
        return devices

    def load_devices(self, devices: bytes) -> None:
        super().load_devices(devices[: len(devices) - len(self.extra)])

    def failure(self) -> str | None:
        return self.reason

    def advance(self) -> None:
        if self.reason is None and not self.is_idle:
            super().advance()

    def end(self, pair: Pair) -> None:
        """Come to its own end."""
        self.reason = "the program ended with code 0"
        pair.a.driver._sink.emit(END_CHANNEL, self.reason.encode())


def failing_pairs() -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make(**options: object) -> Pair:
        pairs.append(Pair(guest=FailingGuest, **options))  # type: ignore[arg-type]
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


def guest_of(pair: Pair) -> FailingGuest:
    assert isinstance(pair.a.guest, FailingGuest)
    return pair.a.guest
