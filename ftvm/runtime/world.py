"""Worlds for guests whose outputs nobody but the caller wants."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ftvm.checkpoint import Output
from ftvm.errors import LimitExceeded
from ftvm.interfaces import World

__all__ = ["CallbackWorld", "news_of", "releases_of"]

_INPUTS_WAITING_MAX: Final = 65_536


def releases_of(world: World) -> Callable[[Sequence[Output]], object]:
    """Return what lets outputs leave together: the world's `release_all` if it has one (interfaces.GroupWorld)."""
    together: Callable[[Sequence[Output]], object] | None = getattr(world, "release_all", None)
    if together is not None:
        return together
    release = world.release

    def one_by_one(outputs: Sequence[Output]) -> None:
        for output in outputs:
            release(output)

    return one_by_one


def news_of(world: World) -> Callable[[], str | None]:
    """Return what tells, once each, what an operator is to be warned of: by the world's `news`, if it has that."""
    return getattr(world, "news", lambda: None)


class CallbackWorld:
    """Hands released outputs to a function, and takes inputs by `put`, from any thread.

    `on_output` is called from the host's thread and must not block.
    """

    __slots__ = ("_inputs", "_on_output")

    def __init__(self, on_output: Callable[[Output], None] = lambda _: None) -> None:
        self._on_output = on_output
        self._inputs: deque[tuple[str, bytes]] = deque()

    def put(self, channel: str, payload: bytes) -> None:
        """Queue an input for the guest. Raises LimitExceeded if too many wait."""
        if len(self._inputs) >= _INPUTS_WAITING_MAX:
            raise LimitExceeded("inputs waiting", limit=_INPUTS_WAITING_MAX, wanted=_INPUTS_WAITING_MAX + 1)
        self._inputs.append((channel, payload))

    def fds(self) -> tuple[int, ...]:
        """Nothing to wait on: inputs are found at the next step."""
        return ()

    def receive(self, limit: int) -> Sequence[tuple[str, bytes]]:
        """Return up to `limit` inputs that were put."""
        return [self._inputs.popleft() for _ in range(min(limit, len(self._inputs)))]

    def release(self, output: Output) -> None:
        """Hand the output over."""
        self._on_output(output)

    def release_all(self, outputs: Sequence[Output]) -> None:
        """Hand them over, one by one."""
        for output in outputs:
            self._on_output(output)

    def announce(self) -> None:
        """Nobody to tell."""

    def close(self) -> None:
        """Forget inputs that wait."""
        self._inputs.clear()
