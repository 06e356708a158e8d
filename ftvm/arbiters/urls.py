"""An arbiter by its URL: what a user writes behind ``--arbiter``."""

from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ftvm.arbiters.etcd import EtcdRecordStore
from ftvm.arbiters.etcdhttp import parse_etcd_url
from ftvm.arbiters.file import FileRecordStore
from ftvm.arbiters.known import KnownRecordStore
from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.errors import ArbiterError, ConfigError
from ftvm.interfaces import RecordStore

__all__ = ["check_record_url", "folder_of", "open_record_store"]


def open_record_store(url: str) -> RecordStore:
    """Return the record store that `url` names; the caller closes it.

        file:///shared/vm1      a directory that both hosts see
        etcd://HOST,HOST,HOST   a cluster of etcd v3; see etcdhttp.parse_etcd_url for TLS and passwords
        memory:NAME             within this process, for tests

    With ?known=FOLDER, a folder of this host, the newest record is kept there, too, and an older one is refused also
    after a restart (known.py). Raises ConfigError if the URL names none, ArbiterError if it cannot be opened.
    """
    asked, known = _split_known(url)
    store = _opener_of(asked)(asked)
    if known is None:
        return store
    try:
        return KnownRecordStore(store, known)
    except ArbiterError:
        store.close()
        raise


def check_record_url(url: str) -> None:
    """Raise ConfigError unless `url` names a record store that two processes can share; asks none."""
    _opener_of(url)
    if url.startswith("memory:"):
        raise ConfigError(
            f"arbiter {url!r} exists in one process only, and the other host cannot see it: "
            f"write one of: {', '.join(_EXAMPLES.values())}"
        )
    asked, _ = _split_known(url)
    if url.startswith("file:"):
        folder_of(asked)
    elif url.startswith("etcd"):
        parse_etcd_url(asked)


def folder_of(url: str) -> str:
    """Return the directory that a file: URL names; raises ConfigError."""
    parts = urlsplit(_split_known(url)[0])
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise ConfigError(f"arbiter {url!r}: write file:// and an absolute path, e.g. {_EXAMPLES['file']}")
    return unquote(parts.path)


def _split_known(url: str) -> tuple[str, Path | None]:
    """Return the URL without known=, and the folder that this names; raises ConfigError if that is no absolute path."""
    head, mark, query = url.partition("?")
    options = [option for option in query.split("&") if option] if mark else []
    named = [unquote(option.removeprefix("known=")) for option in options if option.startswith("known=")]
    if not named:
        return url, None
    if len(named) > 1 or not named[0].startswith("/"):
        raise ConfigError(f"arbiter {url!r}: write known= once, and an absolute path, e.g. ?known=/var/lib/ftvm")
    others = [option for option in options if not option.startswith("known=")]
    return head + ("?" + "&".join(others) if others else ""), Path(named[0])


def _opener_of(url: str) -> Callable[[str], RecordStore]:
    try:
        urlsplit(url)
    except ValueError as wrong:  # a bracket that is not closed, say
        raise ConfigError(f"arbiter {url!r} is not a URL: {wrong}") from wrong
    scheme, _, rest = url.partition(":")
    opener = _OPENERS.get(scheme)
    if opener is None or not rest:
        known = ", ".join(_EXAMPLES.values())
        raise ConfigError(f"arbiter {url!r} has an unknown scheme; write one of: {known}")
    return opener


def _open_file(url: str) -> RecordStore:
    return FileRecordStore(folder_of(url))


def _open_etcd(url: str) -> RecordStore:
    return EtcdRecordStore(parse_etcd_url(url))


def _open_memory(url: str) -> RecordStore:
    return MemoryRecordStore.named(url.partition(":")[2])


_OPENERS: Final[dict[str, Callable[[str], RecordStore]]] = {
    "file": _open_file,
    "etcd": _open_etcd,
    "etcds": _open_etcd,
    "memory": _open_memory,
}
_EXAMPLES: Final = {
    "file": "file:///shared/vm1",
    "etcd": "etcd://HOST:PORT,HOST:PORT",
    "etcds": "etcds://HOST:PORT",
}
