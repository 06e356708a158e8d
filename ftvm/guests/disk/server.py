"""Serves a disk to its guest's machine over a socket: the negotiation in Python, all that follows in C."""

import socket
import threading
from contextlib import suppress

from ftvm.errors import GuestError
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.negotiation import negotiate

__all__ = ["DiskServer"]


class DiskServer:
    """Serves a disk to the one client at the other end of a socket, until that closes it. One at a time serves a disk.

    Its thread takes the interpreter's lock for the negotiation only.
    """

    def __init__(self, disk: Disk, connection: socket.socket) -> None:
        """Begin to serve; the socket stays its owner's, who ends the server by closing the other end."""
        self._disk = disk
        self._connection = connection
        connection.setblocking(True)
        self._thread = threading.Thread(target=self._main, name="ftvm-disk", daemon=True)
        self._thread.start()

    @property
    def thread_id(self) -> int | None:
        """The kernel's number of its thread."""
        return self._thread.native_id

    def close(self) -> None:
        """End the thread. Idempotent."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _main(self) -> None:
        try:
            with suppress(EOFError, OSError):
                if negotiate(self._connection, self._disk.size_bytes):
                    self._disk.serve(self._connection.fileno())
        except GuestError as wrong:
            self._disk.note_trouble(f"the disk's server ended: {wrong}")
        finally:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
