"""What processes say while a guest runs, line by line, and what is made of the lines between two moments."""

from collections.abc import Callable
from dataclasses import dataclass, field

from figures import best_rate, between, mean_rate, per, percentile

from ftvm.lab.lines import JsonLine


@dataclass(frozen=True, kw_only=True)
class Window:
    """What was counted while a guest ran. Rates are per second, times in microseconds; None where nothing was seen.

    work            in what the load counts: the slice at the fastest tenth
    cpu             cores in use by the active host, and by its standby
    cpu_us          the same for each output that left
    repeated        requests that clients sent again, per request that was answered
    """

    work: float | None
    outputs: int
    delay_us_p50: float | None
    delay_us_p99: float | None
    latency_us_p50: float | None
    latency_us_p99: float | None
    repeated: float | None
    cpu: float | None
    cpu_us: float | None
    standby_cpu: float | None = None
    standby_cpu_us: float | None = None
    pause_us_p50: float | None = None
    pause_us_p99: float | None = None
    bytes_per_second: float | None = None
    checkpoints_per_second: float | None = None
    memory_bytes: int | None = None
    standby_memory_bytes: int | None = None


@dataclass
class Heard:
    """What the processes have said."""

    lines: dict[str, list[JsonLine]] = field(default_factory=lambda: {"a": [], "b": []})
    events: dict[str, list[JsonLine]] = field(default_factory=lambda: {"a": [], "b": []})
    client: list[JsonLine] = field(default_factory=list)
    told: JsonLine = field(default_factory=dict)
    is_relay_ready: bool = False

    def on_host(self, name: str) -> Callable[[JsonLine], None]:
        def take(line: JsonLine) -> None:
            if "event" in line:
                self.events[name].append(line)
            elif "retired" in line and "at" in line:
                self.lines[name].append(line)
            else:
                self.told = self.told | line

        return take

    def on_client(self, line: JsonLine) -> None:
        told = client_line(line)
        if told is not None:
            self.client.append(told)

    def on_relay(self, line: JsonLine) -> None:
        self.is_relay_ready |= "relay" in line

    def clear(self) -> None:
        for lines in (*self.lines.values(), self.client):
            lines.clear()


def client_line(line: JsonLine) -> JsonLine | None:
    """Return what a client says, in the words of that in C; None if it is no figure. The lab's tells no latencies."""
    if "answered" in line:
        return line
    if "status" not in line:
        return None
    told = line["status"]
    return {"at": told["at"], "answered": told["requests_acknowledged"], "repeated": None, "latencies": {}}


def window_of(counts: str, active: list[JsonLine], standby: list[JsonLine], client: list[JsonLine]) -> Window:
    """Add up what the processes told of between their first line and their last; `counts` as of a load."""
    first, last = active[0], active[-1]
    outputs = last["outputs"] - first["outputs"]
    delays = between(first["delays"], last["delays"])
    pauses = between(first["host"]["pauses"], last["host"]["pauses"]) if "host" in last else {}
    latencies = between(client[0]["latencies"], client[-1]["latencies"]) if client else {}
    cpu_ns, standby_cpu_ns = (lines[-1]["cpu_ns"] - lines[0]["cpu_ns"] if lines else 0 for lines in (active, standby))
    return Window(
        work=_work(counts, active, client),
        outputs=outputs,
        delay_us_p50=_micros(percentile(delays, 50)),
        delay_us_p99=_micros(percentile(delays, 99)),
        latency_us_p50=_micros(percentile(latencies, 50)),
        latency_us_p99=_micros(percentile(latencies, 99)),
        repeated=_repeated(client),
        cpu=mean_rate([(line["at"], line["cpu_ns"] / 1e9) for line in active]),
        cpu_us=_micros(per(cpu_ns, outputs)),
        standby_cpu=mean_rate([(line["at"], line["cpu_ns"] / 1e9) for line in standby]),
        standby_cpu_us=_micros(per(standby_cpu_ns, outputs)) if standby else None,
        pause_us_p50=_micros(percentile(pauses, 50)),
        pause_us_p99=_micros(percentile(pauses, 99)),
        bytes_per_second=_host_rate(active, "bytes_sent"),
        checkpoints_per_second=_host_rate(active, "checkpoints"),
        memory_bytes=last["memory_bytes"],
        standby_memory_bytes=standby[-1]["memory_bytes"] if standby else None,
    )


def _work(counts: str, active: list[JsonLine], client: list[JsonLine]) -> float | None:
    match counts:
        case "instructions":  # per second of the host's CPU, which all that its replication costs is part of
            return best_rate([(line["cpu_ns"], line["retired"]) for line in active])
        case "lines":
            return best_rate([(line["at"], line["outputs"]) for line in active])
        case "requests":
            return best_rate([(line["at"], line["answered"]) for line in client])
        case _:
            return None


def _repeated(client: list[JsonLine]) -> float | None:
    if not client or client[-1]["repeated"] is None:
        return None
    again, answered = (client[-1][name] - client[0][name] for name in ("repeated", "answered"))
    return again / max(1, answered)


def _host_rate(lines: list[JsonLine], name: str) -> float | None:
    return mean_rate([(line["at"], line["host"][name]) for line in lines if "host" in line])


def _micros(nanos: float | None) -> float | None:
    return None if nanos is None else nanos / 1e3
