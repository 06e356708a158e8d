"""Encryption of a history: AES-256-GCM over each record of a segment. A history holds all that was in memory.

The key is a file of 64 hexadecimal digits, which only its owner may read. A record is bound to its segment and its
place there (associated data), so that records cannot be moved about unnoticed; its nonce is drawn by chance, which is
safe for 2**32 records under one key. The catalogue is not encrypted: times, epochs and sizes can be seen.

Needs the package `cryptography` (extra `history`). Source: NIST SP 800-38D, 8.2.2 and 8.3.
"""

import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import Any, Final, Protocol

from ftvm.errors import ConfigError, HistoryError

__all__ = ["PLAIN", "AesSealer", "PlainSealer", "Sealer", "load_key", "make_key"]

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Sealer(Protocol):
    """Turns what is to be stored into what is stored, and back."""

    @property
    def key_id(self) -> str:
        """Names the key without telling it; empty without one."""
        ...

    def seal(self, content: bytes, place: bytes) -> bytes:
        """Return what to store at `place`."""
        ...

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Return what was sealed. Raises HistoryError if it was changed, or is of another place or key."""
        ...


class PlainSealer:
    """No encryption."""

    key_id = ""

    def seal(self, content: bytes, place: bytes) -> bytes:
        """See Sealer."""
        del place
        return content

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """See Sealer."""
        del place
        return sealed


PLAIN: Final = PlainSealer()


class AesSealer:
    """AES-256-GCM with one key."""

    def __init__(self, key: bytes) -> None:
        """Take 32 bytes. Raises ConfigError without the package that knows AES."""
        if len(key) != KEY_BYTES:
            raise ConfigError(f"a history's key has {KEY_BYTES} bytes, not {len(key)}")
        self._cipher = _cipher(key)
        self.key_id = hashlib.sha256(b"ftvm history key" + key).hexdigest()[:16]

    def seal(self, content: bytes, place: bytes) -> bytes:
        """See Sealer."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + bytes(self._cipher.encrypt(nonce, content, place))

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """See Sealer."""
        try:
            return bytes(self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place))
        except Exception as wrong:
            if type(wrong).__name__ not in ("InvalidTag", "ValueError"):
                raise
            raise HistoryError("a record does not decrypt: it was changed, or sealed with another key") from wrong


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as missing:
        raise ConfigError(
            "an encrypted history needs the package cryptography: pip install 'ftvm[history]'"
        ) from missing
    return AESGCM(key)


def make_key(path: Path) -> None:
    """Write a new key to `path`, which must not exist, for its owner alone. Raises ConfigError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(descriptor)  # a power cut must not leave a history without its key
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as wrong:
        raise ConfigError(f"the key {path} cannot be written: {wrong.strerror}") from wrong


def load_key(path: Path) -> AesSealer:
    """Read a key. Raises ConfigError if it is not a key, or others may read it."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as wrong:
        raise ConfigError(f"the key {path} cannot be read: {wrong.strerror}") from wrong
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"others may read the key {path}: chmod 600 {path}")
    try:
        return AesSealer(bytes.fromhex(text))
    except ValueError as wrong:
        raise ConfigError(f"{path} is no key of a history: it holds 64 hexadecimal digits") from wrong
