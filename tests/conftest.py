"""What holds for all tests: hypothesis measures no time, as a busy machine is no bug, and draws the same examples in
each run, as nobody is to be stopped by a bug that is not his; CI skips nothing by accident.

All tests, or a folder of them, run in as many processes as there are cores; files that are named run in this one, where
a debugger reaches them. `-n 0` and `-n 3` say otherwise.
"""

import os
import signal
from collections.abc import Generator
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ftvm", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("exploring", settings.get_profile("ftvm"), derandomize=False)
settings.load_profile("ftvm")

SKIPPED_IN_CI: Final = ("needs the Linux guest", "no namespaces here", "needs root", "only root", "needs KVM")
"""What CI lacks: the kernel takes too long to build for every landing (.ci/full builds it), and it may not be root."""

WORKERS_MAX: Final = 4
"""More would time each other out: many tests are made of several processes that wait for each other."""

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, which commands take for their user's wish


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip in CI into a failure, unless its reason is a known one: CI installs what the others need."""
    report = yield
    if os.environ.get("FTVM_CI") and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not any(known in reason for known in SKIPPED_IN_CI):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where nothing should be missing: {reason}"
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Say how many processes `-n auto` is; 0 is this one alone."""
    if all(".py" in argument for argument in config.args):
        return 0
    return min(len(os.sched_getaffinity(0)), WORKERS_MAX)
