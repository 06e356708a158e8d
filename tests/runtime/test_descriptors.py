"""The table of descriptors: its limit is raised, a full one is known for what it is, some are kept back."""

import errno
import subprocess
import sys

import pytest

from ftvm.errors import ArbiterError, NotApplied
from ftvm.runtime.descriptors import DESCRIPTORS_MAX, SpareDescriptors, is_table_full

from ..leftovers import descriptors


@pytest.mark.parametrize(("hard", "raised"), [(1024, 1024), (DESCRIPTORS_MAX + 1, DESCRIPTORS_MAX)])
def test_a_process_may_open_as_many_as_its_hard_limit_says_within_reason(hard: int, raised: int) -> None:
    code = (
        "import resource; from ftvm.runtime.descriptors import raise_limit\n"
        f"top = min({hard}, resource.getrlimit(resource.RLIMIT_NOFILE)[1])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, top))\n"
        "raise_limit()\n"
        "print(top, *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )

    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)

    top, soft, hard_now = map(int, said.stdout.split())
    assert (soft, hard_now) == (min(top, raised), top)


def test_a_full_table_is_seen_through_what_it_caused() -> None:
    error = NotApplied("cannot be read")
    error.__cause__ = ArbiterError("cannot be read")
    error.__cause__.__cause__ = OSError(errno.EMFILE, "too many")

    assert is_table_full(error)


def test_another_trouble_is_no_full_table() -> None:
    error = ArbiterError("cannot be read")
    error.__cause__ = OSError(errno.ENOENT, "not there")

    assert not is_table_full(error)
    assert not is_table_full(None)


def test_spare_descriptors_are_given_back_for_a_moment_and_taken_again() -> None:
    before = descriptors()
    spare = SpareDescriptors(3)
    held = descriptors() - before

    with spare.given_back():
        during = descriptors() - before

    assert (len(held), len(during), spare.is_full) == (3, 0, True)
    spare.close()
    assert descriptors() - before == set()
