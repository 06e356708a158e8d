"""The messages that are a header and nothing else: how a pair comes together, stays in touch and parts."""

from typing import Final

from ftvm.checkpoint import PAGE_COUNT_MAX, Geometry, RegionShape
from ftvm.config import Limits
from ftvm.encode.codec import Codec, Frames, Header, Packed, expect_no_frames
from ftvm.encode.fields import (
    DIGEST_BYTES,
    TEXT_CHARS_MAX,
    read_digest,
    read_fields,
    read_flag,
    read_identity,
    read_list,
    read_number,
    read_text,
)
from ftvm.encode.messages import Ack, Join, Leave, Ping, Pong, Prepare, Prepared, Refuse, Welcome
from ftvm.errors import BadFrame, ConfigError
from ftvm.units import PageCount

__all__ = ["PLAIN_MESSAGES"]


def _pack_join(message: Join) -> Packed:
    regions = [[region.name, region.page_count] for region in message.geometry.regions]
    return [message.geometry.machine, regions, list(message.engines), message.staging_bytes], []


def _unpack_region(value: object, name: str) -> RegionShape:
    region, pages = read_fields(value, 2, name)
    return RegionShape(
        name=read_text(region, "region name"), page_count=PageCount(read_number(pages, "page count", PAGE_COUNT_MAX))
    )


def _unpack_join(fields: Header, frames: Frames, _: Limits) -> Join:
    machine, regions, engines, staging_bytes = read_fields(fields, 4, "join")
    expect_no_frames(frames)
    try:
        geometry = Geometry(
            machine=read_text(machine, "machine"),
            regions=read_list(_unpack_region, regions, "regions"),
        )
    except ConfigError as wrong:
        raise BadFrame(f"geometry: {wrong}") from wrong
    return Join(
        geometry=geometry,
        engines=read_list(read_identity, engines, "engines"),
        staging_bytes=read_number(staging_bytes, "staging bound"),
    )


def _pack_welcome(message: Welcome) -> Packed:
    return [message.joiner, list(message.engines), message.staging_bytes], []


def _unpack_welcome(fields: Header, frames: Frames, _: Limits) -> Welcome:
    joiner, engines, staging_bytes = read_fields(fields, 3, "welcome")
    expect_no_frames(frames)
    return Welcome(
        joiner=read_identity(joiner, "joiner"),
        engines=read_list(read_identity, engines, "engines"),
        staging_bytes=read_number(staging_bytes, "staging bound"),
    )


def _pack_refuse(message: Refuse) -> Packed:
    return [message.joiner, message.reason[:TEXT_CHARS_MAX], message.is_final], []


def _unpack_refuse(fields: Header, frames: Frames, _: Limits) -> Refuse:
    joiner, reason, is_final = read_fields(fields, 3, "refuse")
    expect_no_frames(frames)
    return Refuse(
        joiner=read_identity(joiner, "joiner"),
        reason=read_text(reason, "reason"),
        is_final=read_flag(is_final, "final"),
    )


def _pack_ack(message: Ack) -> Packed:
    digest = message.memory_digest.to_bytes(DIGEST_BYTES, "little")
    return [message.received, message.epoch, message.log_index, digest], []


def _unpack_ack(fields: Header, frames: Frames, _: Limits) -> Ack:
    received, epoch, log_index, digest = read_fields(fields, 4, "ack")
    expect_no_frames(frames)
    return Ack(
        received=read_number(received, "received"),
        epoch=read_number(epoch, "epoch"),
        log_index=read_number(log_index, "log index"),
        memory_digest=int.from_bytes(read_digest(digest, "memory digest"), "little"),
    )


def _pack_ping(message: Ping) -> Packed:
    return [message.number], []


def _unpack_ping(fields: Header, frames: Frames, _: Limits) -> Ping:
    (number,) = read_fields(fields, 1, "ping")
    expect_no_frames(frames)
    return Ping(number=read_number(number, "ping"))


def _pack_pong(message: Pong) -> Packed:
    return [message.number], []


def _unpack_pong(fields: Header, frames: Frames, _: Limits) -> Pong:
    (number,) = read_fields(fields, 1, "pong")
    expect_no_frames(frames)
    return Pong(number=read_number(number, "pong"))


def _pack_prepare(message: Prepare) -> Packed:
    return [message.epoch], []


def _unpack_prepare(fields: Header, frames: Frames, _: Limits) -> Prepare:
    (epoch,) = read_fields(fields, 1, "prepare")
    expect_no_frames(frames)
    return Prepare(epoch=read_number(epoch, "epoch"))


def _pack_prepared(message: Prepared) -> Packed:
    return [message.epoch, message.error[:TEXT_CHARS_MAX]], []


def _unpack_prepared(fields: Header, frames: Frames, _: Limits) -> Prepared:
    epoch, error = read_fields(fields, 2, "prepared")
    expect_no_frames(frames)
    return Prepared(
        epoch=read_number(epoch, "epoch"),
        error=read_text(error, "error"),
    )


def _pack_leave(message: Leave) -> Packed:
    return [message.reason[:TEXT_CHARS_MAX], message.is_end], []


def _unpack_leave(fields: Header, frames: Frames, _: Limits) -> Leave:
    reason, is_end = read_fields(fields, 2, "leave")
    expect_no_frames(frames)
    return Leave(reason=read_text(reason, "reason"), is_end=read_flag(is_end, "end"))


PLAIN_MESSAGES: Final = (
    Codec(1, Join, _pack_join, _unpack_join),
    Codec(2, Welcome, _pack_welcome, _unpack_welcome),
    Codec(3, Refuse, _pack_refuse, _unpack_refuse),
    Codec(6, Ack, _pack_ack, _unpack_ack),
    Codec(7, Ping, _pack_ping, _unpack_ping),
    Codec(8, Pong, _pack_pong, _unpack_pong),
    Codec(9, Leave, _pack_leave, _unpack_leave),
    Codec(11, Prepare, _pack_prepare, _unpack_prepare),
    Codec(12, Prepared, _pack_prepared, _unpack_prepared),
)
