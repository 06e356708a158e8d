"""The C core, and nothing else: `lib` and `ffi` as cffi generated them from the .cdef files.

Each native noun (bitmap, delta, digest, ...) has one Python module that wraps it; only that module imports from here.
The headers beside this file are the manual.
"""

from ftvm._native._core import ffi, lib

__all__ = ["ffi", "lib"]
