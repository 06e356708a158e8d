"""The versions of the wire: which there are, which this release speaks, and how two hosts agree on one.

Each side offers the lowest and the highest version that it speaks, in JOIN and in WELCOME; both take the highest that
is in both ranges. A host of version 1 makes no offer: it speaks that one alone.

    version  since    what it changed
    1        v0.1.0   the first one; it refuses a list that is longer than it expects
    2        0.2.0    a list in a header may be longer than its reader expects: what stands behind is ignored. Small
                      acknowledgements, logs and epochs are one frame (wire.py), and the last batch of an epoch
                      travels with its end. A log may also come under an engine that does not need it: for a
                      standby that records. An epoch says where it holds no flush of a disk; one that does not say so
                      counts as if it held one.
                      Not released: what it means may still change until it is tagged.

Frozen for ever, so that any two releases can at least tell each other why they do not work together: the form of JOIN,
WELCOME and REFUSE, and of the header around them, is that of version 1 whatever the hosts speak (FROZEN_FORM stands in
their first place), the offer included. Everything else is in the form of the version agreed on, which stands in the
first place of the header.

To change the wire:

* A field that an older peer may ignore: let the kind's `pack` give it behind the others, count it in `optional` of its
  row (codec.Codec), and take it in `unpack`, where it is None if the peer did not send it. It is not sent in version 1.
* Anything else: raise the highest version of SPOKEN, and add a row for the kind with `since`. Rows of older versions
  stay for as long as SPOKEN names these.

* A new kind of message: a row with `since`, sent in sessions of that version. Outside of a session nobody knows what
  the other side reads, and v0.1.0 soon stops listening to who sends it what it does not know: such a kind may go only
  to a peer that has offered a version with it. HELLO is for whoever is there, so it is no new kind: it goes as a REFUSE
  that refuses nobody, which every release reads and drops (plain.py).

In all cases the golden bytes grow by those of the new form (tests/golden); those of a version that was released never
change.
"""

import re
from dataclasses import dataclass
from typing import Final

from ftvm.errors import BadFrame, ConfigError

__all__ = [
    "CACHE",
    "CACHE_SINCE",
    "DURABLE_SINCE",
    "FIRST",
    "FLAT_SINCE",
    "FROZEN_FORM",
    "NOTED_LOG_SINCE",
    "OPTIONAL_SINCE",
    "SPOKEN",
    "VERSION_MAX",
    "Versions",
    "add_names",
    "add_offer",
    "add_place",
    "place_named",
    "place_text",
    "take_name",
    "take_names",
    "take_offer",
    "take_place",
]

FROZEN_FORM: Final = 1
"""What stands first in every JOIN, WELCOME and REFUSE."""

OPTIONAL_SINCE: Final = 2
"""The first version whose speakers ignore fields that they do not know."""

FLAT_SINCE: Final = 2
"""The first version in which small acknowledgements, logs and epochs go in one frame (wire.py), and in which the last
batch of an epoch travels with its end."""

NOTED_LOG_SINCE: Final = 2
"""The first version whose standbys keep, and do not replay, a log under an engine that does not need it."""

CACHE_SINCE: Final = 2
"""The first version in which a joiner may offer digests of the pages that it still holds (cache.py)."""

DURABLE_SINCE: Final = 2
"""The first version whose standbys acknowledge an epoch that holds a flush only once their disks have it."""

VERSION_MAX: Final = 1 << 16

CACHE: Final = "cache"
"""The name by which JOIN offers what its sender still has of the guest's memory, and WELCOME asks for its digests."""

_IDENTITY: Final = re.compile(r"[0-9a-f]{16}")
_PLACE: Final = re.compile(r"place ([0-9a-f]{32}|none)")
_OFFER: Final = re.compile(r"wire ([0-9]{1,5})-([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Versions:
    """A range of versions of the wire, both ends included. Raises ConfigError if it is empty or out of bounds."""

    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.highest <= VERSION_MAX:
            raise ConfigError(f"wire versions {self.lowest} to {self.highest}: not a range within 1 to {VERSION_MAX}")

    def __str__(self) -> str:
        return f"{self.lowest}" if self.lowest == self.highest else f"{self.lowest} to {self.highest}"

    def __contains__(self, version: int) -> bool:
        return self.lowest <= version <= self.highest

    def common(self, other: "Versions") -> int | None:
        """Return the highest version in both ranges, None if there is no such version."""
        highest = min(self.highest, other.highest)
        return highest if highest in self and highest in other else None


FIRST: Final = Versions(1, 1)
"""What a host speaks that makes no offer."""

SPOKEN: Final = Versions(1, 2)
"""What this release speaks."""


def add_offer(names: tuple[str, ...], versions: Versions) -> list[str]:
    """Return the names of engines as they stand in JOIN and WELCOME: with the offer behind them, as one more name.

    Among the engines because that is the one place where version 1 takes what it does not know.
    """
    offer = [] if versions == FIRST else [f"wire {versions.lowest}-{versions.highest}"]
    return [*names, *offer]


def take_offer(names: tuple[str, ...]) -> tuple[tuple[str, ...], Versions]:
    """Return the names without the offer, and the offer. Raises BadFrame, the peer's fault, if it is not one range."""
    offers = [found for name in names if (found := _OFFER.fullmatch(name))]
    if not offers:
        return names, FIRST
    if len(offers) > 1:
        raise BadFrame(f"{len(offers)} ranges of versions are offered, not one")
    try:
        offered = Versions(int(offers[0][1]), int(offers[0][2]))
    except ConfigError as wrong:
        raise BadFrame(f"the versions offered: {wrong}") from wrong
    return tuple(name for name in names if name != offers[0][0]), offered


def add_names(kind: str, names: tuple[str, ...]) -> list[str]:
    """Return names of another kind as they stand among those of engines, where older peers ignore them."""
    return [f"{kind} {name}" for name in names]


def take_names(kind: str, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the other names, and those of this kind, which are of 16 hex digits."""
    found = {name: name.removeprefix(f"{kind} ") for name in names if name.startswith(f"{kind} ")}
    taken = {name: rest for name, rest in found.items() if _IDENTITY.fullmatch(rest)}
    return tuple(name for name in names if name not in taken), tuple(taken.values())


def take_name(name: str, names: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """Return the other names, and whether this one was among them."""
    return tuple(each for each in names if each != name), name in names


def place_text(place: str) -> str:
    """Return how a place stands in a message: "none" is where the guest has no record."""
    return place or "none"


def place_named(text: str) -> str:
    """Return the place that stands there."""
    return "" if text == "none" else text


def add_place(names: list[str], place: str | None) -> list[str]:
    """Return the names of engines in JOIN with the place of the sender's record, if it knows that, as one more."""
    return names if place is None else [*names, f"place {place_text(place)}"]


def take_place(names: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Return the names without the place, and the place. Raises BadFrame, the peer's fault, if there are several."""
    places = [found for name in names if (found := _PLACE.fullmatch(name))]
    if len(places) > 1:
        raise BadFrame(f"{len(places)} places of a record are named, not one")
    if not places:
        return names, None
    return tuple(name for name in names if name != places[0][0]), place_named(places[0][1])
