"""The programs' reader of the device tree, built for the host: the trees that the machine makes, and broken ones."""

import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.guests.riscv.fdt import build_fdt, machine_tree

NOTHING_KNOWN = "16777216 77 0"
Ask = Callable[[bytes], str]


@pytest.fixture(scope="module")
def ask(compile_for_host: Callable[[str, list[str]], Path]) -> Iterator[Ask]:
    """ask(tree) is what the reader finds: memory bytes, the argument pages or 77, whether pattern is random."""
    process = subprocess.Popen(
        [compile_for_host("fdt_on_host", ["board/fdt.c"])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def answer(tree: bytes) -> str:
        stdin.write(struct.pack(">I", len(tree)) + tree)
        stdin.flush()
        line = stdout.readline().decode().rstrip("\n")
        assert line, "the reader died; its last words are above"
        return line

    yield answer
    process.communicate()
    assert process.returncode == 0


def _tree(command_line: str, ram_bytes: int = 64 << 20) -> bytes:
    return build_fdt(
        machine_tree(ram_base=0x80000000, ram_bytes=ram_bytes, virtio_slots=(0, 1), command_line=command_line)
    )


@pytest.mark.parametrize(
    ("command_line", "pages", "is_random"),
    [
        ("", 77, 0),
        ("pages=5", 5, 0),
        ("words=9 pages=123 pattern=random", 123, 1),
        ("pattern=random2", 77, 0),
        ("xpages=5", 77, 0),
        ("pages=", 77, 0),
        ("pages=5x", 77, 0),
        ("pages=18446744073709551615", 18446744073709551615, 0),
        ("pages=18446744073709551616", 77, 0),
        ("pages", 77, 0),
    ],
)
def test_arguments_are_found_and_what_is_no_number_is_not_given(
    ask: Ask, command_line: str, pages: int, is_random: int
) -> None:
    assert ask(_tree(command_line)) == f"{64 << 20} {pages} {is_random}"


@pytest.mark.parametrize("tree", [b"", bytes(100), b"\xd0\x0d\xfe\xed" + b"\xff" * 36])
def test_what_is_no_tree_is_an_empty_one(ask: Ask, tree: bytes) -> None:
    assert ask(tree) == NOTHING_KNOWN


@settings(max_examples=300)
@given(data=st.data())
def test_any_altered_or_truncated_tree_is_survived(ask: Ask, data: st.DataObject) -> None:
    tree = bytearray(_tree("pages=5 pattern=random"))
    for _ in range(data.draw(st.integers(1, 6))):
        tree[data.draw(st.integers(0, len(tree) - 1))] = data.draw(st.integers(0, 255))
    del tree[data.draw(st.integers(0, len(tree))) :]

    assert len(ask(bytes(tree)).split()) == 3
