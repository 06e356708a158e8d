import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest

from ftvm.lab.stage import free_ports

ETCD = shutil.which("etcd")


class EtcdCluster:
    """Members of a real etcd on loopback, each a separate process."""

    def __init__(self, path: Path, count: int, certificates: dict[str, str] | None = None) -> None:
        self.certificates = certificates
        ports = free_ports(socket.SOCK_STREAM, 2 * count)
        self.client_ports, self.peer_ports = ports[:count], ports[count:]
        self.path = path
        self.processes = [self._start(number) for number in range(count)]

    @property
    def url(self) -> str:
        return "etcd://" + ",".join(f"127.0.0.1:{port}" for port in self.client_ports)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        assert ETCD is not None
        scheme = "https" if self.certificates else "http"
        clients = f"{scheme}://127.0.0.1:{self.client_ports[number]}"
        peers = [f"http://127.0.0.1:{port}" for port in self.peer_ports]
        cluster = ",".join(f"m{index}={peer}" for index, peer in enumerate(peers))
        options = {
            "name": f"m{number}",
            "data-dir": str(self.path / f"m{number}"),
            "listen-client-urls": clients,
            "advertise-client-urls": clients,
            "listen-peer-urls": peers[number],
            "initial-advertise-peer-urls": peers[number],
            "initial-cluster": cluster,
            "initial-cluster-token": str(self.peer_ports[0]),
            "log-level": "error",
        }
        if self.certificates:
            options |= {
                "cert-file": self.certificates["host.pem"],
                "key-file": self.certificates["host.key"],
                "trusted-ca-file": self.certificates["ca.pem"],
                "client-cert-auth": "true",
            }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        with (self.path / f"m{number}.log").open("ab") as log:
            return subprocess.Popen([ETCD, *arguments], stdout=log, stderr=log)

    def wait_until_healthy(self) -> None:
        for number in range(len(self.processes)):
            for _ in range(1_200):
                if self.is_healthy(number):
                    break
                try:
                    self.processes[number].wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
                pytest.fail((self.path / f"m{number}.log").read_text()[-2000:])
            else:
                pytest.fail("etcd did not become healthy")

    def is_healthy(self, number: int) -> bool:
        connection = self._connect(self.client_ports[number])
        try:
            connection.request("GET", "/health")
            return bool(json.loads(connection.getresponse().read()).get("health") == "true")
        except (OSError, ValueError):
            return False
        finally:
            connection.close()

    def _connect(self, port: int) -> HTTPConnection:
        if self.certificates is None:
            return HTTPConnection("127.0.0.1", port, timeout=2)
        context = ssl.create_default_context(cafile=self.certificates["ca.pem"])
        context.load_cert_chain(self.certificates["host.pem"], self.certificates["host.key"])
        return HTTPSConnection("127.0.0.1", port, timeout=2, context=context)

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait()

    def restart(self, number: int) -> None:
        self.processes[number] = self._start(number)

    def close(self) -> None:
        for number in range(len(self.processes)):
            self.kill(number)


@pytest.fixture
def etcd_cluster(tmp_path: Path) -> Iterator[Callable[..., EtcdCluster]]:
    if ETCD is None:
        pytest.skip("etcd is not installed: apt-get install etcd-server")
    clusters: list[EtcdCluster] = []

    def start(count: int, certificates: dict[str, str] | None = None) -> EtcdCluster:
        path = tmp_path / f"cluster{len(clusters)}"
        path.mkdir()
        clusters.append(EtcdCluster(path, count, certificates))
        clusters[-1].wait_until_healthy()
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()
