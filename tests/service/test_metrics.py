"""The metrics page: what Prometheus reads there is what the status says, and nobody can hold the host up."""

import json
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import ftvm.events
from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.errors import ConfigError, TransportError
from ftvm.events import Solo
from ftvm.runtime.protection import protect
from ftvm.runtime.standing import State
from ftvm.service.metrics import COUNTED, COUNTERS, GAUGES, HISTOGRAMS, REQUEST_BYTES_MAX, STORAGE, MetricsPage, _Answer
from ftvm.sim.guest import SimGuest
from ftvm.units import Nanos

from .fakes import STATUS, FakeHost, histogram

WAIT_SECONDS = 20.0
DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"


@pytest.fixture
def host() -> FakeHost:
    return FakeHost(replace(STATUS, pauses=histogram(15, 300, 300, 900_000), output_delays=histogram(12_000)))


@pytest.fixture
def page(host: FakeHost) -> Iterator[MetricsPage]:
    made = MetricsPage("127.0.0.1:0")
    made.begin(host)
    yield made
    made.close()


def get(page: MetricsPage, path: str = "/metrics") -> tuple[str, str]:
    with socket.create_connection(("127.0.0.1", page.port), timeout=WAIT_SECONDS) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        return receive(client, page)


def receive(client: socket.socket, page: MetricsPage) -> tuple[str, str]:
    client.settimeout(0.01)
    answer = b""
    while True:
        page.step(Nanos(0))
        try:
            data = client.recv(1 << 16)
        except TimeoutError:
            continue
        if not data:
            head, _, body = answer.decode().partition("\r\n\r\n")
            return head.partition("\r\n")[0], body
        answer += data


def samples(text: str) -> dict[str, float]:
    """Return each sample by its name and labels."""
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True)}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_tells_the_status_in_seconds_and_bytes(page: MetricsPage) -> None:
    page.note(Solo(at=Nanos(0), guest_id="vm1", generation=1, reason=""))

    line, body = get(page)

    told = samples(body)
    assert line == "HTTP/1.1 200 OK"
    assert told['ftvm_lag_seconds{"guest": "vm1"}'] == 0.0045
    assert told['ftvm_sent_bytes_total{"guest": "vm1"}'] == 1_000
    assert told['ftvm_protected{"guest": "vm1"}'] == 1
    assert told['ftvm_role{"guest": "vm1", "role": "active"}'] == 1
    assert told['ftvm_role{"guest": "vm1", "role": "standby"}'] == 0
    assert told['ftvm_engine{"engine": "remus", "guest": "vm1"}'] == 1
    assert told['ftvm_events_total{"event": "Solo", "guest": "vm1"}'] == 1


def test_an_event_that_has_not_happened_yet_counts_0(page: MetricsPage) -> None:
    """Regression: its series began at 1, which no `increase` or `rate` can see."""
    page.note(Solo(at=Nanos(0), guest_id="vm1", generation=1, reason=""))

    told = {name: value for name, value in samples(get(page)[1]).items() if name.startswith("ftvm_events_total")}

    assert len(told) == len(ftvm.events.__all__) - 1  # all but their root
    assert told['ftvm_events_total{"event": "TookOver", "guest": "vm1"}'] == 0
    assert sum(told.values()) == 1


@pytest.mark.parametrize("state", [state for state in State if state is not State.PROTECTED])
def test_a_guest_counts_as_protected_in_no_other_state(page: MetricsPage, host: FakeHost, state: State) -> None:
    host.change(state=state.value)

    told = samples(get(page)[1])

    assert told['ftvm_protected{"guest": "vm1"}'] == 0
    assert told[f'ftvm_state{{"guest": "vm1", "state": "{state.replace(" ", "_")}"}}'] == 1
    assert sum(value for name, value in told.items() if name.startswith("ftvm_state{")) == 1


def test_an_arbiter_that_cannot_be_relied_on_is_told(page: MetricsPage, host: FakeHost) -> None:
    before = samples(get(page)[1])['ftvm_arbiter_up{"guest": "vm1"}']
    host.change(arbiter_error="no route")

    assert before == 1
    assert samples(get(page)[1])['ftvm_arbiter_up{"guest": "vm1"}'] == 0


def test_what_a_host_moved_dropped_and_refused_is_told_as_far_as_it_counts_it(
    page: MetricsPage, host: FakeHost
) -> None:
    host.change(counters={"frames_sent": 5, "bytes_sent": 300, "sends_dropped": 2, "outputs_unrouted": 1, "refused": 4})

    told = samples(get(page)[1])

    assert told['ftvm_frames_sent_total{"guest": "vm1"}'] == 5
    assert told['ftvm_frame_sent_bytes_total{"guest": "vm1"}'] == 300
    assert told['ftvm_frames_dropped_total{"guest": "vm1"}'] == 3
    assert told['ftvm_connections_refused_total{"guest": "vm1"}'] == 4
    assert not [name for name in told if name.startswith("ftvm_messages_sent")]


def test_the_process_and_its_storage_are_told_too(page: MetricsPage, host: FakeHost) -> None:
    host.change(guest_bytes=64 << 20, shadow_bytes=1 << 20)

    told = samples(get(page)[1])

    assert told["process_resident_memory_bytes{}"] > 0
    assert "process_cpu_seconds_total{}" in told
    assert told['ftvm_guest_memory_bytes{"guest": "vm1"}'] == 64 << 20
    assert 'ftvm_storage_written_bytes_total{"guest": "vm1"}' in told


def test_the_counters_of_a_running_host_are_those_of_its_world_and_its_transport() -> None:
    with protect(
        SimGuest(page_count=4, pages_per_step=1, output_every=10, boots=True),
        listen="tcp://127.0.0.1:0",
        arbiter=MemoryRecordStore(),
        create=True,
    ) as protection:
        counters = protection.status().counters

    assert {"messages_sent", "messages_received", "malformed", "refused", "hung_up", "misdeeds"} <= counters.keys()
    assert {part for _, parts in COUNTED.values() for part in parts} >= counters.keys()


def test_the_alerts_ask_only_for_metrics_that_there_are() -> None:
    known = ALL | {f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")}
    rules = (DEPLOY / "alerts.yml").read_text()
    queries = [line.partition("expr:")[2] for line in rules.splitlines() if "expr:" in line]

    asked = {word for query in queries for word in _words(query) if word.startswith("ftvm_")}

    assert len(queries) >= 6
    assert asked <= known
    assert rules.count("summary:") == rules.count("- alert:") == len(queries)


def test_histograms_are_cumulative_and_whole(page: MetricsPage) -> None:
    told = samples(get(page)[1])

    assert told['ftvm_pause_seconds_bucket{"guest": "vm1", "le": "1e-05"}'] == 0
    assert told['ftvm_pause_seconds_bucket{"guest": "vm1", "le": "2e-05"}'] == 1
    assert told['ftvm_pause_seconds_bucket{"guest": "vm1", "le": "0.0005"}'] == 3
    assert told['ftvm_pause_seconds_bucket{"guest": "vm1", "le": "0.5"}'] == 3
    assert told['ftvm_pause_seconds_bucket{"guest": "vm1", "le": "+Inf"}'] == 4
    assert told['ftvm_pause_seconds_count{"guest": "vm1"}'] == 4
    assert told['ftvm_pause_seconds_sum{"guest": "vm1"}'] == pytest.approx(0.900615)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", "404 Not Found"),
        (b"POST /metrics HTTP/1.1", "405 Method Not Allowed"),
        (b"\x16\x03\x01", "405 Method Not Allowed"),
        (b"GET /" + b"x" * REQUEST_BYTES_MAX, "431 Request Header Fields Too Large"),
    ],
)
def test_a_wrong_request_is_answered_as_http_has_it(page: MetricsPage, request_line: bytes, status: str) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=WAIT_SECONDS) as client:
        client.sendall(request_line + b"\r\n\r\n")

        assert receive(client, page)[0] == f"HTTP/1.1 {status}"


@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_nothing_that_is_said_breaks_the_page(pieces: list[bytes]) -> None:
    answer = _Answer(lambda: b"page")

    said = b"".join(answer.take(piece) for piece in pieces)

    assert said.count(b"HTTP/1.1 ") <= 1
    assert answer.is_over == bool(said)


def test_half_a_request_holds_nobody_up(page: MetricsPage) -> None:
    with socket.create_connection(("127.0.0.1", page.port)) as slow:
        slow.sendall(b"GET /metr")

        assert get(page)[0] == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("address", ["9753", "here", "127.0.0.1:99999", "unix:/x"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        MetricsPage(address)


def test_a_busy_port_is_named(page: MetricsPage) -> None:
    with pytest.raises(TransportError, match=f"metrics 127.0.0.1:{page.port}: cannot listen there: Address already"):
        MetricsPage(f"127.0.0.1:{page.port}")


def test_a_real_host_is_scraped_while_it_runs() -> None:
    page = MetricsPage("127.0.0.1:0")
    with (
        protect(
            SimGuest(page_count=4, pages_per_step=1, output_every=10, boots=True),
            listen="tcp://127.0.0.1:0",
            arbiter=MemoryRecordStore(),
            create=True,
            guest_id="vm1",
            services=[page],
        ),
        urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics", timeout=WAIT_SECONDS) as answer,
    ):
        told = samples(answer.read().decode())

    assert told['ftvm_role{"guest": "vm1", "role": "active"}'] == 1
    assert told['ftvm_generation{"guest": "vm1"}'] == 1


ALL = {
    "ftvm_role",
    "ftvm_engine",
    "ftvm_state",
    "ftvm_events_total",
    *GAUGES,
    *(f"{name}_total" for name in (*COUNTERS, *COUNTED, *STORAGE)),
    *HISTOGRAMS,
}


def test_every_metric_is_documented_and_no_other() -> None:
    lines = (DEPLOY / "METRICS.md").read_text().splitlines()
    documented = {line.split("`")[1].partition("{")[0] for line in lines if line.startswith("| `ftvm_")}

    assert documented == ALL


def test_the_dashboard_asks_only_for_metrics_that_there_are() -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    known = ALL | {f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")}

    asked = {word for query in queries for word in _words(query) if word.startswith("ftvm_")}

    assert len(queries) >= 8
    assert asked <= known
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def _words(query: str) -> list[str]:
    return "".join(letter if letter.isalnum() or letter == "_" else " " for letter in query).split()
