"""A campaign's result is the same whatever number of processes plays it, a mutant's too."""

from ftvm.lab.campaign import hunt


def test_a_mutant_is_hunted_alike_in_one_process_and_in_several() -> None:
    """Found: a worker had undone its mutant before it played the first seed."""
    alone = hunt("put_blindly", range(16), jobs=1)

    several = hunt("put_blindly", range(16), jobs=2)

    assert alone.found
    assert [(one.seed, one.invariant) for one in several.found] == [(one.seed, one.invariant) for one in alone.found]
