"""Key files: NAME.key holds a secret key and is for its owner only, NAME.pub holds the public key and is for the peers.

A file is one line: what it is, a space, the key as Z85 text. A secret key that others may read is refused, not
repaired: somebody may have read it. Nothing is overwritten, and a power cut leaves a key file whole or not at all.
`Keys` is what a transport needs: our key pair, who may connect, and the key of each endpoint that we dial.
"""

import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ftvm.errors import ConfigError
from ftvm.transport.curve import is_key, new_keypair, public_of

__all__ = ["Keys", "generate_keys", "load_keys", "load_public", "load_secret", "write_keypair"]

_PUBLIC_TAG: Final = "ftvm-public-key"
_SECRET_TAG: Final = "ftvm-secret-key"
_FILE_BYTES_MAX: Final = 256
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Who we are and whom we talk to; all keys as Z85 text.

    allowed  the public keys that may connect to us, and nobody else
    servers  endpoint -> public key expected there; an endpoint that is missing needs `allowed` to hold exactly one key
    """

    public: str
    secret: str = field(repr=False)
    allowed: frozenset[str]
    servers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in (self.public, self.secret, *self.allowed, *self.servers.values()):
            if not is_key(key):
                raise ConfigError("a key must be 40 characters of Z85 text, as `ftvm keygen` writes them")
        if public_of(self.secret) != self.public:
            raise ConfigError(f"the secret key does not belong to the public key {self.public}")
        if not self.allowed:
            raise ConfigError("no peer's key is allowed: give at least one .pub file")

    def server_of(self, endpoint: str) -> str:
        """Return the key that must answer at an endpoint; raises ConfigError if that is not known."""
        if endpoint in self.servers:
            return self.servers[endpoint]
        if len(self.allowed) != 1:
            raise ConfigError(
                f"{endpoint}: {len(self.allowed)} keys are allowed; say which of them answers there: "
                f"--peer {endpoint}=FILE.pub, or `servers` of ftvm.load_keys"
            )
        return next(iter(self.allowed))


def generate_keys(count: int) -> tuple[Keys, ...]:
    """Return keys for `count` parties, each allowing all others: for tests and demos on one machine."""
    pairs = [new_keypair() for _ in range(count)]
    everybody = frozenset(public for public, _secret in pairs)
    return tuple(Keys(public=public, secret=secret, allowed=everybody - {public}) for public, secret in pairs)


def load_keys(own: str | Path, peers: Sequence[str | Path], servers: Mapping[str, str | Path] | None = None) -> Keys:
    """Load our secret key file and the peers' public ones; raises ConfigError that names the file and the remedy.

    `servers` maps an endpoint to the public key file of who answers there; those keys are allowed to connect, too.
    """
    secret = load_secret(own)
    answering = {endpoint: load_public(path) for endpoint, path in (servers or {}).items()}
    allowed = frozenset(map(load_public, peers)) | frozenset(answering.values())
    return Keys(public=public_of(secret), secret=secret, allowed=allowed, servers=answering)


def load_public(path: str | Path) -> str:
    """Return the public key in a .pub file; raises ConfigError."""
    return _load(Path(path), _PUBLIC_TAG)


def load_secret(path: str | Path) -> str:
    """Return the secret key in a .key file; raises ConfigError, also if others than its owner may read it."""
    return _load(Path(path), _SECRET_TAG)


def write_keypair(name: str | Path) -> str:
    """Make a key pair and write NAME.key (mode 0600) and NAME.pub (0644); return the public key.

    Raises ConfigError if either exists or cannot be written; then nothing of it is left behind. Both are durable when
    this returns, the secret key before the public one exists: no peer may be told a key whose secret half was lost.
    """
    secret_path, public_path = Path(f"{name}.key"), Path(f"{name}.pub")
    for path in (secret_path, public_path):
        if os.path.lexists(path):
            raise ConfigError(f"{path} exists, and keys are never overwritten: move it away, or choose another name")
    public, secret = new_keypair()
    _write_new(secret_path, f"{_SECRET_TAG} {secret}\n", 0o600)
    try:
        _write_new(public_path, f"{_PUBLIC_TAG} {public}\n", 0o644)
    except ConfigError:
        secret_path.unlink(missing_ok=True)
        raise
    return public


def _load(path: Path, tag: str) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be read: {error.strerror}; `ftvm keygen NAME` makes one") from error
    words = content.decode("ascii", "replace").split()
    if tag == _SECRET_TAG:
        if words[:1] == [_PUBLIC_TAG]:
            raise ConfigError(f"{path} is a public key, for the peers: give this host's secret key, a .key file")
        _check_private(path, mode)
    if len(words) != 2 or words[0] != tag or not is_key(words[1]):
        raise ConfigError(f"{path} is no {tag.replace('-', ' ')} file: its one line must be `{tag}` and the key")
    return words[1]


def _check_private(path: Path, mode: int) -> None:
    if mode & _OTHERS:
        raise ConfigError(
            f"{path} is a secret key that others may read or write (mode {stat.S_IMODE(mode):04o}): run "
            f"`chmod 600 {path}`, and make a new key if a stranger may have seen this one"
        )


def _write_new(path: Path, text: str, mode: int) -> None:
    """Make a file that a power cut leaves whole or not at all: written aside, made durable, and only then named.

    link(2) gives the name, because it fails if the name is taken; a rename would overwrite.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.aside")
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be made: {error.strerror}") from error
    try:
        with open(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.link(aside, path)
        _sync_named(path)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} exists, and keys are never overwritten: move it away, or choose another name"
        ) from error
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


def _sync_named(path: Path) -> None:
    """Make a file's name durable; take the name back where that fails."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise
