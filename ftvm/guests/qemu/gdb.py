"""Has a QEMU serve gdb at a socket that listens already: who may come in there was decided by whoever opened it."""

from ftvm.errors import GuestError
from ftvm.guests.qemu.qmp import Qmp

__all__ = ["serve_gdb"]


def serve_gdb(qmp: Qmp, listener: int) -> None:
    """Have QEMU serve gdb at the socket of this descriptor. Raises GuestError if it cannot."""
    qmp.give_file("gdb", listener)
    address = {"type": "fd", "data": {"str": "gdb"}}
    backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
    qmp.execute("chardev-add", id="gdb", backend=backend)
    said = str(qmp.execute("human-monitor-command", command_line="gdbserver chardev:gdb"))
    if "Waiting for gdb" not in said:
        raise GuestError(f"QEMU does not serve gdb: {said.strip()}")
