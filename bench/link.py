"""A link: captured pages as deltas against raw pages over the same ZeroMQ connection, and the price of an
acknowledgement.

Sender and receiver are two processes on loopback TCP. The guest's memory alternates between two versions of the pages
that a real program changed in 25 ms, so that every round ships real changes and dirtying them costs nothing.

    python bench/link.py [--json] [--pages 2048] [--rounds 20]
"""

import argparse
import multiprocessing
import os
import socket
import time
from array import array
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import zmq
from codec import page_aligned
from common import Row, fastest_wall, geometric_mean, report
from corpus import Corpus, corpora, missing

from ftvm._native.memory import NativeMemory
from ftvm.capture.pages import BatchBuffers, Shadow, StagedCopy, capture_fused
from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.encode.apply import CommittedMemory

PAGE = 4096
LIMITS = Limits(batch_bytes=1 << 20)
PAGES_PER_RAW_BATCH = LIMITS.batch_bytes // PAGE
WINDOW = 3
"""Rounds under way: one being encoded, one on the wire, one being applied."""
PINGS = 4000
REPEATS = 3


# --- the receiving process -----------------------------------------------------------------------------------------


def receive(port_pipe: Connection, older: bytes, mode: str, messages: int) -> None:
    """Apply `messages` of one mode and acknowledge each; then tell the CPU seconds that it took."""
    memory = page_aligned(older)
    link = zmq.Context.instance().socket(zmq.PAIR)
    port_pipe.send(link.bind_to_random_port("tcp://127.0.0.1"))
    apply = {"delta": _delta_applier(memory), "raw": _raw_applier(memory), "echo": lambda _: None}[mode]
    link.send(b"ready")
    started = time.process_time()
    for _ in range(messages):
        apply([frame.buffer for frame in link.recv_multipart(copy=False)])
        link.send(b"ack", copy=False)
    port_pipe.send(time.process_time() - started)
    link.close(linger=1000)


def _delta_applier(memory: Any) -> Callable[[list[memoryview]], None]:
    committed = CommittedMemory(NativeMemory([memory]))

    def apply(frames: list[memoryview]) -> None:
        head, *parts = frames
        batches = [
            PageBatch(
                count=len(parts[at]) // 4,
                indices=parts[at],
                lengths=parts[at + 1],
                payload=parts[at + 2],
                digest=bytes(parts[at + 3]),
            )
            for at in range(0, len(parts), 4)
        ]
        committed.verify(batches, int.from_bytes(head, "little"))
        committed.commit(batches)

    return apply


def _raw_applier(memory: Any) -> Callable[[list[memoryview]], None]:
    target = memoryview(memory)

    def apply(frames: list[memoryview]) -> None:
        at = 0
        for frame in frames:
            target[at : at + len(frame)] = frame
            at += len(frame)

    return apply


# --- the sending process -------------------------------------------------------------------------------------------


class Link:
    """A socket to a receiver process, and what both ends have spent."""

    def __init__(self, older: bytes, mode: str, messages: int) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=receive, args=(theirs, older, mode, messages))
        self.process.start()
        self.socket = zmq.Context.instance().socket(zmq.PAIR)
        self.socket.connect(f"tcp://127.0.0.1:{self.pipe.recv()}")
        assert self.socket.recv() == b"ready"

    def close(self) -> float:
        """Return the receiver's CPU seconds."""
        seconds = self.pipe.recv()
        self.process.join()
        self.socket.close(linger=0)
        return float(seconds)


class Sent:
    """What one mode took to ship all rounds."""

    def __init__(self, corpus: Corpus, mode: str, rounds: int) -> None:
        self.bytes = 0
        self.versions = [NativeMemory([page_aligned(part)]) for part in (corpus.newer, corpus.older)]
        self.indices = array("I", range(corpus.page_count))
        prepare = {"delta": self._deltas(corpus), "raw": self._raw_pages()}[mode]
        link = Link(corpus.older, mode, rounds)
        cpu, wall = time.process_time(), time.perf_counter()
        waiting: list[Callable[[], None]] = []
        for number in range(rounds):
            frames, free = prepare(self.versions[number % 2])
            self.bytes += sum(len(frame) for frame in frames)
            link.socket.send_multipart(frames, copy=False)
            waiting.append(free)
            if len(waiting) == WINDOW:
                link.socket.recv()
                waiting.pop(0)()
        for free in waiting:
            link.socket.recv()
            free()
        self.wall_seconds = time.perf_counter() - wall
        self.cpu_seconds = time.process_time() - cpu + link.close()

    def _deltas(self, corpus: Corpus) -> Callable[[NativeMemory], tuple[list[Any], Callable[[], None]]]:
        shadow, buffers = Shadow([corpus.page_count]), BatchBuffers(LIMITS)
        start = capture_fused(self.versions[1], shadow, self.indices, limits=LIMITS, buffers=buffers)
        for batch in start:
            buffers.acknowledged(batch)

        def prepare(memory: NativeMemory) -> tuple[list[Any], Callable[[], None]]:
            batches = capture_fused(memory, shadow, self.indices, limits=LIMITS, buffers=buffers)
            frames: list[Any] = [shadow.memory_digest.to_bytes(16, "little")]
            for batch in batches:
                frames += [batch.indices, batch.lengths, batch.payload, batch.digest]
            return frames, lambda: [buffers.acknowledged(batch) for batch in batches] and None

        return prepare

    def _raw_pages(self) -> Callable[[NativeMemory], tuple[list[Any], Callable[[], None]]]:
        free_copies = [StagedCopy(len(self.indices)) for _ in range(WINDOW)]
        step = PAGES_PER_RAW_BATCH * PAGE

        def prepare(memory: NativeMemory) -> tuple[list[Any], Callable[[], None]]:
            copy = free_copies.pop()
            copy.gather(memory, self.indices)
            view = copy.content
            frames = [view[at : at + step] for at in range(0, len(view), step)]
            return frames, lambda: free_copies.append(copy)

        return prepare


