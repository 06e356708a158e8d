"""What a person calls a host: the name of its node, which stands in front of each id of its replicas: `NAME#RANDOM`.

So the record and every message know by name who is meant, and none had to change for it. Protocol code compares ids,
and reads no name in them. Hosts of 0.1 have ids without a name.
"""

import os
import re
import secrets
from typing import Final

from ftvm.errors import ConfigError

__all__ = ["check_node", "for_people", "fresh_id", "machine_name", "node_of"]

NODE_CHARS_MAX: Final = 32
_NODE: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{NODE_CHARS_MAX}}}")
_MARK: Final = "#"
_RANDOM_BYTES: Final = 8
_RANDOM: Final = re.compile(rf"(?<=[A-Za-z0-9._-]){_MARK}[0-9a-f]{{{2 * _RANDOM_BYTES}}}\b")


def machine_name() -> str:
    """Return this machine's host name, as far as it can be a node's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)[:NODE_CHARS_MAX] or "host"


def check_node(name: str) -> None:
    """Raise ConfigError unless this can be a node's name."""
    if _NODE.fullmatch(name) is None:
        raise ConfigError(f"node {name!r}: write 1 to {NODE_CHARS_MAX} letters, digits, dots, dashes and underscores")


def fresh_id(node: str) -> str:
    """Return an id for a replica on this node that no other has."""
    return f"{node}{_MARK}{secrets.token_hex(_RANDOM_BYTES)}"


def node_of(replica_id: str) -> str:
    """Return the name of the node that a replica is on; the id itself if it has no name in it."""
    return replica_id.rpartition(_MARK)[0] or replica_id


def for_people(text: str) -> str:
    """Return a text with nodes' names where it has replica ids: the random part of an id says nothing to a person."""
    return _RANDOM.sub("", text)
