"""Whatever the code cites is in the repository, section by section, and every link in its documents leads somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("ftvm", "tests", "bench", "examples", "docs", ".ci")
CODE: Final = {".py", ".pyi", ".c", ".h", ".S", ".cdef", ".tla", ".cfg", ".toml", ".sh", ".service", ""}

ELSEWHERE: Final = {"doc/xxhash_spec.md", "doc/proto.md"}
"""Documents of other projects, which stand beside the name of the project."""

_LINE_BREAK: Final = re.compile(r"\n[ \t]*(?:\\\*|\(\*|#|//|\*)?[ \t]*")
_CITATION: Final = re.compile(r'(?P<document>(?:[\w.-]+/)*[\w-]+\.md)\b(?P<sections>, "[^"]+"(?: and "[^"]+")*)?')
_HEADING: Final = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_FENCED: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_MODULE: Final = re.compile(r"(?<![\w./])(?:\w+/)+\w+\.py\b")


def files(*suffixes: str) -> list[Path]:
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in (*ROOT.glob("*"), *inside) if path.is_file() and path.suffix in suffixes)


def citations(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each document that a text names, with the sections of it; a line may break within."""
    for found in _CITATION.finditer(_LINE_BREAK.sub(" ", text)):
        yield found["document"], re.findall(r'"([^"]+)"', found["sections"] or "")


def headings(document: Path) -> list[str]:
    return _HEADING.findall(_FENCED.sub("", document.read_text(encoding="utf-8")))


def anchors(document: Path) -> set[str]:
    """Return what a link may name behind `#`, as GitHub makes it of a heading."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(document)}


DOCUMENTS: Final = files(".md")
SOURCES: Final = [path for path in files(*CODE) if "corpus" not in path.parts]


def meant_by(name: str) -> list[Path]:
    """Return the documents that a citation may mean: the path as it is from the root, or the end of one."""
    return [path for path in DOCUMENTS if f"/{path.relative_to(ROOT).as_posix()}".endswith(f"/{name}")]


def broken_citations(text: str) -> Iterator[str]:
    for name, sections in citations(text):
        if name in ELSEWHERE:
            continue
        documents = meant_by(name)
        if not documents:
            yield name
        known = {heading for document in documents for heading in headings(document)}
        yield from (f'{name}, "{section}"' for section in sections if documents and section not in known)


def broken_links(document: Path) -> Iterator[str]:
    for link in _LINK.findall(_FENCED.sub("", document.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def test_every_document_and_section_that_the_code_cites_exists() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): broken
        for path in SOURCES
        if path != Path(__file__)
        and (broken := list(broken_citations(path.read_text(encoding="utf-8", errors="replace"))))
    }

    assert len(SOURCES) > 300
    assert found == {}


def test_every_module_that_ftvm_cites_exists() -> None:
    places = [f"/{path.relative_to(ROOT).as_posix()}" for path in SOURCES]
    cited = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        if path.is_relative_to(ROOT / "ftvm")
        for name in _MODULE.findall(path.read_text(encoding="utf-8", errors="replace"))
    }

    assert len(cited) > 20
    assert {(path, name) for path, name in cited if not any(place.endswith(f"/{name}") for place in places)} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    assert list(broken_links(document)) == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ('see docs/protocol.md, "Roles"', []),
        ('see docs/protocol.md, "The\n    release rule".', []),
        (' * see docs/protocol.md, "The\n * release rule".', []),
        ('docs/protocol.md, "ADD" and "DROP"', []),
        ("ROOT / 'README.md'", []),
        ('compile(piece, "README.md", "exec")', []),
        ("Source: doc/proto.md of another project", []),
        ("see NOTHING.md", ["NOTHING.md"]),
        ('see docs/protocol.md, "Rules"', ['docs/protocol.md, "Rules"']),
        ('docs/protocol.md, "ADD" and\n# "SUBTRACT"', ['docs/protocol.md, "SUBTRACT"']),
    ],
)
def test_a_citation_is_read_as_it_is_written(text: str, broken: list[str]) -> None:
    assert list(broken_citations(text)) == broken


@pytest.mark.parametrize("link", ["nothing.md", "here.md#nothing", "#nothing", "folder/here.md"])
def test_a_link_that_leads_nowhere_is_seen(link: str, tmp_path: Path) -> None:
    document = tmp_path / "here.md"

    document.write_text(
        f"# A heading: of `code`\n[here](#a-heading-of-code), [there]({link}), [out](https://a.b/c.md)\n"
    )

    assert list(broken_links(document)) == [link]
