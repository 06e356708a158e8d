"""The messages that are a header and nothing else: how a pair comes together, stays in touch and parts."""

import re
from typing import Final

from ftvm.checkpoint import PAGE_COUNT_MAX, Geometry, RegionShape
from ftvm.config import Limits
from ftvm.encode.codec import Codec, Frames, Header, Packed
from ftvm.encode.fields import (
    DIGEST_BYTES,
    TEXT_CHARS_MAX,
    read_digest,
    read_fields,
    read_flag,
    read_identity,
    read_list,
    read_number,
    read_numbers,
    read_text,
)
from ftvm.encode.messages import Ack, Greeting, Join, Leave, Ping, Pong, Prepare, Prepared, Refuse, Welcome
from ftvm.encode.versions import (
    CACHE,
    add_names,
    add_offer,
    add_place,
    place_named,
    place_text,
    take_name,
    take_names,
    take_offer,
    take_place,
)
from ftvm.errors import BadFrame, ConfigError
from ftvm.units import PageCount

__all__ = ["NOBODY", "PLAIN_MESSAGES", "as_refuse"]

NOBODY: Final = "?"
"""No replica has this id."""

_HELLO: Final = re.compile(r"hello ([0-9a-f]{32}|none|unknown) (empty|syncing|standby|active)")


def _pack_join(message: Join) -> Packed:
    regions = [[region.name, region.page_count] for region in message.geometry.regions]
    names = add_offer(message.engines, message.versions) + add_names("image", message.images)
    names = add_place(names, message.place) + [CACHE] * message.has_cache
    return [message.geometry.machine, regions, names, message.staging_bytes], []


def _unpack_region(value: object, name: str) -> RegionShape:
    region, pages = read_fields(value, 2, name)
    return RegionShape(
        name=read_text(region, "region name"), page_count=PageCount(read_number(pages, "page count", PAGE_COUNT_MAX))
    )


def _unpack_join(fields: Header, _: Frames, __: Limits) -> Join:
    machine, regions, engines, staging_bytes = fields
    try:
        geometry = Geometry(
            machine=read_text(machine, "machine"),
            regions=read_list(_unpack_region, regions, "regions"),
        )
    except ConfigError as wrong:
        raise BadFrame(f"geometry: {wrong}") from wrong
    names, place = take_place(read_list(read_identity, engines, "engines"))
    names, versions = take_offer(names)
    names, images = take_names("image", names)
    names, has_cache = take_name(CACHE, names)
    return Join(
        geometry=geometry,
        engines=names,
        staging_bytes=read_number(staging_bytes, "staging bound"),
        versions=versions,
        images=images,
        place=place,
        has_cache=has_cache,
    )


def _pack_welcome(message: Welcome) -> Packed:
    names = add_offer(message.engines, message.versions)
    names += add_names("lineage", (message.lineage,) if message.lineage else ())
    names += [CACHE] * message.takes_cache
    return [message.joiner, names, message.staging_bytes], []


def _unpack_welcome(fields: Header, _: Frames, __: Limits) -> Welcome:
    joiner, engines, staging_bytes = fields
    names, versions = take_offer(read_list(read_identity, engines, "engines"))
    names, lineages = take_names("lineage", names)
    if len(lineages) > 1:
        raise BadFrame(f"{len(lineages)} lineages, not one")
    names, takes_cache = take_name(CACHE, names)
    return Welcome(
        joiner=read_identity(joiner, "joiner"),
        engines=names,
        staging_bytes=read_number(staging_bytes, "staging bound"),
        versions=versions,
        lineage=lineages[0] if lineages else "",
        takes_cache=takes_cache,
    )


def _pack_refuse(message: Refuse) -> Packed:
    return [message.joiner, message.reason[:TEXT_CHARS_MAX], message.is_final], []


def _unpack_refuse(fields: Header, _: Frames, __: Limits) -> Refuse | Greeting:
    joiner, reason, is_final = fields
    refuse = Refuse(
        joiner=read_identity(joiner, "joiner"),
        reason=read_text(reason, "reason"),
        is_final=read_flag(is_final, "final"),
    )
    hello = _HELLO.fullmatch(refuse.reason) if refuse.joiner == NOBODY and not refuse.is_final else None
    if hello is None:
        return refuse
    return Greeting(place=None if hello[1] == "unknown" else place_named(hello[1]), role=hello[2])


def as_refuse(hello: Greeting) -> Refuse:
    """Return the REFUSE that a HELLO goes as: of nobody, so that who knows nothing of it drops it, whatever it is."""
    place = "unknown" if hello.place is None else place_text(hello.place)
    return Refuse(joiner=NOBODY, reason=f"hello {place} {hello.role}", is_final=False)


def _pack_ack(message: Ack) -> Packed:
    digest = message.memory_digest.to_bytes(DIGEST_BYTES, "little")
    return [message.received, message.epoch, message.log_index, digest], []


def _unpack_ack(fields: Header, _: Frames, __: Limits) -> Ack:
    received, epoch, log_index, digest = fields
    read_numbers((received, epoch, log_index), "received, epoch, log index")
    return Ack(
        received=received,
        epoch=epoch,
        log_index=log_index,
        memory_digest=int.from_bytes(read_digest(digest, "memory digest"), "little"),
    )


def _pack_ping(message: Ping) -> Packed:
    return [message.number], []


def _unpack_ping(fields: Header, _: Frames, __: Limits) -> Ping:
    (number,) = fields
    return Ping(number=read_number(number, "ping"))


def _pack_pong(message: Pong) -> Packed:
    return [message.number], []


def _unpack_pong(fields: Header, _: Frames, __: Limits) -> Pong:
    (number,) = fields
    return Pong(number=read_number(number, "pong"))


def _pack_prepare(message: Prepare) -> Packed:
    return [message.epoch], []


def _unpack_prepare(fields: Header, _: Frames, __: Limits) -> Prepare:
    (epoch,) = fields
    return Prepare(epoch=read_number(epoch, "epoch"))


def _pack_prepared(message: Prepared) -> Packed:
    return [message.epoch, message.error[:TEXT_CHARS_MAX]], []


def _unpack_prepared(fields: Header, _: Frames, __: Limits) -> Prepared:
    epoch, error = fields
    return Prepared(
        epoch=read_number(epoch, "epoch"),
        error=read_text(error, "error"),
    )


def _pack_leave(message: Leave) -> Packed:
    return [message.reason[:TEXT_CHARS_MAX], message.is_end], []


def _unpack_leave(fields: Header, _: Frames, __: Limits) -> Leave:
    reason, is_end = fields
    return Leave(reason=read_text(reason, "reason"), is_end=read_flag(is_end, "end"))


PLAIN_MESSAGES: Final = (
    Codec(1, Join, 4, _pack_join, _unpack_join, is_frozen=True),
    Codec(2, Welcome, 3, _pack_welcome, _unpack_welcome, is_frozen=True),
    Codec(3, Refuse, 3, _pack_refuse, _unpack_refuse, is_frozen=True),
    Codec(6, Ack, 4, _pack_ack, _unpack_ack),
    Codec(7, Ping, 1, _pack_ping, _unpack_ping),
    Codec(8, Pong, 1, _pack_pong, _unpack_pong),
    Codec(9, Leave, 2, _pack_leave, _unpack_leave),
    Codec(11, Prepare, 1, _pack_prepare, _unpack_prepare),
    Codec(12, Prepared, 2, _pack_prepared, _unpack_prepared),
)
