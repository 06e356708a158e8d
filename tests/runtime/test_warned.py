"""What a host's services, recorder and world have met stands in its status, as what its guest warns of does."""

import threading
from collections.abc import Sequence

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.events import Event, GuestWarned, HostServiceFailed
from ftvm.runtime.protection import protect
from ftvm.runtime.services import Controls
from ftvm.runtime.world import CallbackWorld
from ftvm.sim.guest import SimGuest
from ftvm.units import Nanos


class Broken:
    """A service that fails as soon as it is stepped."""

    name = "history recorder"

    def begin(self, controls: Controls) -> None:
        del controls

    def fds(self) -> Sequence[int]:
        return ()

    def note(self, event: Event) -> None:
        del event

    def step(self, now: Nanos) -> Nanos | None:
        del now
        raise OSError("the disk is full")

    def close(self) -> None:
        pass


def test_the_status_of_a_host_tells_that_a_service_of_it_failed() -> None:
    """Regression: the log alone said that nothing was recorded any more, and the status that all is well."""
    with protect(
        SimGuest(page_count=4, pages_per_step=1, output_every=10, boots=True),
        listen="tcp://127.0.0.1:0",
        arbiter=MemoryRecordStore(),
        create=True,
        services=[Broken()],
    ) as protection:
        failed = next(
            event for _ in range(1000) for event in protection.events(timeout=1) if isinstance(event, HostServiceFailed)
        )
        told = protection.status()

    assert failed.error == "OSError: the disk is full"
    assert told.warnings == ("the history recorder failed and was closed: OSError: the disk is full",)


class Severed(CallbackWorld):
    """A world whose cable is gone from the moment that `is_gone` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_gone = threading.Event()

    def news(self) -> str | None:
        if not self.is_gone.is_set():
            return None
        self.is_gone.clear()
        return "the cable is gone"


def test_the_status_of_a_host_tells_what_its_world_warns_of() -> None:
    """Regression: a host whose tap had been deleted told that all is well."""
    world = Severed()
    with protect(
        SimGuest(page_count=4, pages_per_step=1, output_every=10, boots=True),
        listen="tcp://127.0.0.1:0",
        arbiter=MemoryRecordStore(),
        create=True,
        world=world,
    ) as protection:
        before = protection.status().warnings
        world.is_gone.set()
        warned = next(
            event for _ in range(60) for event in protection.events(timeout=1) if isinstance(event, GuestWarned)
        )
        told = protection.status().warnings

    assert before == ()
    assert warned.reason == "the cable is gone"
    assert told == ("the cable is gone",)
