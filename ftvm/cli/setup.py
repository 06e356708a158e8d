"""`ftvm setup`: from nothing to the files of a guest's hosts, by questions or by options, and what to do with them."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from ftvm.cli.check import findings_of, print_findings
from ftvm.cli.kinds import KINDS, read_host
from ftvm.cli.setupfiles import PlannedHost, file_name, parse_node, setting_of, write_folders
from ftvm.errors import ConfigError
from ftvm.runtime.names import machine_name
from ftvm.runtime.protection import check_guest_id
from ftvm.service.checks import Finding, Level, is_here

__all__ = ["setup"]

_NODES_MIN: Final = 2
_PROGRAM: Final = "What it runs: the name of a program that comes with ftvm, or an ELF file"
_ASKED_OF_A_KIND: Final = {
    "riscv": (("program", _PROGRAM, "console"),),
    "kvm": (("program", _PROGRAM, "work"),),
    "qemu": (("disk", "Its disk: a raw image on each host, beside the guest file (empty: no disk)", ""),),
}
_ASKED_OF_ALL: Final = (
    ("memory", "Its memory, e.g. 1G", ""),
    ("nic", "Its network card, e.g. tap:vm1 or udp:9001:9000 (empty: no card)", ""),
)


@click.command()
@click.option("--guest", "guest_id", metavar="ID", help="The guest's name in the record.  [default: vm1]")
@click.option("--kind", type=click.Choice(list(KINDS)), help="What runs the guest.  [default: qemu if it is here]")
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="HOST[:PORT]",
    help="A host of the guest, as the others reach it; the first starts it. Give two or more.",
)
@click.option("--arbiter", metavar="URL", help="Where the arbiter keeps the record.  [default: file:///shared/ID]")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another setting of the guest file.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to write.  [default: a folder named as the guest]"
)
@click.option("--batch", is_flag=True, help="Ask nothing: take the default of what is not said.")
@click.option("--json", "is_json", is_flag=True, help="Ask nothing, and print one JSON object instead of text.")
@click.argument("arguments", nargs=-1, metavar="[-- QEMU ARGUMENTS]")
def setup(
    guest_id: str | None,
    kind: str | None,
    nodes: tuple[str, ...],
    arbiter: str | None,
    settings: tuple[str, ...],
    folder: Path | None,
    batch: bool,
    is_json: bool,
    arguments: tuple[str, ...],
) -> None:
    """Write the guest files and keys for all hosts of a guest, say what to copy where, and check this host.

    Asks for what no option says. Nothing is overwritten, and nothing outside of the folder is changed.

    Exit status: 0 if this machine could start its host now, or is not among the hosts; 1 if a check found something,
    with the files written all the same; 2 if a setting is wrong, with nothing written.
    """
    ask: Callable[[str, str, str | None], str] = _default_of if batch or is_json else _asked
    guest = guest_id or ask("--guest", "The guest's name", "vm1")
    check_guest_id(guest)
    likely = "riscv" if shutil.which("qemu-system-x86_64") is None else "qemu"
    wanted = kind or ask("--kind", f"What runs it ({', '.join(KINDS)})", likely)
    if wanted not in KINDS:
        raise ConfigError(f"kind {wanted!r}: write one of {', '.join(KINDS)}")
    hosts = _nodes_of(nodes, ask)
    record = arbiter or ask("--arbiter", "The arbiter's record, where all hosts reach it", f"file:///shared/{guest}")
    said = dict(setting_of(text, wanted) for text in settings)
    for name, question, default in (*_ASKED_OF_A_KIND.get(wanted, ()), *_ASKED_OF_ALL):
        if name not in said and (answer := ask(f"--set {name}", question, default)):
            said[name] = answer
    if arguments:
        said["arguments"] = list(arguments)
    into = (folder or Path(file_name(guest)).with_suffix("")).absolute()
    write_folders(into, hosts, guest=guest, kind=wanted, arbiter=record, settings=said)
    findings = list(_findings(into, hosts, guest))
    if is_json:
        files = {node.name: str(into / node.name / file_name(guest)) for node in hosts}
        found = [{**asdict(each), "level": each.level.value} for each in findings]
        click.echo(json.dumps({"guest": guest, "files": files, "findings": found}))
    else:
        _tell(into, hosts, guest, record, findings)
    sys.exit(1 if any(each.level is Level.FAILURE for each in findings) else 0)


def _asked(option: str, question: str, default: str | None) -> str:
    try:
        return str(click.prompt(question, default=default, show_default=bool(default), err=True))
    except click.Abort as unanswered:
        click.echo(err=True)  # end the line of the question
        raise ConfigError(f"no answer, so nothing was written: add --batch, or {option}") from unanswered


def _default_of(option: str, question: str, default: str | None) -> str:
    if default is None:
        raise ConfigError(f"missing: {option} ({question})")
    return default


def _nodes_of(said: Sequence[str], ask: Callable[[str, str, str | None], str]) -> list[PlannedHost]:
    """Return the nodes: those that were said, else those that are asked for."""
    found: list[PlannedHost] = []
    for text in said:
        found.append(parse_node(text, found))
    while len(found) < _NODES_MIN:
        which, default = ("first", machine_name()) if not found else ("second", None)
        question = f"The {which} host, as the other reaches it: HOST or HOST:PORT"
        found.append(parse_node(ask("--node", question, None if said else default), found))
    return found


def _findings(into: Path, nodes: Sequence[PlannedHost], guest: str) -> Iterator[Finding]:
    """Check the first of the hosts that is this machine, if one is."""
    for number, node in enumerate(nodes):
        if is_here(node.host.strip("[]")):
            yield from findings_of(read_host(into / node.name / file_name(guest), {}, boots=number == 0))
            return


def _tell(into: Path, nodes: Sequence[PlannedHost], guest: str, record: str, findings: Sequence[Finding]) -> None:
    """Say what was written, what the check found, and what to do next."""
    for node in nodes:
        click.echo(f"wrote {into / node.name}: {file_name(guest)}, {node.name}.key, and all public keys")
    if findings:
        click.echo("\nThis machine is one of the hosts:")
        print_findings(findings)
    click.echo("\nNext:")
    steps = _steps_here(into, nodes, guest) if _is_one_machine(nodes) else _steps(into, nodes, guest, record)
    for number, step in enumerate(steps, 1):
        click.echo(f"  {number}. {step}")


def _is_one_machine(nodes: Sequence[PlannedHost]) -> bool:
    return len({node.host for node in nodes}) == 1


def _steps_here(into: Path, nodes: Sequence[PlannedHost], guest: str) -> Iterator[str]:
    """Yield what to do where all hosts are on one machine, to try it."""
    for number, node in enumerate(nodes):
        command, more = ("run", " --create") if number == 0 else ("standby", "")
        yield f"in a separate terminal: ftvm {command} {into / node.name / file_name(guest)}{more}"
    yield "ftvm status"


def _steps(into: Path, nodes: Sequence[PlannedHost], guest: str, record: str) -> Iterator[str]:
    """Yield what to copy where, and how to start."""
    file, unit = f"/etc/ftvm/{file_name(guest)}", Path(file_name(guest)).stem
    first, others = nodes[0].name, ", ".join(node.name for node in nodes[1:])
    for node in nodes:
        copied = f"scp -p {into / node.name}/* root@{node.host}:/etc/ftvm/"
        yield f"on {node.name}, into /etc/ftvm (mode 0700), all files of {node.name}/: {copied}"
    yield "on each, beside these: what the guest file names, such as a disk's image (its own on each host) or a kernel"
    yield f"delete {into}: each folder in it holds a secret key"
    yield f"on {first}: ftvm check {file}; on {others}: ftvm check {file} --role standby"
    yield f"once, on any: ftvm init --arbiter {record} --guest {guest}"
    yield f"on {first}: systemctl start ftvm-run@{unit}; on {others}: systemctl enable --now ftvm-standby@{unit}"
    yield f"then on {first}, so that it comes back as a standby: systemctl enable ftvm-standby@{unit}"
    yield "ftvm status says `protected by` when the first copy is whole"
