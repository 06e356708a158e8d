"""The public names: all there, each where it says, and the same objects as at home."""

import sys

import pytest

import ftvm
import ftvm.errors
import ftvm.events
import ftvm.testing


def test_every_public_name_is_there() -> None:
    assert [name for name in ftvm.__all__ if getattr(ftvm, name, None) is None] == []


def test_all_events_and_all_errors_are_public() -> None:
    assert {*ftvm.events.__all__, *ftvm.errors.__all__} <= set(ftvm.__all__)


def test_every_event_and_every_error_is_in_the_list_of_its_module() -> None:
    for module, root in ((ftvm.events, ftvm.Event), (ftvm.errors, ftvm.FtvmError)):
        defined = {name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, root)}
        assert defined <= {*module.__all__, "FtvmError"}


def test_public_names_are_sorted_and_told_once() -> None:
    assert ftvm.__all__ == sorted(set(ftvm.__all__))


def test_dir_shows_the_public_names_only() -> None:
    assert dir(ftvm) == ftvm.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(ftvm, "Xen")


def test_the_kits_are_in_the_help_of_their_package() -> None:
    assert dir(ftvm.testing) == ftvm.testing.__all__
    assert all(hasattr(ftvm.testing, name) for name in ftvm.testing.__all__)


def test_a_kit_without_hypothesis_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "ftvm.testing.engine", raising=False)

    with pytest.raises(ImportError, match=r"check_engine needs hypothesis: pip install 'ftvm\[test\]'"):
        ftvm.testing.check_engine  # noqa: B018
