"""The fences of docs/architecture.md that import-linter cannot see: names imported from a module, and sockets."""

import ast
from collections.abc import Iterator
from pathlib import Path

import ftvm

ROOT = Path(ftvm.__file__).parent

PURE = ("engines", "protocol", "capture", "encode")
"""Packages that know no outside."""


SHARED = {"bitmap": {"_native", "guests"}}
"""Nouns that two packages call, each a debt: the built-in machine counts its dirty pages itself."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imports_of(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each import as (module, names taken from it)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", tuple(alias.name for alias in node.names)


def native_nouns(tree: ast.Module) -> set[str]:
    """Return the nouns of the C functions that a module calls: `apply` of `lib.ftvm_apply_verify`."""
    return {
        node.attr.split("_")[1]
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "lib"
        and node.attr.startswith("ftvm_")
    }


def test_each_native_noun_is_wrapped_by_one_package() -> None:
    wrappers: dict[str, set[str]] = {}
    for name, tree in sources():
        for noun in native_nouns(tree):
            wrappers.setdefault(noun, set()).add(name.partition("/")[0])

    assert wrappers
    assert {noun: names for noun, names in wrappers.items() if len(names) > 1 and names != SHARED.get(noun)} == {}


def test_the_native_core_is_entered_only_where_capture_encoding_and_machines_need_it() -> None:
    allowed = ("_native/", "capture/", "encode/", "guests/", "history/hooks.py")

    users = [
        name
        for name, tree in sources()
        if any(module.startswith("ftvm._native") and {"ffi", "lib"} & set(names) for module, names in imports_of(tree))
    ]

    assert users
    assert [name for name in users if not name.startswith(allowed)] == []


def test_sockets_are_opened_only_where_the_outside_is_spoken_to() -> None:
    allowed = (
        "transport/",
        "guests/",
        "lab/",
        "arbiters/",
        "service/",
        "history/gdbserver.py",
        "history/gdbsocket.py",
    )

    users = [name for name, tree in sources() if any(module == "socket" for module, _ in imports_of(tree))]

    assert [name for name in users if not name.startswith(allowed)] == []


def test_the_pure_packages_open_no_file_and_draw_no_number() -> None:
    forbidden = {"open", "input", "print"}

    calls = [
        f"{name}: {node.func.id}"
        for name, tree in sources()
        if name.startswith(PURE)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in forbidden
    ]

    assert calls == []


def test_the_time_of_day_which_may_jump_is_told_to_people_only() -> None:
    users = {
        clock: {name for name, tree in sources() for _, names in imports_of(tree) if clock in names}
        for clock in ("wall_time", "time_of_day_ns")
    }

    assert users == {
        "wall_time": {"cli/logreport.py", "cli/report.py", "runtime/identity.py", "service/control.py"},
        "time_of_day_ns": {"runtime/recording.py"},
    }


def test_what_a_peer_sends_is_never_checked_by_assert() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in sources()
        if name.startswith(("encode/", "protocol/", "transport/", "arbiters/", "capture/", "runtime/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]

    assert found == []


def test_every_module_says_what_it_is() -> None:
    assert [name for name, tree in sources() if not ast.get_docstring(tree)] == []


def test_the_native_core_asks_its_process_for_nothing() -> None:
    """What it does follows from what it is given alone; but for what is loaded into a QEMU, which nobody calls."""
    users = [path.name for path in sorted((ROOT / "_native").rglob("*.[ch]")) if "getenv" in path.read_text("utf-8")]

    assert users == ["qemu_preload.c"]
