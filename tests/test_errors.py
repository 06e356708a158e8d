"""The tree of errors: what its docstring draws is what there is, and messages say what to act on."""

import re

import pytest

from ftvm import errors
from ftvm.errors import FtvmError, LimitExceeded, VersionMismatch


def drawn_tree() -> dict[str, str]:
    """Return each error's parent as the module's docstring draws it."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+)(?:\s|$)", line)
        if found is None or found.group(2) not in errors.__all__:
            continue
        depth = len(found.group(1)) // 4
        path[depth:] = [found.group(2)]
        if depth:
            parents[path[depth]] = path[depth - 1]
    return parents


def test_the_drawn_tree_is_the_tree() -> None:
    real = {name: getattr(errors, name).__base__.__name__ for name in errors.__all__ if name != "FtvmError"}

    assert drawn_tree() == real


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_an_ftvm_error_and_says_whose_fault_it_is(name: str) -> None:
    error = getattr(errors, name)

    assert issubclass(error, FtvmError)
    assert error.__doc__


def test_a_mismatch_carries_both_sides() -> None:
    error = VersionMismatch("protocol version", ours=1, theirs=2)

    assert str(error) == "protocol version differs: ours is 1, the peer's is 2"
    assert (error.what, error.ours, error.theirs) == ("protocol version", 1, 2)


def test_a_limit_carries_what_was_wanted() -> None:
    error = LimitExceeded("outputs held", limit=3, wanted=4)

    assert str(error) == "outputs held: 4 is more than the limit of 3"
    assert (error.what, error.limit, error.wanted) == ("outputs held", 3, 4)
