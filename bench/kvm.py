"""A guest on the processor: what a checkpoint's pause costs by dirty pages, beside a bare loop on KVM; and a protected
pair of processes: checkpoints a second, output delay, first copy, slowdown, drift of the guest's clock.

python bench/kvm.py [--json] [--seconds 3]

Runs wherever /dev/kvm answers, on a user's machine too, and says what it found there.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cffi
from bare import bare_figures
from common import Row, report
from figures import Histogram, between, percentile, rank
from placement import load_average, placement_named, usable_cores
from stopwatch import LooseSink, Stopwatch, TimedSink, TimedWorld

import ftvm
from ftvm._native.memory import NativeMemory, bitmap_indices
from ftvm.capture.pages import BatchBuffers, CapturePolicy, Shadow, StagedCopy, Way, capture_fused, encode_staged
from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.engines.names import engine_named
from ftvm.errors import ConfigError
from ftvm.events import Committed
from ftvm.guests.kvm.machine import DEVICE, check_device
from ftvm.guests.kvm.programs import read_program
from ftvm.lab.stage import free_ports
from ftvm.units import Nanos

PAGES = (1, 16, 200, 1_000, 4_096, 16_384, 100_000)
ROUNDS, ROUNDS_LARGE = 60, 12
LARGE = 10_000
"""From so many pages on, fewer rounds: each takes tens of milliseconds."""
MEMORY_BYTES = 512 << 20
PAIR_BYTES = 64 << 20
LIMITS = Limits(batch_bytes=4 << 20, staging_bytes=1 << 29)
TINY_PAUSE_MS, PAUSE_P99_MS = 0.15, 1.0
CHECKPOINTS_PUBLISHED = 2_500.0
CDEF = """
int peer_kvm(const char *device, size_t pages, size_t rounds, double *log_s, double *copy_s, double *processor_s);
"""


def rounds_of(pages: int) -> int:
    return ROUNDS if pages < LARGE else ROUNDS_LARGE


def open_peer(folder: str) -> Any:
    """Compile the bare loop; raises what the compiler does."""
    ffi = cffi.FFI()
    ffi.cdef(CDEF)
    ffi.set_source("_ftvm_kvm_peer", (Path(__file__).parent / "kvm_peer.c").read_text(), extra_compile_args=["-O2"])
    path = ffi.compile(folder)
    sys.path.insert(0, str(Path(path).parent))
    import _ftvm_kvm_peer  # type: ignore[import-not-found]

    return _ftvm_kvm_peer


def bare_steps(peer: Any, pages: int) -> tuple[float, float, float]:
    """Return the medians of the bare loop's steps, in ms: log, copy, processor."""
    steps = [peer.ffi.new("double[]", rounds_of(pages)) for _ in range(3)]
    if peer.lib.peer_kvm(DEVICE.encode(), pages, rounds_of(pages), *steps):
        return (float("nan"),) * 3
    log, copy, processor = (1000 * (rank(list(step), 50) or 0) for step in steps)
    return log, copy, processor


# --- the pause -----------------------------------------------------------------------------------------------------


class Stepper:
    """A guest that stops behind each line, with so many pages dirty; and all that a cut does while it stands still."""

    def __init__(self) -> None:
        self.guest = ftvm.KvmGuest(read_program("pages"), memory_bytes=MEMORY_BYTES, mac=None)
        self.sink = LooseSink(ftvm.CallbackWorld())
        self.guest.attach(self.sink)
        self.memory = NativeMemory([region.buffer for region in self.guest.memory])
        self.shadow = Shadow([region.page_count for region in self.guest.memory])
        self.buffers = BatchBuffers(LIMITS)
        self.policy = CapturePolicy()
        self.room = StagedCopy(self.policy.staged_pages_max)

    def step(self) -> None:
        said = self.sink.said
        self.guest.resume()
        while self.sink.said == said:
            time.sleep(0.0002)

    def cut(self) -> float:
        """Return the seconds from the order to stand still until the guest may go on, as runtime/capture.py cuts: with
        all of a checkpoint in hand, or, where that would take long, a copy of its pages."""
        batches: Sequence[PageBatch] = ()
        started = time.perf_counter()
        self.guest.pause()
        indices = bitmap_indices(self.guest.collect_dirty())
        way = self.policy.choose(len(indices))
        if way is Way.FUSED:
            batches = capture_fused(self.memory, self.shadow, indices, limits=LIMITS, buffers=self.buffers)
        else:
            self.room.gather(self.memory, indices)
        self.guest.save_devices()
        seconds = time.perf_counter() - started
        self.policy = self.policy.measured(way, pages=len(indices), pause_ns=Nanos(int(1e9 * seconds)))
        if way is Way.STAGED:
            batches = encode_staged(self.room, self.shadow, limits=LIMITS, buffers=self.buffers)
        for batch in batches:
            self.buffers.acknowledged(batch)
        return seconds

    def pauses(self, pages: int) -> list[float]:
        """Cut behind each line."""
        self.guest.stop_at_output(True)
        self.guest.deliver("console", b"%d\n" % pages)
        for _ in range(4):  # the first write memory that nobody wrote before
            self.step()
            self.cut()
        seconds = []
        for _ in range(rounds_of(pages)):
            self.step()
            seconds.append(self.cut())
        return seconds

    def stops(self) -> list[float]:
        """Only stop it, at any place of its work."""
        self.guest.stop_at_output(False)
        seconds = []
        for _ in range(5 * ROUNDS):
            self.guest.resume()
            time.sleep(0.002)
            started = time.perf_counter()
            self.guest.pause()
            seconds.append(time.perf_counter() - started)
        return seconds


