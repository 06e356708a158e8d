"""The JSON gateway of etcd v3 over HTTP: addresses, TLS, passwords, and what to do when a member does not answer.

Each call goes to the member that answered last, then to the others in turn, with a short deadline each. So a call may
be carried out twice, or carried out and reported as failed: it must be harmless when repeated. Answers are bounded,
and checked no further than that they are JSON objects.

Knows nothing of records. Source: etcd v3 API, "gRPC gateway"; only the standard library is used.
"""

import http.client
import json
import os
import ssl
import stat
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from ftvm.errors import ArbiterError, ConfigError

__all__ = ["EtcdAddress", "Gateway", "Reply", "locate_files", "parse_etcd_url"]

Reply = dict[str, object]

_PORT: Final = 2379
_PREFIX: Final = "/ftvm/"
_TIMEOUT_SECONDS: Final = 2.0
"""For connecting and for each answer: the pair goes on without the arbiter, so it is better to ask the next member
soon."""
_ANSWER_BYTES_MAX: Final = 256 << 10
_PASSWORD_BYTES_MAX: Final = 1024
_FILES: Final = frozenset({"ca", "cert", "key", "password_file"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdAddress:
    """Where a cluster answers and who we are to it.

    members   (host, port) of each
    prefix    of all keys in etcd
    tls       None for plain HTTP
    user, password   None where the cluster has no authentication
    """

    members: tuple[tuple[str, int], ...]
    prefix: str = _PREFIX
    tls: ssl.SSLContext | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("an etcd cluster needs at least one member")
        if (self.user is None) != (self.password is None):
            raise ConfigError("give etcd both a user and a password, or neither")


def parse_etcd_url(url: str) -> EtcdAddress:
    """Return the address that a URL names; raises ConfigError.

        etcd://HOST[:PORT][,HOST[:PORT]...][/PREFIX]
        etcds://[USER@]HOST...[/PREFIX]?ca=FILE&cert=FILE&key=FILE&password_file=FILE

    A password is never part of the URL: command lines are public.
    """
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    options.pop("known", None)  # a folder of this host, see urls.py
    if parts.scheme not in ("etcd", "etcds") or parts.fragment or not _FILES.issuperset(options):
        raise ConfigError(
            f"arbiter {url!r}: write etcd://HOST:PORT,HOST:PORT or etcds:// with {', '.join(sorted(_FILES))}"
        )
    user, _, hosts = parts.netloc.rpartition("@")
    if ":" in user:
        raise ConfigError("a password in a URL is public: put it in a file of mode 0600, and write password_file=FILE")
    password_file = options.get("password_file")
    return EtcdAddress(
        members=tuple(_parse_member(url, member) for member in hosts.split(",")),
        prefix=unquote(parts.path).rstrip("/") + "/" if parts.path.strip("/") else _PREFIX,
        tls=_tls(options) if parts.scheme == "etcds" else None,
        user=unquote(user) or None,
        password=None if password_file is None else _read_password(Path(password_file)),
    )


def locate_files(url: str, folder: Path) -> str:
    """Return the URL with its relative file names based on `folder`; a wrong URL unchanged."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    options = [(name, str(folder / value) if name in _FILES else value) for name, value in parse_qsl(parts.query)]
    return urlunsplit(parts._replace(query=urlencode(options, safe="/")))


def _parse_member(url: str, member: str) -> tuple[str, int]:
    host, colon, port = member.rpartition(":") if not member.endswith("]") else (member, "", "")
    if not colon:
        host, port = member, str(_PORT)
    host = host.strip("[]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 0xFFFF:
        raise ConfigError(f"arbiter {url!r}: {member!r} is not a member; write HOST or HOST:PORT")
    return host, int(port)


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except OSError as error:
        names = ", ".join(options[name] for name in ("ca", "cert", "key") if name in options)
        raise ConfigError(f"cannot use the TLS files for etcd ({names}): {error.strerror or error}") from error
    return context


def _read_password(path: Path) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            password = file.read(_PASSWORD_BYTES_MAX).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"password file {path} cannot be read: {error}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"password file {path} is readable by others (mode {mode:04o}): run `chmod 600 {path}`")
    return password


class Gateway:
    """Calls to a cluster. For one thread at a time."""

    def __init__(self, address: EtcdAddress) -> None:
        self._address = address
        self._members = deque(_Member(host, port, address.tls) for host, port in address.members)
        self._token: str | None = None

    def call(self, path: str, body: Reply) -> Reply:
        """Return the answer of the first member that gives one.

        Raises ArbiterError that names each member's reason when none does: the call may have been carried out even so.
        """
        reasons: dict[str, str] = {}
        last: _NoAnswer | None = None
        for _ in range(len(self._members) + 1):  # one more: a kept connection may have died since the last call
            member = self._members[0]
            try:
                return self._call_member(member, path, body)
            except _NoAnswer as error:
                reasons[member.name], last = str(error), error
                self._members.rotate(-1)
        found = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        told = f"etcd does not answer ({found}): check that most of its members run and can be reached"
        raise ArbiterError(told) from last

    def close(self) -> None:
        """Give back the connections. Idempotent."""
        for member in self._members:
            member.close()

    def _call_member(self, member: "_Member", path: str, body: Reply) -> Reply:
        if self._address.user is None:
            return _checked(*member.post(path, body, None))
        if self._token is None:
            self._token = self._log_in(member)
        status, reply = member.post(path, body, self._token)
        if status == http.client.UNAUTHORIZED:  # tokens live for some minutes
            self._token = self._log_in(member)
            status, reply = member.post(path, body, self._token)
        return _checked(status, reply)

    def _log_in(self, member: "_Member") -> str:
        who: Reply = {"name": self._address.user, "password": self._address.password}
        token = _checked(*member.post("/v3/auth/authenticate", who, None)).get("token")
        if not isinstance(token, str):
            raise _NoAnswer("it gave no token")
        return token


class _NoAnswer(Exception):
    """A member did not answer, or its answer cannot be used."""


def _checked(status: int, reply: Reply) -> Reply:
    if status != http.client.OK:
        raise _NoAnswer(f"{reply.get('error') or reply.get('message') or 'no reason given'} (HTTP {status})")
    return reply


class _Member:
    """One member and the open connection to it."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.name = f"{host}:{port}"
        self._connection = (
            http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
            if tls is None
            else http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=tls)
        )

    def post(self, path: str, body: Reply, token: str | None) -> tuple[int, Reply]:
        """Return status and answer; raises _NoAnswer."""
        headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": token})
        try:
            return self._exchange(path, json.dumps(body), headers)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            self._connection.close()
            raise _NoAnswer(_reason(error)) from error

    def close(self) -> None:
        self._connection.close()

    def _exchange(self, path: str, body: str, headers: dict[str, str]) -> tuple[int, Reply]:
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        content = response.read(_ANSWER_BYTES_MAX + 1)
        if len(content) > _ANSWER_BYTES_MAX:
            raise ValueError("its answer is too long")
        reply = json.loads(content)
        if not isinstance(reply, dict):
            raise ValueError("its answer is not a JSON object")
        return response.status, reply


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
