"""A hook of mkdocs: a link to a file of the repository outside docs/ becomes its text and the file's path.

In the repository, where most people read these pages, such a link works; on the site it would lead nowhere.
"""

import posixpath
import re
from typing import Any, Final

LINK: Final = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>\.\./[^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_of_mkdocs: Any) -> str:
    """Return a page's text for the site."""
    return LINK.sub(_told, markdown)


def _told(link: re.Match[str]) -> str:
    path = posixpath.normpath(posixpath.join("docs", link["path"]))
    text = link["text"]
    return text if path in text else f"{text} (`{path}`)"
