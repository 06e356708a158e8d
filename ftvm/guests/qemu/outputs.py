"""Hands what QEMU sends on its network card and console to a sink, in order, and nothing while it is paused.

One thread waits for both. A card that is pumped holds its frames itself, and says when some wait: the sink gets one
output for all of them. A disk says when it asks for a cut. `hold` takes in all that was said so far and lets nothing
more through until `flow`: what QEMU itself sends while its guest stands still (it announces addresses by itself)
belongs to the next epoch.
"""

import selectors
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import Final

from ftvm.guests.cards.card import PumpedCard
from ftvm.guests.disk.disk import Disk
from ftvm.interfaces import OutputSink

__all__ = ["OutputGate"]

_READ_BYTES: Final = 1 << 16
"""More than any frame."""
_READS_PER_TURN: Final = 256


class OutputGate:
    """Reads channels, each a socket of QEMU, and pumped cards, and hears disks; held at first."""

    def __init__(
        self,
        sink: OutputSink,
        channels: dict[str, socket.socket],
        cards: Mapping[str, PumpedCard] | None = None,
        disks: Iterable[Disk] = (),
    ) -> None:
        self._sink = sink
        self._channels = dict(channels)
        self._cards = dict(cards or {})
        self._disks = tuple(disks)
        for card in self._cards.values():
            card.begin()
        self._changed = threading.Condition()
        self._is_flowing = False
        self._is_closed = False
        self._waker, self._wake_end = socket.socketpair()
        self._wake_end.setblocking(False)
        self._thread = threading.Thread(target=self._main, name="qemu-outputs", daemon=True)
        self._thread.start()

    def flow(self) -> None:
        """Let outputs through as they come."""
        with self._changed:
            self._is_flowing = True
            for card in self._cards.values():
                card.flow()
            self._changed.notify_all()

    def hold(self) -> None:
        """Hand on all output so far, and then nothing more. Idempotent."""
        with self._changed:
            if self._is_flowing:
                self._is_flowing = False
                while self._take():
                    pass
                for name, card in self._cards.items():
                    self._emit(name, card.hold())

    def close(self) -> None:
        """End the thread. The sockets stay their owner's. Idempotent."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self._waker.send(b"!")
        self._thread.join()
        self._waker.close()
        self._wake_end.close()

    def _main(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_end, selectors.EVENT_READ)
            for name, channel in self._channels.items():
                selector.register(channel, selectors.EVENT_READ, name)
            for card in self._cards.values():
                selector.register(card, selectors.EVENT_READ)
            for disk in self._disks:
                selector.register(disk, selectors.EVENT_READ)
            while not self._is_closed:
                selector.select()
                with self._changed:
                    self._changed.wait_for(lambda: self._is_flowing or self._is_closed)
                    if not self._is_closed:
                        self._take()
                        self._take_frames()
                        self._hear_disks()
                    ended = [key for key in selector.get_map().values() if key.data and key.data not in self._channels]
                for key in ended:
                    selector.unregister(key.fileobj)

    def _take_frames(self) -> None:
        for name, card in self._cards.items():
            if card.is_waiting():
                self._emit(name, card.take())

    def _hear_disks(self) -> None:
        for disk in self._disks:
            if disk.is_asking():
                self._sink.want_cut()

    def _emit(self, name: str, output: bytes | None) -> None:
        if output is not None:
            self._sink.emit(name, output)

    def _take(self) -> bool:
        """Hand on a bounded portion of what has come; return whether there was any."""
        has_taken = False
        for name, channel in list(self._channels.items()):
            for _ in range(_READS_PER_TURN):
                content = _read(channel)
                if content is None:
                    break
                if content:
                    self._sink.emit(name, content)
                    has_taken = True
                elif channel.type == socket.SOCK_STREAM:
                    del self._channels[name]  # QEMU has ended
                    break
        return has_taken


def _read(channel: socket.socket) -> bytes | None:
    """Return what has come, nothing if the other end was closed, None if nothing has come."""
    try:
        return channel.recv(_READ_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""  # QEMU has ended; its keeper tells how
