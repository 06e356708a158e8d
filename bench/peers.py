"""Builds bench/peers.c once per version of it, and opens it. Needs a C compiler, as installing ftvm does."""

import ctypes.util
import hashlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import cffi

CDEF = """
uint64_t peer_compare(const uint8_t *a, const uint8_t *b, size_t bytes);
void peer_copy(const uint8_t *from, uint8_t *to, size_t pages);
size_t peer_encode(uintptr_t function, const uint8_t *newer, uint8_t *base, size_t pages, uint8_t *payload,
                   uint16_t *lengths);
int peer_decode(uintptr_t function, const uint8_t *payload, size_t payload_bytes, const uint16_t *lengths, size_t pages,
                uint8_t *page);
size_t peer_xbzrle(const uint8_t *older, const uint8_t *newer, size_t pages, uint8_t *scratch);
size_t peer_lz4_compress(uintptr_t function, const uint8_t *older, const uint8_t *newer, size_t pages, uint8_t *payload,
                         uint16_t *lengths);
int peer_lz4_decompress(uintptr_t function, const uint8_t *payload, const uint16_t *lengths, size_t pages,
                        uint8_t *page);
void peer_touch(uint8_t *memory, size_t pages, size_t first, size_t step, uint64_t value);
void peer_touch_list(uint8_t *memory, const uint32_t *indices, size_t count, uint64_t value);
size_t peer_scan(const uint8_t *memory, const uint8_t *shadow, size_t pages);
void peer_gather(const uint8_t *memory, const uint32_t *indices, size_t count, uint8_t *to);
size_t peer_encode_list(uintptr_t function, const uint8_t *memory, uint8_t *shadow, const uint32_t *indices,
                        size_t count, uint8_t *payload);
size_t peer_three_passes(uintptr_t function, const uint8_t *memory, uint8_t *shadow, const uint32_t *indices,
                         size_t count, uint8_t *staging, uint8_t *bases, uint8_t *payload);
"""


def open_peers() -> Any:
    """Return the module, with `ffi` and `lib`."""
    source = (Path(__file__).parent / "peers.c").read_text()
    # -march=native: a peer must not lose because it was compiled for an older machine than the one it runs on.
    flags = ["-O3", "-march=native"]
    name = "_ftvm_peers_" + hashlib.sha256((source + CDEF + str(flags)).encode()).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / "ftvm-bench"
    found = sorted(directory.glob(f"{name}.*so"))
    if not found:
        ffi = cffi.FFI()
        ffi.cdef(CDEF)
        ffi.set_source(name, source, extra_compile_args=flags)
        found = [Path(ffi.compile(str(directory)))]
    spec = importlib.util.spec_from_file_location(name, found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def system_lz4() -> tuple[int, int] | None:
    """Return the addresses of LZ4_compress_default and LZ4_decompress_safe in the system's liblz4, if it is
    installed."""
    name = ctypes.util.find_library("lz4")
    if name is None:
        return None
    library = ctypes.CDLL(name)
    functions = (library.LZ4_compress_default, library.LZ4_decompress_safe)
    compress, decompress = (ctypes.cast(function, ctypes.c_void_p).value for function in functions)
    return (compress, decompress) if compress and decompress else None