def in_ms(seconds: Sequence[float], percent: float) -> float:
    return 1000 * (rank(seconds, percent) or 0)


def pause_rows(peer: Any) -> Iterator[Row]:
    stepper = Stepper()
    with closing(stepper.guest):
        for pages in PAGES:
            seconds = stepper.pauses(pages)
            log, copy, processor = bare_steps(peer, pages)
            p50, p99, name = in_ms(seconds, 50), in_ms(seconds, 99), f"pause, {pages:,} dirty pages"
            yield Row(
                name=f"{name}: p50",
                value=p50,
                unit="ms",
                peer="bare: dirty log, copy, processor",
                peer_value=log + copy + processor,
                note=f"dirty log {log:.3f}, copy {copy:.3f}, processor {processor:.3f} ms",
            )
            if pages == PAGES[0]:
                yield _limit(f"{name}: p50", p50, "ms", TINY_PAUSE_MS)
            yield _limit(f"{name}: p99 beyond the gather", max(0.0, p99 - copy), "ms", PAUSE_P99_MS)
        stops = stepper.stops()
        yield Row(name="stop at any place: p50", value=in_ms(stops, 50), unit="ms", peer="")
        yield Row(name="stop at any place: p99", value=in_ms(stops, 99), unit="ms", peer="")


def _limit(name: str, value: float | None, unit: str, limit: float) -> Row:
    return Row(name=name, value=value, unit=unit, peer="the goal", peer_value=limit, goal="<= 1.0")


# --- a pair --------------------------------------------------------------------------------------------------------


class TimedKvmGuest(ftvm.KvmGuest):
    """A guest on the processor whose outputs are timed."""

    def __init__(self, program: bytes | None) -> None:
        self.watch = Stopwatch()
        super().__init__(program, memory_bytes=PAIR_BYTES, mac=None)

    def attach(self, sink: ftvm.OutputSink) -> None:
        super().attach(TimedSink(sink, self.watch))


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """What a process of the pair is to do: `alone`, `primary` or `standby`."""

    role: str
    folder: str
    engine: str = "remus"
    pages: int = 1


def tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def both_clocks(guest: ftvm.KvmGuest) -> tuple[int, int]:
    """Return this host's time and the guest's, of one moment: of some tries the one that took least."""
    tries = []
    for _ in range(9):
        before = time.monotonic_ns()
        clock_ns, _ = guest.clocks()
        tries.append((time.monotonic_ns() - before, before, clock_ns))
    took, before, clock_ns = min(tries)
    return before + took // 2, clock_ns


def run_host(plan: HostPlan) -> None:
    guest = TimedKvmGuest(None if plan.role == "standby" else read_program("pages"))
    world = TimedWorld(ftvm.CallbackWorld(), guest.watch)
    if plan.role != "standby":
        guest.deliver("console", b"%d\n" % plan.pages)
    pauses = Histogram()

    def on_event(event: object) -> None:
        if isinstance(event, Committed) and event.pause_ns:
            pauses.add(event.pause_ns)

    def work(status: Any) -> None:
        while True:
            time.sleep(0.1)
            told = status()
            at, clock_ns = both_clocks(guest)
            tell(
                {
                    "at": at,
                    "clock_ns": clock_ns,
                    "left": guest.watch.left,
                    "delays": guest.watch.delays.told(),
                    "pauses": pauses.told(),
                    "checkpoints": told.checkpoints if told else 0,
                    "is_protected": told is not None and told.link == "protected",
                }
            )

    if plan.role == "alone":
        super(TimedKvmGuest, guest).attach(LooseSink(world))
        guest.resume()
        work(lambda: None)
    a, b = f"ipc://{plan.folder}/a", f"ipc://{plan.folder}/b"
    options: dict[str, Any] = {
        "arbiter": f"file://{plan.folder}",
        "engine": engine_named(plan.engine, 0.025),
        "world": world,
        "on_event": on_event,
    }
    if plan.role == "standby":
        with ftvm.Standby(guest, listen=b, peers=[a], **options) as standby:
            tell({"is_up": True})
            standby.wait()
    else:
        with ftvm.protect(guest, listen=a, peers=[b], create=True, **options) as protection:
            work(protection.status)


