from __future__ import annotations

import base64
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ftvm.arbiters.etcd import EtcdRecordStore
from ftvm.arbiters.etcdhttp import parse_etcd_url
from ftvm.arbiters.recordtext import encode_record
from ftvm.arbiters.urls import open_record_store
from ftvm.errors import ArbiterError, NotApplied
from ftvm.interfaces import Record
from ftvm.testing.arbiter import check_arbiter

if TYPE_CHECKING:
    from tests.arbiters.conftest import EtcdCluster

Start = Callable[..., "EtcdCluster"]

FIRST = Record(1, "x", None)
SECOND = Record(2, "x", "y")


def ask(port: int, path: str, body: dict[str, object]) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body))
        reply: dict[str, Any] = json.loads(connection.getresponse().read())
        return reply
    finally:
        connection.close()


# --- a real etcd ----------------------------------------------------------------------------------


def test_etcd_store_keeps_the_contract_under_threads(etcd_cluster: Start) -> None:
    cluster = etcd_cluster(1)

    check_arbiter(partial(open_record_store, cluster.url))


def test_etcd_store_keeps_the_contract_under_processes_that_are_killed(etcd_cluster: Start) -> None:
    cluster = etcd_cluster(1)

    check_arbiter(partial(open_record_store, cluster.url), writers="processes", writer_count=3, generations=30)


def test_cluster_of_three_goes_on_when_any_one_member_dies(etcd_cluster: Start) -> None:
    cluster = etcd_cluster(3)
    with closing(open_record_store(cluster.url)) as store:
        record = Record(0, None, None)
        for number in range(3):
            cluster.kill(number)
            for _ in range(100):
                try:
                    record = store.compare_and_set("vm", Record(record.generation + 1, f"after {number}", None))
                    break
                except ArbiterError:
                    record = record  # an election takes a moment: the same proposal again
            assert record.active == f"after {number}"
            cluster.restart(number)
            cluster.wait_until_healthy()

        assert store.read("vm") == Record(3, "after 2", None)


def test_etcd_that_restarts_keeps_its_records(etcd_cluster: Start) -> None:
    cluster = etcd_cluster(1)
    with closing(open_record_store(cluster.url)) as store:
        store.compare_and_set("vm", FIRST)
        cluster.kill(0)
        with pytest.raises(NotApplied, match=r"etcd does not answer \(127\.0\.0\.1:\d+: Connection refused\)"):
            store.compare_and_set("vm", SECOND)
        cluster.restart(0)
        cluster.wait_until_healthy()

        assert store.compare_and_set("vm", SECOND) == SECOND


def test_user_with_a_password_is_let_in_and_others_are_not(etcd_cluster: Start, tmp_path: Path) -> None:
    cluster = etcd_cluster(1)
    (port,) = cluster.client_ports
    for path, body in (
        ("/v3/auth/user/add", {"name": "root", "password": "secret"}),
        ("/v3/auth/role/add", {"name": "root"}),
        ("/v3/auth/user/grant", {"user": "root", "role": "root"}),
        ("/v3/auth/enable", {}),
    ):
        ask(port, path, dict(body))
    for name, password in (("right", "secret"), ("wrong", "guess")):
        (tmp_path / name).write_text(password + "\n")
        (tmp_path / name).chmod(0o600)

    def store_as(name: str) -> EtcdRecordStore:
        address = parse_etcd_url(f"etcd://root@127.0.0.1:{port}?password_file={tmp_path / name}")
        return EtcdRecordStore(address)

    with closing(store_as("right")) as store:
        assert store.compare_and_set("vm", FIRST) == FIRST
        store._gateway._token = "expired"
        assert store.read("vm") == FIRST
    with closing(store_as("wrong")) as store, pytest.raises(ArbiterError, match="authentication failed"):
        store.read("vm")
    with closing(open_record_store(cluster.url)) as store, pytest.raises(ArbiterError, match="user name is empty"):
        store.read("vm")


