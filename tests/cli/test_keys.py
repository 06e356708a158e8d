"""Keys of real hosts: read at the start, and then not again."""

import signal
from contextlib import ExitStack
from pathlib import Path

from ftvm.transport.keys import write_keypair

from .hostpair import Hosts, wait_for


def test_key_files_that_are_replaced_while_a_pair_runs_keep_it_from_no_takeover(tmp_path: Path) -> None:
    """An operator lays out new keys, and then starts the hosts again, one after the other."""
    with ExitStack() as stack:
        hosts = Hosts(stack, tmp_path)
        for name in ("a", "b"):
            (tmp_path / f"{name}.key").unlink()
            (tmp_path / f"{name}.pub").unlink()
            write_keypair(tmp_path / name)

        hosts.primary.send_signal(signal.SIGKILL)

        assert wait_for(hosts.standby, "TookOver")["generation"] == 3
