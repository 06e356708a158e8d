"""``ftvm chaos``: break a real pair in every way there is, round after round, and check that nothing was lost."""

import json
import sys

import click

from ftvm.cli.signals import Stopped
from ftvm.engines.names import ENGINES, engine_named
from ftvm.lab.chaos.campaign import run
from ftvm.lab.chaos.values import ARBITERS, CampaignOutcome, ChaosOptions

__all__ = ["chaos"]

INTERVAL_SECONDS = 0.025


@click.command()
@click.option("--rounds", default=50, show_default=True, type=click.IntRange(min=1), help="How many faults.")
@click.option("--seed", default=1, show_default=True, help="Chooses the faults, their moments and the requests.")
@click.option(
    "--engine", default="all", show_default=True, metavar="NAME", help=f"all, or one of {', '.join(ENGINES)}."
)
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(min=1), help="Pairs side by side.")
@click.option("--arbiter", default="file", show_default=True, type=click.Choice(ARBITERS), help="Who decides.")
@click.option("--keep", is_flag=True, help="Keep the folder of the run even if nothing was wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def chaos(rounds: int, seed: int, engine: str, jobs: int, arbiter: str, keep: bool, as_json: bool) -> None:
    """Break a running pair in every way there is, round after round, and check that nothing was lost.

    Each pair is two hosts, a link between them, an arbiter, a switch and a client that never stops asking, all real
    processes, in their own network where root allows. A round kills, stops or cuts off some of them, starves the
    arbiter of room or takes it away, then waits until the guest is protected again. The client's history must be
    linearizable, the arbiter's records must follow the rules, and no host may fail.

    Where both hosts are killed the guest is lost, as it must be; it is then started again, as by an operator.

    Exit status: 0 if all rounds were clean; 1 if anything was violated, or took too long to be judged; 2 for a wrong
    option. Progress goes to standard error; what went wrong stays in the folder that is named.
    """
    if engine != "all":
        engine_named(engine, INTERVAL_SECONDS, None)
    engines = tuple(ENGINES) if engine == "all" else (engine,)
    options = ChaosOptions(rounds=rounds, seed=seed, engines=engines, jobs=jobs, arbiter=arbiter, keep=keep)
    try:
        outcome = run(options, lambda text: click.echo(text, err=True))
    except Stopped as stopped:
        click.echo(f"ftvm chaos: stopped by {stopped}; all its processes are ended", err=True)
        raise
    click.echo(json.dumps(outcome.as_dict()) if as_json else _summary(outcome))
    sys.exit(0 if outcome.is_good else 1)


def _summary(outcome: CampaignOutcome) -> str:
    facts = outcome.as_dict()
    lines = [
        f"{'not in time' if each.is_late else 'wrong'} in round {each.round} ({each.fault}, {each.engine}): {each.what}"
        for each in outcome.violations
    ]
    if outcome.trouble is not None:
        lines.append(f"the run could not go on: {outcome.trouble}")
    lines += [f"skipped {fault}: {reason}" for fault, reason in outcome.skipped.items()]
    lines += [f"{count:6}  {fault}" for fault, count in facts["faults"].items()]
    lines.append(f"{facts['rounds']} rounds, {facts['takeovers']} takeovers, {facts['requests']} requests answered")
    for name in ("gap_ms", "healed_ms"):
        figures = ", ".join(f"{figure} {ms:.0f} ms" for figure, ms in facts[name].items())
        lines.append(f"{'longest wait of a client' if name == 'gap_ms' else 'protected again after'}: {figures}")
    if outcome.folder is not None:
        lines.append(f"logs are in {outcome.folder}")
    lines.append(outcome.verdict)
    return "\n".join(lines)