def test_cluster_behind_tls_is_spoken_to_only_with_the_right_certificates(etcd_cluster: Start, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    files = {name: str(tmp_path / name) for name in ("ca.pem", "host.pem", "host.key")}
    cluster = etcd_cluster(1, files)
    (port,) = cluster.client_ports
    url = f"etcds://127.0.0.1:{port}?ca={files['ca.pem']}"

    with closing(open_record_store(f"{url}&cert={files['host.pem']}&key={files['host.key']}")) as store:
        assert store.compare_and_set("vm", FIRST) == FIRST
    for name, wrong in (("no client certificate", url), ("no authority", f"etcds://127.0.0.1:{port}")):
        with (
            closing(open_record_store(wrong)) as store,
            pytest.raises(ArbiterError, match=r"(?i)certificate|SSL|reset"),
        ):
            pytest.fail(f"{name}: {store.read('vm')}")


def make_certificates(path: Path) -> None:
    """Make an authority and one certificate, which serves as the server's and as the client's."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: it makes the certificates")
    (path / "extensions").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        "req -newkey rsa:2048 -nodes -keyout host.key -out host.csr -subj /CN=127.0.0.1",
        "x509 -req -in host.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out host.pem -days 2 -extfile extensions",
    ):
        subprocess.run(["openssl", *command.split()], cwd=path, check=True, capture_output=True)


def test_record_that_was_deleted_in_etcd_stops_the_store_that_knew_it(etcd_cluster: Start) -> None:
    cluster = etcd_cluster(1)
    with closing(open_record_store(cluster.url)) as store:
        store.compare_and_set("vm", FIRST)
        ask(cluster.client_ports[0], "/v3/kv/deleterange", {"key": base64.b64encode(b"/ftvm/vm").decode()})

        with pytest.raises(ArbiterError, match="had generation 1 of 'vm' and now has 0: the arbiter has forgotten"):
            store.read("vm")
        with pytest.raises(ArbiterError):
            store.compare_and_set("vm", Record(1, "evil", None))


# --- a member that misbehaves ---------------------------------------------------------------------


class FakeMember:
    """Answers like etcd with one key in memory, and misbehaves on demand."""

    def __init__(self) -> None:
        self.value: str | None = None
        self.revision = 1
        self.cluster_id = "7"
        self.loses_answers = 0
        self.answer: bytes | None = None
        self.calls = 0
        member = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = member.handle(self.path, body)
                if self.path.endswith("/txn") and member.loses_answers > 0:
                    member.loses_answers -= 1
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"etcd://127.0.0.1:{self.server.server_address[1]}"

    def handle(self, path: str, body: dict[str, Any]) -> bytes:
        self.calls += 1
        if self.answer is not None:
            return self.answer
        reply: dict[str, Any] = {}
        if path.endswith("/txn"):
            if body["compare"][0]["mod_revision"] == str(self.mod_revision):
                self.revision += 1
                self.value = body["success"][0]["request_put"]["value"]
                reply = {"succeeded": True, "responses": [{"response_put": {}}]}
            else:
                reply = {"responses": [{"response_range": self.found()}]}
        else:
            reply = self.found()
        return json.dumps({"header": {"cluster_id": self.cluster_id, "revision": str(self.revision)}} | reply).encode()

    @property
    def mod_revision(self) -> int:
        return 0 if self.value is None else self.revision

    def found(self) -> dict[str, Any]:
        return {} if self.value is None else {"kvs": [{"value": self.value, "mod_revision": str(self.mod_revision)}]}

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def member() -> Iterator[FakeMember]:
    member = FakeMember()
    yield member
    member.close()


@pytest.fixture
def store(member: FakeMember) -> Iterator[EtcdRecordStore]:
    store = EtcdRecordStore(parse_etcd_url(member.url))
    yield store
    store.close()


def test_lost_answer_of_a_transaction_is_a_win_when_the_record_is_ours(
    member: FakeMember, store: EtcdRecordStore
) -> None:
    store.compare_and_set("vm", FIRST)
    member.loses_answers = 1

    assert store.compare_and_set("vm", SECOND) == SECOND
    assert member.revision == 3


def test_answer_that_is_lost_twice_is_told_and_the_proposal_may_be_repeated(
    member: FakeMember, store: EtcdRecordStore
) -> None:
    store.compare_and_set("vm", FIRST)
    member.loses_answers = 2

    with pytest.raises(ArbiterError, match="etcd does not answer"):
        store.compare_and_set("vm", SECOND)

    assert store.compare_and_set("vm", SECOND) == SECOND


def test_dead_member_is_passed_over_and_not_asked_first_again(member: FakeMember) -> None:
    dead = FakeMember()
    dead.close()
    url = f"{dead.url},{member.url.removeprefix('etcd://')}"

    with closing(open_record_store(url)) as store:
        assert store.compare_and_set("vm", FIRST) == FIRST
        assert store._gateway._members[0].name == member.url.removeprefix("etcd://")  # type: ignore[attr-defined]


def test_member_of_another_cluster_is_refused(member: FakeMember, store: EtcdRecordStore) -> None:
    store.read("vm")
    member.cluster_id = "8"

    with pytest.raises(ArbiterError, match="etcd cluster 8 answered instead of 7"):
        store.read("vm")


def test_cluster_restored_from_a_backup_is_refused(member: FakeMember, store: EtcdRecordStore) -> None:
    member.revision = 100
    store.read("vm")
    member.revision = 99

    with pytest.raises(ArbiterError, match="went back from revision 100 to 99"):
        store.compare_and_set("vm", FIRST)


HEADER = b'"header":{"cluster_id":"7","revision":"1"}'


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"header":{}}',
        b'{"header":{"cluster_id":"7","revision":1}}',
        b"{" + HEADER + b',"kvs":[]}',
        b"{" + HEADER + b',"kvs":[{}]}',
        b"{" + HEADER + b',"kvs":[{"value":"?","mod_revision":"1"}]}',
        b"{" + HEADER + b',"kvs":[{"value":"AAAA","mod_revision":"1"}]}',
        b"{" + HEADER + b',"kvs":7}',
        b"[" * 100_000,
        b" " * 300_000,
    ],
)
def test_nonsense_from_a_member_is_an_arbiter_error(member: FakeMember, store: EtcdRecordStore, answer: bytes) -> None:
    member.answer = answer

    with pytest.raises(ArbiterError):
        store.read("vm")
    with pytest.raises(ArbiterError):
        store.compare_and_set("vm", FIRST)


def test_record_of_another_guest_under_our_key_is_refused(member: FakeMember, store: EtcdRecordStore) -> None:
    member.value = base64.b64encode(encode_record("other", FIRST)).decode()

    with pytest.raises(ArbiterError, match="cannot be trusted: it holds the record of another guest"):
        store.read("vm")
