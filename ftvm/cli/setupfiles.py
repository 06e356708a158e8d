"""The folders that `ftvm setup` writes: for each node of a guest a guest file, its key, and the others' public keys.

All are made aside, read as a host would read them, and only then named: a mistake leaves nothing behind. Knows nothing
of questions and options.
"""

import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ftvm.cli.kinds import all_settings, read_host
from ftvm.errors import ConfigError, FtvmError
from ftvm.transport.keys import write_keypair

__all__ = ["DEFAULT_PORT", "PlannedHost", "file_name", "parse_node", "setting_of", "write_folders"]

DEFAULT_PORT: Final = 7777
_PORT_MAX: Final = 65_535
_NAME_CHARS_MAX: Final = 24
"""Room for a port behind it, within what a node's name may have."""
_MADE_LATER: Final = frozenset({"disk", "program"})
"""Settings that name files which may still be to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedHost:
    """One host of a guest: where the others reach it."""

    host: str
    port: int
    name: str
    """Of its folder and its key; no other node has it."""

    @property
    def endpoint(self) -> str:
        """Where its peers connect."""
        return f"tcp://{self.host}:{self.port}"

    @property
    def listen(self) -> str:
        """Where it listens: at all addresses of its machine, unless it can be reached from this machine alone."""
        is_loopback = self.host in ("localhost", "[::1]") or self.host.startswith("127.")
        everywhere = "[::]" if self.host.startswith("[") else "0.0.0.0"
        return self.endpoint if is_loopback else f"tcp://{everywhere}:{self.port}"


def parse_node(text: str, others: Sequence[PlannedHost] = ()) -> PlannedHost:
    """Return the node that HOST or HOST:PORT names; raises ConfigError for nonsense, or one that there is already."""
    found = re.fullmatch(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?", text)
    port = int(found["port"] or DEFAULT_PORT) if found else 0
    if found is None or not 0 < port <= _PORT_MAX:
        raise ConfigError(f"node {text!r}: write HOST or HOST:PORT, e.g. host-a or host-a:{DEFAULT_PORT}")
    plain = re.sub(r"[^A-Za-z0-9_.-]", "", found["host"])[:_NAME_CHARS_MAX] or "host"
    node = PlannedHost(host=found["host"], port=port, name=plain)
    if any(node.endpoint == other.endpoint for other in others):
        raise ConfigError(f"node {text!r} is there twice: each host needs its own address, or its own port")
    if any(plain == other.name for other in others):
        node = PlannedHost(host=node.host, port=port, name=f"{plain}-{port}")
    return node


def setting_of(text: str, kind: str) -> tuple[str, Any]:
    """Return the setting of a kind of guest that NAME=VALUE says, its value as a guest file has it; of a list the
    values stand between commas. Raises ConfigError."""
    name, is_given, written = text.partition("=")
    rows = dict(all_settings().get(name, ()))
    if not is_given or not rows:
        raise ConfigError(f"--set {text!r}: write NAME=VALUE; the names are those of a guest file")
    match rows.get(kind, next(iter(rows.values()))).written:
        case "number":
            try:
                return name, float(written)
            except ValueError as wrong:
                raise ConfigError(f"--set {text!r}: {name} is a number") from wrong
        case "texts" | "one or more":
            return name, [part for part in written.split(",") if part]
        case "flag":
            return name, written == "true"
        case _:
            return name, written


def file_name(guest: str) -> str:
    """Return the name of a guest's file."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', guest)}.toml"


def write_folders(
    folder: Path, nodes: Sequence[PlannedHost], *, guest: str, kind: str, arbiter: str, settings: Mapping[str, Any]
) -> None:
    """Write a folder for each node into `folder`, which must not exist.

    `settings` are the others, by name, the same on all nodes. Raises ConfigError for one that is wrong, or if something
    cannot be written: then nothing of it is left behind.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists, and nothing is overwritten: move it away, or choose another with --folder")
    if settings.get("nic") is not None and "mac" not in settings:
        settings = {**settings, "mac": _own_mac()}
    said = {"kind": kind, "guest": guest, "arbiter": arbiter, **settings}
    try:
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            _write_all(aside, nodes, guest, said)
            aside.rename(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    except OSError as wrong:
        raise ConfigError(f"{folder} cannot be written: {wrong.strerror}") from wrong


def _write_all(aside: Path, nodes: Sequence[PlannedHost], guest: str, said: Mapping[str, Any]) -> None:
    for node in nodes:
        (aside / node.name).mkdir(mode=0o700)
        write_keypair(aside / node.name / node.name)
    for number, node in enumerate(nodes):
        others = [other for other in nodes if other is not node]
        for other in others:
            shutil.copy2(aside / other.name / f"{other.name}.pub", aside / node.name)
        path = aside / node.name / file_name(guest)
        path.write_text(_text(node, others, said), encoding="utf-8")
        _check(path, is_first=number == 0)


def _text(node: PlannedHost, others: Sequence[PlannedHost], said: Mapping[str, Any]) -> str:
    """Return a node's guest file. With several peers each is written with the key that answers there."""
    one = len(others) == 1
    own = {
        "node": node.name,
        "listen": node.listen,
        "peer": [other.endpoint if one else f"{other.endpoint}={other.name}.pub" for other in others],
        "key": f"{node.name}.key",
        "allow": [f"{other.name}.pub" for other in others],
    }
    lines = [f"{name} = {_written(value)}" for name, value in {**said, **own}.items()]
    return "\n".join(
        [f"# {node.name}'s guest file, by `ftvm setup`. Relative paths count from its folder.", *lines, ""]
    )


def _written(value: object) -> str:
    """Return a value as TOML: its strings, lists and numbers are written as JSON's."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _check(path: Path, *, is_first: bool) -> None:
    """Read a file as its host would; raise one ConfigError that names what is wrong."""
    problems: dict[str, FtvmError] = read_host(path, {}, boots=is_first).problems
    wrong = [f"{name}: {problem}" for name, problem in problems.items() if name not in _MADE_LATER]
    if wrong:
        raise ConfigError("; ".join(wrong))


def _own_mac() -> str:
    """Return an address that no other guest on the network has, by chance."""
    return ":".join(["52:54:00", *(f"{byte:02x}" for byte in secrets.token_bytes(3))])
