"""Kill the host of a running virtual machine, twice: ftvm's public API on one page. Run it as it is.

Two processes play two hosts. Their guest is a small RISC-V program that counts the beats of a timer on its console. The
host it runs on is killed with SIGKILL; the other takes over; the count goes on without a gap.
"""

import multiprocessing
import tempfile

import ftvm


def make_guest(boots):
    """Make the guest; a standby's memory comes over the wire."""
    program = ftvm.read_program("ticks") if boots else None
    return ftvm.RiscvGuest(program, clock=ftvm.MonotonicClock(), mac=None, command_line="ms=3 beats=0")


def run_host(make_guest, name, peer, folder, keys, console, protected, boots):
    """Be one host. Both are built alike; only one boots the guest at first."""
    guest = make_guest(boots)
    pair = {
        "listen": f"ipc://{folder}/{name}",  # between machines: tcp://ADDRESS:PORT
        "peers": [f"ipc://{folder}/{peer}"],
        "arbiter": f"file://{folder}",  # between machines: storage that both reach
        "keys": keys,
        "engine": ftvm.Remus(interval=0.025),
        "world": ftvm.CallbackWorld(console.send),  # gets each output once it is safe to let it out
    }
    # A standby's wait() returns when this host has taken over, with the same thing that protect() returns.
    host = ftvm.protect(guest, create=True, **pair) if boots else ftvm.Standby(guest, **pair).wait()
    host.wait_protected()  # returns when the other host could take over from this one
    protected.set()
    host.wait()


def start(make_guest, name, peer, folder, keys, boots=False):
    """Start a host process; `console` is our end of what its guest says."""
    console, far_end = multiprocessing.Pipe(duplex=False)
    protected = multiprocessing.Event()
    arguments = (make_guest, name, peer, folder, keys[name], far_end, protected, boots)
    host = multiprocessing.Process(target=run_host, args=arguments, daemon=True)
    host.console, host.protected = console, protected
    host.start()
    far_end.close()
    return host


def follow(host, is_over, last):
    """Print what the guest says; return the number of its last output. Each number must come, in order."""
    while not is_over():
        try:
            output = host.console.recv() if host.console.poll(0.05) else None
        except (EOFError, OSError):
            break  # the host is dead, and all that it let out has been read
        if output is not None and output.number > last:  # around a takeover an output may come twice
            if output.number != last + 1:
                raise SystemExit(f"output {last + 1} was lost")
            last = output.number
            print("   ", output.payload.decode().rstrip(), flush=True)
    return last


def main(make_guest):
    """Kill host A, then host B, each once its guest is protected."""
    keys = dict(zip("AB", ftvm.generate_keys(2), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        hosts = {
            "A": start(make_guest, "A", "B", folder, keys, boots=True),
            "B": start(make_guest, "B", "A", folder, keys),
        }
        last = 0
        for victim, survivor in ("AB", "BA"):
            last = follow(hosts[victim], hosts[victim].protected.is_set, last)
            print(f"host {victim} is protected; it is killed now", flush=True)
            hosts[victim].kill()
            last = follow(hosts[victim], lambda: False, last)
            hosts[victim] = start(make_guest, victim, survivor, folder, keys)  # comes back, as the standby
        last = follow(hosts["A"], hosts["A"].protected.is_set, last)
        assert hosts["A"].protected.is_set(), "the last host has ended by itself"
        print(f"{last} outputs, none lost, over two dead hosts")
        for host in hosts.values():
            host.kill()


if __name__ == "__main__":
    main(make_guest)