@contextmanager
def process(plan: HostPlan) -> Iterator[Iterator[dict[str, Any]]]:
    """Run a host as a process; yields what it tells."""
    words = [sys.executable, __file__, "--host", json.dumps(plan.__dict__)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield (json.loads(line) for line in child.stdout)
        finally:
            child.send_signal(signal.SIGTERM)
            child.stdout.close()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Rates per second, times in ms, drift in percent; what was not seen is None."""

    lines: float
    checkpoints: float
    delay_p50: float | None
    delay_p99: float | None
    pause_p50: float | None
    pause_p99: float | None
    drift: float
    copied_s: float = 0.0


def measure_window(lines: Iterator[dict[str, Any]], seconds: float, copied_s: float = 0.0) -> Measured:
    first = last = next(lines)
    while last["at"] < first["at"] + seconds * 1e9:
        last = next(lines)
    span = (last["at"] - first["at"]) / 1e9
    delays, pauses = (between(first[name], last[name]) for name in ("delays", "pauses"))

    def of(counts: dict[int, int], percent: float) -> float | None:
        found = percentile(counts, percent)
        return None if found is None else found / 1e6

    return Measured(
        lines=(last["left"] - first["left"]) / span,
        checkpoints=(last["checkpoints"] - first["checkpoints"]) / span,
        delay_p50=of(delays, 50),
        delay_p99=of(delays, 99),
        pause_p50=of(pauses, 50),
        pause_p99=of(pauses, 99),
        drift=100 * ((last["clock_ns"] - first["clock_ns"]) / (last["at"] - first["at"]) - 1),
        copied_s=copied_s,
    )


def measure_alone(pages: int, seconds: float) -> Measured:
    with tempfile.TemporaryDirectory() as folder, process(HostPlan(role="alone", folder=folder, pages=pages)) as lines:
        for _ in range(3):
            next(lines)
        return measure_window(lines, seconds)


def measure_pair(engine: str, pages: int, seconds: float) -> Measured:
    with tempfile.TemporaryDirectory() as folder, process(HostPlan(role="standby", folder=folder)) as standby:
        next(standby)
        with process(HostPlan(role="primary", folder=folder, engine=engine, pages=pages)) as lines:
            started = next(lines)["at"]
            protected = next(line for line in lines if line["is_protected"])["at"]
            for _ in range(5):
                next(lines)
            return measure_window(lines, seconds, (protected - started) / 1e9)


def pair_rows(seconds: float) -> Iterator[Row]:
    bare = bare_figures(placement_named("free", usable_cores()), free_ports(socket.SOCK_DGRAM, 2))
    for pages in (1, 200):
        alone = measure_alone(pages, seconds)
        for engine in ("remus", "kemari"):
            found, name = measure_pair(engine, pages, seconds), f"{engine}, {pages} pages a line"
            yield Row(name=f"{name}: first copy of 64 MiB", value=found.copied_s, unit="s", peer="")
            yield Row(
                name=f"{name}: lines", value=found.lines, unit="/s", peer="the guest alone", peer_value=alone.lines
            )
            yield Row(
                name=f"{name}: checkpoints",
                value=found.checkpoints,
                unit="/s",
                peer="a modified KVM, as published",
                peer_value=CHECKPOINTS_PUBLISHED if engine == "kemari" else None,
                goal=">= 1.0" if engine == "kemari" and pages == 1 else None,
            )
            yield Row(
                name=f"{name}: output delay p50",
                value=found.delay_p50,
                unit="ms",
                peer=bare.round_trip,
                peer_value=bare.round_trip_us / 1000,
                goal="<= 4.0" if engine == "kemari" and pages == 1 else None,
            )
            yield Row(name=f"{name}: output delay p99", value=found.delay_p99, unit="ms", peer="")
            yield Row(name=f"{name}: pause p50", value=found.pause_p50, unit="ms", peer="")
            yield Row(name=f"{name}: pause p99", value=found.pause_p99, unit="ms", peer="")
            yield _limit(f"{name}: drift of the guest's clock", abs(found.drift), "%", 0.1)


# --- all -----------------------------------------------------------------------------------------------------------


def measure(arguments: argparse.Namespace) -> list[Row]:
    try:
        cpu = check_device()
    except ConfigError as wrong:
        return [Row(name="KVM", value=None, unit="", peer="", note=str(wrong))]
    modules = sorted(name for name in os.listdir("/sys/module") if name.startswith("kvm"))
    here = f"{cpu}; modules {', '.join(modules)}; Linux {os.uname().release}; load {load_average():.1f}"
    with tempfile.TemporaryDirectory() as folder:
        rows = [Row(name="here", value=None, unit="", peer="", note=here)]
        rows += pause_rows(open_peer(folder))
    return rows + list(pair_rows(arguments.seconds))


def stop(number: int, frame: object) -> None:
    del number, frame
    raise SystemExit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--host"]:
        signal.signal(signal.SIGTERM, stop)
        run_host(HostPlan(**json.loads(sys.argv[2])))
    else:
        report(__doc__.partition(":")[0], measure, ("seconds", float, 3.0))
