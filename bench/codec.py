"""The page codec and the page hash beside memcpy, a full compare, XBZRLE and LZ4, on pages that real programs changed.

python bench/codec.py [--json] [--pages 2048]
"""

import argparse
import mmap
from typing import Any

import lz4.block
import xxhash
from common import Row, fastest, geometric_mean, report
from corpus import Corpus, corpora, missing
from peers import open_peers, system_lz4

from ftvm._native import ffi, lib

try:
    import zstandard
except ImportError:
    zstandard = None

PAGE = 4096
LZ4_PIECE = 64 << 10
ENCODE_VS_COMPARE = {"avx512": "<= 1.2", "avx2": "<= 1.5"}
ENCODE_VS_COPY = {"avx512": "<= 1.0", "avx2": "<= 1.25"}


def codec_names() -> tuple[str, ...]:
    """The scalar reference first, the one in use last."""
    names: list[str] = []
    while (codec := lib.ftvm_delta_codec(len(names))) != ffi.NULL:
        names.append(ffi.string(codec.name).decode())
    return tuple(names)


def page_aligned(content: bytes) -> mmap.mmap:
    """Guest memory and shadows are page-aligned; memcpy and the codecs depend on it."""
    memory = mmap.mmap(-1, len(content), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = content
    return memory


class Bench:
    """One corpus in memory that C can reach, and the loops over it."""

    def __init__(self, corpus: Corpus, peers: Any) -> None:
        self.peers, self.pages = peers, corpus.page_count
        self.kept = [page_aligned(part) for part in (corpus.older, corpus.newer, corpus.older, corpus.older)]
        self.older, self.newer, self.base, self.target = (
            peers.ffi.from_buffer("uint8_t[]", part) for part in self.kept
        )
        self.payload = peers.ffi.new("uint8_t[]", self.pages * (PAGE + 64) + 8192)
        self.lengths = peers.ffi.new("uint16_t[]", self.pages)
        self.scratch = peers.ffi.new("uint8_t[]", 2 * PAGE)
        self.is_forward = False

    def encode(self, function: int) -> int:
        """Encode all pages. The base becomes the newer version, so each call goes the other way round."""
        self.is_forward = not self.is_forward
        source = self.newer if self.is_forward else self.older
        return int(self.peers.lib.peer_encode(function, source, self.base, self.pages, self.payload, self.lengths))

    def compare(self) -> None:
        self.peers.lib.peer_compare(self.older, self.newer, self.pages * PAGE)

    def copy(self) -> None:
        self.peers.lib.peer_copy(self.newer, self.target, self.pages)


def measure_corpus(corpus: Corpus, peers: Any) -> dict[str, float]:
    """Return seconds, bytes and ratios by name."""
    bench = Bench(corpus, peers)
    found: dict[str, float] = {}
    codec_functions = [
        (name, *(int(ffi.cast("uintptr_t", function)) for function in (codec.encode, codec.decode)))
        for number, name in enumerate(codec_names())
        for codec in [lib.ftvm_delta_codec(number)]
    ]
    contenders = {
        f"encode {name}": lambda function=encode: bench.encode(function) for name, encode, _ in codec_functions
    }
    contenders |= {
        "xbzrle": lambda: peers.lib.peer_xbzrle(bench.older, bench.newer, bench.pages, bench.scratch),
        "compare": bench.compare,
        "copy": bench.copy,
    }
    found |= fastest(contenders, 12)
    found["bytes xbzrle"] = peers.lib.peer_xbzrle(bench.older, bench.newer, bench.pages, bench.scratch)
    bench.base[0 : len(bench.base)] = bench.older
    bench.is_forward = False
    found["bytes delta"] = payload_bytes = bench.encode(codec_functions[-1][1])
    contenders = {
        f"decode {name}": lambda function=decode: peers.lib.peer_decode(
            function, bench.payload, payload_bytes, bench.lengths, bench.pages, bench.base
        )
        for name, _, decode in codec_functions
    }
    found |= fastest(contenders)
    return found | measure_lz4(bench) | measure_second_stage(bench, payload_bytes)


def measure_lz4(bench: Bench) -> dict[str, float]:
    functions = system_lz4()
    if functions is None:
        return {}
    payload = bench.peers.ffi.new("uint8_t[]", bench.pages * (PAGE + 64) + 8192)
    lengths = bench.peers.ffi.new("uint16_t[]", bench.pages)
    lib_ = bench.peers.lib
    size = lib_.peer_lz4_compress(functions[0], bench.older, bench.newer, bench.pages, payload, lengths)
    run = {
        "decode lz4": lambda: lib_.peer_lz4_decompress(functions[1], payload, lengths, bench.pages, bench.base),
        "encode lz4": lambda: lib_.peer_lz4_compress(
            functions[0], bench.older, bench.newer, bench.pages, payload, lengths
        ),
    }
    return {"bytes lz4": size} | fastest(run)


def measure_second_stage(bench: Bench, payload_bytes: int) -> dict[str, float]:
    """LZ4 over the deltas, 64 KiB at a time, as ftvm.encode.compress does; zstd of each XORed page beside it."""
    deltas = bytes(bench.peers.ffi.buffer(bench.payload, payload_bytes))
    pieces = [deltas[at : at + LZ4_PIECE] for at in range(0, len(deltas), LZ4_PIECE)]
    found: dict[str, float] = {"bytes packed": sum(len(pack(piece)) for piece in pieces)}
    found |= {"pack": fastest({"pack": lambda: [pack(piece) for piece in pieces]})["pack"]}
    if zstandard is None:
        return found
    older, newer = (int.from_bytes(part, "little") for part in bench.kept[:2])
    mixed = (older ^ newer).to_bytes(bench.pages * PAGE, "little")
    pages = [mixed[at : at + PAGE] for at in range(0, len(mixed), PAGE)]
    compress = zstandard.ZstdCompressor(level=1).compress
    found["bytes zstd"] = sum(len(compress(page)) for page in pages)
    return found | fastest({"encode zstd": lambda: [compress(page) for page in pages]}, 3)


def pack(piece: bytes) -> bytes:
    return bytes(lz4.block.compress(piece, mode="fast", store_size=False))


def speed(pages: int, seconds: float) -> float:
    return pages * PAGE / seconds / 1e9


def corpus_rows(corpus: Corpus, found: dict[str, float]) -> list[Row]:
    best, pages = codec_names()[-1], corpus.page_count
    rows = [
        Row(
            name=f"{corpus.name}: encode {name}",
            value=speed(pages, found[f"encode {name}"]),
            unit="GB/s",
            peer=peer,
            peer_value=speed(pages, found[peer]),
        )
        for name in codec_names()
        for peer in ("compare",)
    ]
    rows += [
        Row(
            name=f"{corpus.name}: bytes a page",
            value=found["bytes delta"] / pages,
            unit="B",
            peer="xbzrle",
            peer_value=found["bytes xbzrle"] / pages,
            goal="<= 1.001",
            note=f"{pages} pages",
        ),
        Row(
            name=f"{corpus.name}: decode {best}",
            value=speed(pages, found[f"decode {best}"]),
            unit="GB/s",
            peer="lz4 of the XORed page",
            peer_value=speed(pages, found["decode lz4"]) if "decode lz4" in found else None,
        ),
    ]
    packed_seconds = found[f"encode {best}"] + found["pack"]
    has_zstd = "bytes zstd" in found
    rows += [
        Row(
            name=f"{corpus.name}: bytes a page, LZ4 behind",
            value=found["bytes packed"] / pages,
            unit="B",
            peer="zstd -1 of the XORed page",
            peer_value=found["bytes zstd"] / pages if has_zstd else None,
            note="" if has_zstd else "zstandard is not installed",
        ),
        Row(
            name=f"{corpus.name}: encode {best}, LZ4 behind",
            value=speed(pages, packed_seconds),
            unit="GB/s",
            peer="zstd -1 of the XORed page",
            peer_value=speed(pages, found["encode zstd"]) if has_zstd else None,
        ),
    ]
    return rows


def mean_rows(all_found: list[dict[str, float]]) -> list[Row]:
    best = codec_names()[-1]

    def mean(name: str) -> float:
        return geometric_mean([found[name] for found in all_found])

    rows = []
    for name in codec_names()[1:]:
        for peer, goals in (("compare", ENCODE_VS_COMPARE), ("copy", ENCODE_VS_COPY)):
            value, peer_value = mean(f"encode {name}") * 1e3, mean(peer) * 1e3
            row = Row(name=f"MEAN encode time, {name}", value=value, unit="ms", peer=peer, peer_value=peer_value)
            rows.append(Row(**_fields(row) | {"goal": goals.get(name)}))
    has_lz4 = all("decode lz4" in found for found in all_found)
    rows += [
        Row(
            name="MEAN bytes of all pages",
            value=mean("bytes delta"),
            unit="B",
            peer="xbzrle",
            peer_value=mean("bytes xbzrle"),
            goal="<= 0.92",
        ),
        Row(
            name=f"MEAN decode rate, {best}",
            value=1 / mean(f"decode {best}"),
            unit="runs/s",
            peer="lz4 of the XORed page",
            peer_value=1 / mean("decode lz4") if has_lz4 else None,
            goal=">= 5",
            note="" if has_lz4 else "the system has no liblz4",
        ),
    ]
    return rows


def _fields(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Row.__slots__}


def hash_rows(corpus: Corpus) -> list[Row]:
    page = corpus.newer[:PAGE]
    native, digest = ffi.from_buffer("uint8_t[]", page), ffi.new("struct ftvm_digest *")
    best = 0
    while lib.ftvm_digest_page_by(best + 1, native, 0, digest) == 0:
        best += 1
    contenders = {
        "ours": lambda: [lib.ftvm_digest_page_by(best, native, 1, digest) for _ in range(2000)],
        "xxhash": lambda: [xxhash.xxh3_128_intdigest(page, 1) for _ in range(2000)],
    }
    found = fastest(contenders)
    value, peer_value = (found[name] / 2000 * 1e9 for name in ("ours", "xxhash"))
    return [
        Row(
            name="page hash XXH3-128, a call from Python each",
            value=value,
            unit="ns",
            peer="the xxhash package",
            peer_value=peer_value,
        )
    ]


def measure(arguments: argparse.Namespace) -> list[Row]:
    peers = open_peers()
    rows: list[Row] = []
    all_found = []
    for corpus in corpora(arguments.pages):
        all_found.append(measure_corpus(corpus, peers))
        rows += corpus_rows(corpus, all_found[-1])
    rows += [Row(name=reason, value=None, unit="", peer="", note="not measured") for reason in missing()]
    return rows + mean_rows(all_found) + hash_rows(corpus)


if __name__ == "__main__":
    report("Page codec, on pages that real programs changed in 25 ms", measure, ("pages", int, 2048))
