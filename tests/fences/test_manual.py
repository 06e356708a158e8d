"""The manual says what there is: its pages, its commands and options, its guest files, the public names."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

import ftvm
import ftvm.testing
from ftvm.cli.kinds import read_host
from ftvm.cli.main import ftvm as command_line
from ftvm.engines.names import ENGINES
from ftvm.transport.keys import write_keypair

from ..test_readme import PAGES

ROOT: Final = Path(__file__).parents[2]
FILES_OF_A_READER: Final = ("a", "b", "c")


def inline_commands(page: Path) -> Iterator[list[str]]:
    """Yield each `ftvm ...` that stands in a page as code, as words; capitals stand for what the reader writes."""
    text = page.read_text(encoding="utf-8")
    blocks = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    for code in (*blocks, *inline):
        words = shlex.split(code, comments=True) if code.startswith("ftvm ") else []
        if words and "--debug" not in words:
            yield words[1 : words.index("--") if "--" in words else None]


def complaint(words: list[str]) -> str:
    """Return what is wrong with a command: a name, or an option that there is not; empty if nothing is."""
    command: click.Command = command_line
    context = click.Context(command)
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(context, name)
        if found is None:
            return f"there is no command {name!r}"
        command, context = found, click.Context(found, parent=context)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in rest if re.match(r"--[a-z]", word) and word.partition("=")[0] not in known | {"--help"}]
    return f"`ftvm {' '.join(words)}` has no option {unknown}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_in_a_page_exists(page: Path) -> None:
    assert [wrong for words in inline_commands(page) if (wrong := complaint(words))] == []


def test_a_wrong_option_is_seen() -> None:
    assert "no option ['--now']" in complaint(["ctl", "switchover", "--now"])
    assert complaint(["fly"]) == "there is no command 'fly'"


def guest_files() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for text in re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            yield page.name, text


@pytest.mark.parametrize(("page", "text"), list(guest_files()))
def test_every_guest_file_in_the_manual_is_right(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / f"{page}.toml"
    file.write_text(text)
    for name in FILES_OF_A_READER:
        write_keypair(tmp_path / name)
    (tmp_path / "vm2.img").write_bytes(bytes(4096))

    told = read_host(file, {}, boots=False)

    assert told.problems == {}


def test_every_page_is_in_the_contents_once() -> None:
    said = re.findall(r"^ *- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)

    assert sorted(said) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_every_public_name_is_on_the_page_of_the_api_once() -> None:
    shown = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)

    assert sorted(name for name in shown if name.startswith("ftvm.") and name.count(".") == 1) == sorted(
        f"ftvm.{name}" for name in ftvm.__all__
    )
    kits = {name.rpartition(".")[2] for name in shown if name.startswith("ftvm.testing.")}
    assert kits == set(ftvm.testing.__all__)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_told_wherever_the_engines_are(name: str) -> None:
    rows = {
        "README.md": rf"^\| `{name}` \|",
        "docs/commands.md": rf"^\| `{name}` \|",
        "docs/glossary.md": rf"^\| engine \|.*\b{name}\b",
        "ftvm/cli/hostsettings.py": rf"\b{name} \d+",
    }

    untold = [page for page, row in rows.items() if not re.search(row, (ROOT / page).read_text(), re.MULTILINE)]

    assert untold == []
    assert ENGINES[name].__name__ in ftvm.__all__


def test_the_readme_is_two_screens() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()

    assert len(lines) <= 110
