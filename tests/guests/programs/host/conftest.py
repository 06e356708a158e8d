"""Parts of the guest programs, built for the host with sanitizers: what their tests share."""

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[4] / "examples" / "guests"

COMPILERS = ("clang", "gcc")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def sanitizing_compiler(scratch: Path) -> str | None:
    """Return the first compiler that makes a sanitized program that runs; None if none does.

    That one is installed is not enough: Debian's clang comes without the runtime of its sanitizers.
    """
    source, program = scratch / "probe.c", scratch / "probe"
    source.write_text("int main(void) { return 0; }\n")
    for compiler in COMPILERS:
        if shutil.which(compiler) is None:
            continue
        made = subprocess.run(
            [compiler, *SANITIZE, source, "-o", program], capture_output=True, timeout=120, check=False
        )
        if made.returncode == 0 and subprocess.run([program], capture_output=True, check=False).returncode == 0:
            return compiler
    return None


class HostBuild:
    """The server's network half, built for the host with sanitizers: what goes in comes out at once."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def answer(self, frame: bytes) -> bytes:
        """The answer to `frame`; empty without one."""
        return self._exchange(struct.pack(">H", len(frame)) + frame)

    def announcement(self) -> bytes:
        return self._exchange(b"\xff\xff")

    def _exchange(self, data: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()
        length = self._process.stdout.read(2)
        assert len(length) == 2, "the program died; its last words are above"
        return self._process.stdout.read(struct.unpack(">H", length)[0])

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="session")
def compile_for_host(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, list[str]], Path]:
    """compile_for_host(filter, sources) builds a filter of this folder and these guest sources with sanitizers."""
    compiler = sanitizing_compiler(tmp_path_factory.mktemp("probe"))
    if compiler is None:
        pytest.skip(f"needs a C compiler with sanitizers: {' or '.join(COMPILERS)} (Debian: gcc)")
    flags = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror", *SANITIZE]

    def compile_one(name: str, sources: list[str]) -> Path:
        program = tmp_path_factory.mktemp("host") / name
        paths = [Path(__file__).with_name(f"{name}.c"), *(SOURCES / source for source in sources)]
        subprocess.run([compiler, *flags, f"-I{SOURCES}", *paths, "-o", program], check=True, timeout=120)
        return program

    return compile_one


@pytest.fixture(scope="session")
def host_program(compile_for_host: Callable[[str, list[str]], Path]) -> Path:
    sources = ["kv/kv.c", "kv/kv_clients.c", "kv/kv_table.c", "board/text.c"]
    sources += [f"net/{noun}.c" for noun in ("arp", "checksum", "icmp", "ipv4", "stack", "udp")]
    return compile_for_host("kv_on_host", sources)


@pytest.fixture(scope="session")
def make_server(host_program: Path) -> Callable[[], HostBuild]:
    return lambda: HostBuild(host_program)


@pytest.fixture
def server(host_program: Path) -> Iterator[HostBuild]:
    server = HostBuild(host_program)
    yield server
    server.close()
