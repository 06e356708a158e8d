"""The record in etcd v3: for hosts without common storage.

One key for each guest, ``<prefix><guest id>``, holds the record's text. A change is one transaction: if the key's
modification revision is still the one that was read, put. etcd decides; its locks and leases are never used (a lease
ends by a clock). Reads are linearizable, which is etcd's default.

A lost answer: the transaction is sent again, to the next member. If the first one was carried out, the second finds
another revision and brings back what is in force: our own record, so we won. What was proposed is compared with what
is in force; the transaction's own success flag is not what decides.

Also: if another cluster answers than the first one, or if a revision or generation goes backwards (restored from a
backup), that is an ArbiterError: stop, do not guess.

Source: etcd v3 API (Range, Txn); docs/protocol.md, "Arbiters".
"""

import base64
import binascii
from typing import Final

from ftvm.arbiters.etcdhttp import EtcdAddress, Gateway, Reply
from ftvm.arbiters.proposal import before_deciding, check_guest_id, check_proposal
from ftvm.arbiters.recordtext import decode_placed, encode_record, fresh_place
from ftvm.errors import ArbiterError, ClosedError
from ftvm.interfaces import Record

__all__ = ["EtcdRecordStore"]

_NONE: Final = Record(0, None, None)


class EtcdRecordStore:
    """interfaces.RecordStore in an etcd cluster. Opening it asks nothing yet."""

    def __init__(self, address: EtcdAddress) -> None:
        self._prefix = address.prefix
        self._gateway = Gateway(address)
        self._is_closed = False
        self._cluster: str | None = None
        self._revision = 0
        self._highest: dict[str, int] = {}
        self._places: dict[str, str | None] = {}

    def read(self, guest_id: str) -> Record:
        """Return the record in force; generation 0 if the guest has no record. Raises ArbiterError."""
        return self._read(guest_id)[0]

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        """Put `record` in force if it is the next generation; return what is in force now.

        Raises ArbiterError when it is not known whether it was applied: repeat the same proposal, or read. What fails
        before the transaction is sent is NotApplied; once it was sent to any member, nothing is certain.
        """
        check_proposal(record)
        with before_deciding():
            in_force, revision = self._read(guest_id)
        if in_force.generation != record.generation - 1:
            return in_force
        key, place = self._key(guest_id), self.place_id(guest_id) or fresh_place()
        reply = self._call(
            "/v3/kv/txn",
            {
                "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}],
                "success": [{"request_put": {"key": key, "value": _to_base64(encode_record(guest_id, record, place))}}],
                "failure": [{"request_range": {"key": key}}],
            },
        )
        if reply.get("succeeded") is True:
            self._learn(guest_id, record, place)
            return record
        return self._found(guest_id, _object(_only(reply.get("responses")), "response_range"))[0]

    def place_id(self, guest_id: str) -> str | None:
        """See interfaces.RecordStore."""
        return self._places.get(guest_id)

    def close(self) -> None:
        """Give back the connections. Idempotent."""
        self._is_closed = True
        self._gateway.close()

    def _read(self, guest_id: str) -> tuple[Record, int]:
        check_guest_id(guest_id)
        return self._found(guest_id, self._call("/v3/kv/range", {"key": self._key(guest_id)}))

    def _call(self, path: str, body: Reply) -> Reply:
        if self._is_closed:
            raise ClosedError("this record store is closed")
        reply = self._gateway.call(path, body)
        self._check_cluster(_object(reply, "header"))
        return reply

    def _check_cluster(self, header: Reply) -> None:
        cluster, revision = str(header.get("cluster_id")), _number(header, "revision")
        if self._cluster not in (None, cluster):
            raise ArbiterError(
                f"etcd cluster {cluster} answered instead of {self._cluster}: the members belong to different clusters"
            )
        if revision < self._revision:
            raise ArbiterError(
                f"etcd went back from revision {self._revision} to {revision}: it was restored from a backup, and the "
                "arbiter has forgotten. Stop all hosts of the guest, then run "
                "`ftvm init --force --arbiter URL --guest ID`"
            )
        self._cluster, self._revision = cluster, revision

    def _found(self, guest_id: str, found: Reply) -> tuple[Record, int]:
        """Return record and modification revision from the answer to a range; 0 for a key that is not there."""
        if "kvs" not in found:
            record, place, revision = _NONE, None, 0
        else:
            pair = _only(found["kvs"])
            (record, place), revision = self._decode(guest_id, pair), _number(pair, "mod_revision")
        self._learn(guest_id, record, place)
        return record, revision

    def _decode(self, guest_id: str, pair: Reply) -> tuple[Record, str | None]:
        try:
            content = base64.b64decode(str(pair.get("value", "")), validate=True)
            return decode_placed(content, guest_id=guest_id)
        except (binascii.Error, ArbiterError) as error:
            raise ArbiterError(
                f"the record of {guest_id!r} in etcd (key {self._prefix}{guest_id}) cannot be trusted: {error}. ftvm "
                "does not guess; restore the key"
            ) from error

    def _learn(self, guest_id: str, record: Record, place: str | None) -> None:
        highest = self._highest.get(guest_id, 0)
        if record.generation < highest:
            raise ArbiterError(
                f"etcd had generation {highest} of {guest_id!r} and now has {record.generation}: the arbiter "
                "has forgotten. Restore the key; ftvm changes nothing until then"
            )
        self._highest[guest_id] = record.generation
        self._places[guest_id] = place or self.place_id(guest_id)  # a record of 0.1 has none, and does not move

    def _key(self, guest_id: str) -> str:
        return _to_base64(f"{self._prefix}{guest_id}".encode("utf-8", "surrogatepass"))


def _to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _object(reply: Reply, name: str) -> Reply:
    value = reply.get(name)
    if not isinstance(value, dict):
        raise ArbiterError(f"etcd's answer has no {name}: is that an etcd v3?")
    return value


def _only(value: object) -> Reply:
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        raise ArbiterError("etcd's answer does not have exactly one entry: is that an etcd v3?")
    return value[0]


def _number(reply: Reply, name: str) -> int:
    """64-bit numbers come as text in JSON."""
    value = reply.get(name)
    if not isinstance(value, str) or not value.isascii() or not value.isdigit():
        raise ArbiterError(f"etcd's answer has no number {name}: is that an etcd v3?")
    return int(value)
