"""How commands end: a status for each kind of fault."""

import json

import pytest

from ftvm import errors
from ftvm.cli.exits import exit_status
from ftvm.errors import FtvmError

from .conftest import Run

STATUSES: dict[type[FtvmError], int] = {
    errors.ConfigError: 2,
    errors.ImageError: 2,
    errors.BadFrame: 3,
    errors.DigestMismatch: 3,
    errors.RemoteProtocolError: 3,
    errors.InternalError: 4,
    errors.ArbiterError: 1,
    errors.TransportError: 1,
    errors.BrokenError: 1,
    errors.GuestError: 1,
    errors.TrackingLost: 1,
    errors.ClosedError: 1,
    errors.Fenced: 1,
    errors.LocalProtocolError: 1,
}


@pytest.mark.parametrize(("error", "status"), STATUSES.items(), ids=lambda value: getattr(value, "__name__", value))
def test_the_status_says_whose_fault_it_was(error: type[FtvmError], status: int) -> None:
    assert exit_status(error("x")) == status


def test_another_version_is_the_peers_fault() -> None:
    assert exit_status(errors.VersionMismatch("version", ours=1, theirs=2)) == 3


def test_version_is_told_as_json(ftvm: Run) -> None:
    outcome = ftvm("version", "--json")

    assert json.loads(outcome.out)["protocol"] == 1
