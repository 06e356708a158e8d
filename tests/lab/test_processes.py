import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.errors import BrokenError, LimitExceeded
from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Child, Children
from ftvm.units import seconds_to_nanos

TICK = seconds_to_nanos(0.05)


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children()
    yield children
    children.close()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def pump_until(children: Children, is_done: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if is_done():
            return
        children.pump(TICK)
    raise AssertionError("the children did not get there")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_json_lines_reach_the_listener_in_order_and_other_words_are_kept(children: Children) -> None:
    heard: list[JsonLine] = []
    code = (
        "import sys; print('{\"n\": 1}'); print('hello'); print('{bad'); sys.stderr.write('oh\\n'); print('{\"n\": 2}')"
    )
    child = children.start("talker", python(code), heard.append)
    child.is_expected_to_end = True

    pump_until(children, lambda: len(heard) == 2 and not child.is_alive)

    assert heard == [{"n": 1}, {"n": 2}]
    children.pump(0)
    assert {"  hello", "  {bad", "  oh"} <= set(child.last_words().splitlines())


def test_a_wait_ends_as_soon_as_there_is_something(children: Children) -> None:
    heard: list[JsonLine] = []
    looks = []
    child = children.start("talker", python("print('{}')"), heard.append)
    child.is_expected_to_end = True

    found = children.wait_for(lambda: heard or None, 1_000 * TICK, "it talks", meanwhile=lambda: looks.append(1))

    assert found == [{}]
    assert looks


def test_a_wait_in_vain_says_for_what_and_how_things_stand(children: Children) -> None:
    with pytest.raises(BrokenError, match=r"waited 0.05 s in vain until pigs fly\nnone has wings"):
        children.wait_for(lambda: None, TICK, "pigs fly", explain=lambda: "none has wings")


def test_a_wait_ends_when_a_child_ends_that_nobody_asked_to(children: Children) -> None:
    children.start("mortal", python("raise SystemExit('no more')"), list)

    with pytest.raises(BrokenError, match=r"mortal ended with status 1(.|\n)*no more"):
        children.wait_for(lambda: None, 1_000 * TICK, "pigs fly")


def test_child_hears_what_it_is_told(children: Children) -> None:
    heard: list[JsonLine] = []
    child = children.start("echo", python("print(input())"), heard.append, listens=True)
    child.is_expected_to_end = True

    child.tell({"say": "hello"})
    pump_until(children, lambda: bool(heard))

    assert heard == [{"say": "hello"}]


def test_child_that_ends_unasked_is_reported_with_its_last_words(children: Children) -> None:
    code = "import sys; sys.exit('the disk is full')"
    child = children.start("writer", python(code), lambda _: None)

    pump_until(children, lambda: not child.is_alive)

    with pytest.raises(BrokenError, match=r"writer ended with status 1(.|\n)*the disk is full"):
        children.check()


def test_child_that_a_signal_ended_is_reported_by_its_name(children: Children) -> None:
    child = children.start("sleeper", python("import time; time.sleep(100)"), lambda _: None)
    child.process.send_signal(signal.SIGTERM)

    pump_until(children, lambda: not child.is_alive)

    with pytest.raises(BrokenError, match="sleeper was ended by SIGTERM"):
        children.check()


def test_killed_child_is_gone_and_not_reported(children: Children) -> None:
    child = children.start("sleeper", python("import time; time.sleep(100)"), lambda _: None)

    child.kill()

    assert not child.is_alive
    assert child.process.returncode == -signal.SIGKILL
    children.check()


def test_close_ends_a_child_that_ignores_sigterm() -> None:
    children = Children()
    heard: list[JsonLine] = []
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); time.sleep(100)"
    )
    child = children.start("stubborn", python(code), heard.append)
    pump_until(children, lambda: bool(heard))

    children.close()
    children.close()

    assert not is_running(child.process.pid)


def test_children_die_with_a_program_that_is_killed(children: Children) -> None:
    heard: list[JsonLine] = []
    code = """
from ftvm.lab.processes import Children
child = Children().start("inner", ["sleep", "100"], print)
print('{"pid": %d}' % child.process.pid, flush=True)
import time; time.sleep(100)
"""
    child = children.start("outer", python(code), heard.append)
    pump_until(children, lambda: bool(heard))
    inner = heard[0]["pid"]
    assert is_running(inner)

    child.process.kill()

    pump_until(children, lambda: has_ended(inner))


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or is only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_run_waits_for_the_end_and_tells_why_it_failed(children: Children) -> None:
    children.run("fine", python("pass"), seconds_to_nanos(60))

    with pytest.raises(BrokenError, match=r"poor ended with status 3(.|\n)*no keys"):
        children.run("poor", python("import sys; print('no keys'); sys.exit(3)"), seconds_to_nanos(60))


def test_program_that_does_not_exist_is_an_error_that_names_it(children: Children) -> None:
    with pytest.raises(BrokenError, match="ghost cannot be started"):
        children.start("ghost", ["/nonexistent/ghost"], lambda _: None)


def test_endless_line_is_refused() -> None:
    child = Child("babbler", [sys.executable, "-c", ""], lambda _: None, subprocess.DEVNULL)
    child.process.wait()

    child.take("stdout", b"x" * (1 << 20))
    with pytest.raises(LimitExceeded, match="a line of babbler"):
        child.take("stdout", b"x")

    child.give_back()
