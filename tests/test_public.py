"""The public names: all there, each where it says, and the same objects as at home."""

import ftvm


def test_every_public_name_is_there() -> None:
    assert [name for name in ftvm.__all__ if getattr(ftvm, name, None) is None] == []


def test_public_names_are_sorted_and_told_once() -> None:
    assert ftvm.__all__ == sorted(set(ftvm.__all__))


def test_dir_shows_the_public_names_only() -> None:
    assert dir(ftvm) == ftvm.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(ftvm, "Xen")
