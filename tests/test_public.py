"""The public names: all there, each where it says, and the same objects as at home."""

import ftvm
import ftvm.errors
import ftvm.events


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
