"""Hosts of this process with a control socket each."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.engines.remus import Remus
from ftvm.runtime.protection import Protection, Standby, protect
from ftvm.service.connection import Connection, connect
from ftvm.service.control import ControlSocket
from ftvm.sim.guest import SimGuest

from ..runtime.live import PATIENT

WAIT_SECONDS = 30.0


def guest(*, boots: bool = True) -> SimGuest:
    return SimGuest(page_count=4, pages_per_step=1, output_every=10, boots=boots)


def host(folder: Path, guest_id: str) -> Protection:
    return protect(
        guest(),
        listen="tcp://127.0.0.1:0",
        arbiter=MemoryRecordStore(),
        create=True,
        engine=Remus(),
        guest_id=guest_id,
        services=[ControlSocket(f"ipc://{folder}/{guest_id}.sock")],
    )


def serve_two(tmp_path: Path) -> Iterator[Connection]:
    with host(tmp_path, "vm1"), host(tmp_path, "vm2"), connect(f"ipc://{tmp_path}") as machine:
        yield machine


@contextmanager
def pair(folder: Path, arbiters: tuple[str, str] | None = None) -> Iterator[tuple[Protection, Standby]]:
    """A protected guest on two hosts, with a control socket each, and the way that each has to the arbiter."""
    store = MemoryRecordStore()
    first, second = (store.another(), store.another()) if arbiters is None else arbiters
    with ExitStack() as stack:
        active = stack.enter_context(
            protect(
                guest(),
                listen=f"ipc://{folder}/a",
                peers=[f"ipc://{folder}/b"],
                arbiter=first,
                create=True,
                guest_id="vm1",
                services=[ControlSocket(f"ipc://{folder}/a.sock")],
                timing=PATIENT,
            )
        )
        standby = stack.enter_context(
            Standby(
                guest(boots=False),
                listen=f"ipc://{folder}/b",
                peers=[f"ipc://{folder}/a"],
                arbiter=second,
                guest_id="vm1",
                services=[ControlSocket(f"ipc://{folder}/b.sock")],
                timing=PATIENT,
            )
        )
        assert active.wait_protected(WAIT_SECONDS)
        yield active, standby