def link_rows(corpus: Corpus, rounds: int) -> tuple[list[Row], dict[str, float]]:
    runs: dict[str, list[Sent]] = {"raw": [], "delta": []}
    for mode in ["raw", "delta"] * REPEATS:
        runs[mode].append(Sent(corpus, mode, rounds))
    guest_gb = corpus.page_count * PAGE * rounds / 1e9
    wall = {mode: min(one.wall_seconds for one in sent) for mode, sent in runs.items()}
    cpu = {mode: min(one.cpu_seconds for one in sent) for mode, sent in runs.items()}
    size = {mode: sent[0].bytes for mode, sent in runs.items()}
    ratios = {
        "throughput": wall["raw"] / wall["delta"],
        "cpu": cpu["delta"] / cpu["raw"],
        "bytes": size["delta"] / size["raw"],
    }
    rows = [
        Row(
            name=f"{corpus.name}: guest memory shipped as deltas",
            value=guest_gb / wall["delta"],
            unit="GB/s",
            peer="raw pages",
            peer_value=guest_gb / wall["raw"],
        ),
        Row(
            name=f"{corpus.name}: CPU of both ends",
            value=cpu["delta"] / guest_gb,
            unit="s/GB",
            peer="raw pages",
            peer_value=cpu["raw"] / guest_gb,
            note=f"bytes 1/{1 / ratios['bytes']:.1f}",
        ),
    ]
    return rows, ratios


def mean_rows(all_ratios: list[dict[str, float]]) -> list[Row]:
    names = [("throughput", ">= 3"), ("cpu", "<= 0.4"), ("bytes", "<= 0.05")]
    return [
        Row(
            name=f"MEAN {name} of deltas, both ends, verified",
            value=geometric_mean([ratios[name] for ratios in all_ratios]),
            unit="x",
            peer="raw pages, unverified",
            peer_value=1.0,
            goal=goal,
        )
        for name, goal in names
    ]


def socket_rows(corpus: Corpus, rounds: int) -> list[Row]:
    """What the transport itself costs: the same megabytes through ZeroMQ and through a bare socket."""
    size = corpus.page_count * PAGE * rounds
    seconds = {"zeromq": min(Sent(corpus, "raw", rounds).wall_seconds for _ in range(REPEATS))}
    seconds["socket"] = min(socket_seconds(corpus.newer, rounds) for _ in range(REPEATS))
    return [
        Row(
            name="raw pages through ZeroMQ, gathered and applied",
            value=size / seconds["zeromq"] / 1e9,
            unit="GB/s",
            peer="bare TCP socket, nothing else",
            peer_value=size / seconds["socket"] / 1e9,
        )
    ]


def socket_seconds(content: bytes, rounds: int) -> float:
    pipe, theirs = multiprocessing.Pipe()
    total = len(content) * rounds
    process = multiprocessing.get_context("spawn").Process(target=drain, args=(theirs, total))
    process.start()
    with socket.create_connection(("127.0.0.1", pipe.recv())) as sender:
        started = time.perf_counter()
        for _ in range(rounds):
            sender.sendall(content)
        sender.recv(1)
        seconds = time.perf_counter() - started
    process.join()
    return seconds


def drain(port_pipe: Connection, total: int) -> None:
    """Receive `total` bytes, then say so with one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port_pipe.send(server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            room = bytearray(1 << 20)
            while total > 0:
                total -= connection.recv_into(room)
            connection.sendall(b"!")


def acknowledgement_rows() -> list[Row]:
    """An epoch in which nothing changed: captured, sent, verified, committed, acknowledged."""
    content = os.urandom(256 * PAGE)
    memory, shadow, buffers = NativeMemory([page_aligned(content)]), Shadow([256]), BatchBuffers(LIMITS)
    for batch in capture_fused(memory, shadow, array("I", range(256)), limits=LIMITS, buffers=buffers):
        buffers.acknowledged(batch)
    links = {mode: Link(content, mode, PINGS) for mode in ("delta", "echo")}
    nothing: array[int] = array("I")

    def epoch() -> None:
        capture_fused(memory, shadow, nothing, limits=LIMITS, buffers=buffers)
        links["delta"].socket.send(shadow.memory_digest.to_bytes(16, "little"))
        links["delta"].socket.recv()

    def bare() -> None:
        links["echo"].socket.send(b"0123456789abcdef")
        links["echo"].socket.recv()

    found = fastest_wall({"epoch": epoch, "bare": bare}, PINGS)
    for link in links.values():
        link.close()
    return [
        Row(
            name="acknowledgement of an empty epoch, without headers",
            value=found["epoch"] * 1e6,
            unit="us",
            peer="bare ZeroMQ round trip",
            peer_value=found["bare"] * 1e6,
            goal="<= 1.5",
        )
    ]


def measure(arguments: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    all_ratios = []
    for corpus in corpora(arguments.pages):
        more, ratios = link_rows(corpus, arguments.rounds)
        rows += more
        all_ratios.append(ratios)
    rows += [Row(name=reason, value=None, unit="", peer="", note="not measured") for reason in missing()]
    return rows + mean_rows(all_ratios) + socket_rows(corpus, arguments.rounds) + acknowledgement_rows()


if __name__ == "__main__":
    report("Deltas and raw pages over ZeroMQ", measure, ("pages", int, 2048), ("rounds", int, 20))
