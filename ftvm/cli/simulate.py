"""``ftvm simulate``: play many seeded histories of two or three hosts, and report each that breaks an invariant."""

import contextlib
import json
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from ftvm.cli.signals import Stopped
from ftvm.engines.names import ENGINES
from ftvm.errors import ConfigError
from ftvm.lab.campaign import Hunt, campaign, hunt
from ftvm.runtime.clock import MonotonicClock
from ftvm.sim.legend import LEGEND
from ftvm.sim.mutants import MUTANTS
from ftvm.sim.mutation import mutate
from ftvm.sim.run import NO_FAULTS, Figures, Run, parse_faults, play
from ftvm.sim.shrink import shrink

__all__ = ["simulate"]

PROGRESS_NS = 1_000_000_000

_SEEDS_KEPT = 2
"""So many seeds are kept for each mutant: one may drift past it when the world changes a little."""


@click.command()
@click.option("--seeds", default=100, show_default=True, type=click.IntRange(min=1), help="How many seeds to play.")
@click.option("--start", default=0, show_default=True, type=click.IntRange(min=0), help="The first seed.")
@click.option("--seed", type=click.IntRange(min=0), help="Play this seed alone.")
@click.option("--engine", type=click.Choice(list(ENGINES)), help="Protect with this engine.  [default: drawn]")
@click.option("--mutant", metavar="NAME", help="Break the code on purpose, until a seed finds it; or 'list', or 'all'.")
@click.option("--record", type=click.Path(path_type=Path), help="With --mutant all: write the seeds that found each.")
@click.option("--only", metavar="FAULTS", help="With --seed: let in these faults alone, like crash:2,loss:14; or none.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="How many processes.")
@click.option("--trace", is_flag=True, help="With --seed: print every event as text, one a line, with a legend.")
@click.option("--no-shrink", is_flag=True, help="Do not look for fewer faults that break the same invariant.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, nothing else.")
def simulate(
    seeds: int,
    start: int,
    seed: int | None,
    engine: str | None,
    mutant: str | None,
    record: Path | None,
    only: str | None,
    jobs: int,
    trace: bool,
    no_shrink: bool,
    as_json: bool,
) -> None:
    """Test the protocol in simulated histories full of faults, and check every invariant after every step.

    The production code, from the endpoint down to the C core, runs on virtual time between a simulated network, arbiter
    and guest, which fail as the seed says. The same seed is the same history, on any machine. A seed that breaks an
    invariant is played again with fewer and fewer faults, and the smallest history found is printed: it can be played
    again with --seed and --only.

    Exit status: 0 if every invariant held, 1 if not (with --mutant: 0 if the break was found, 1 if not), 2 for a wrong
    option, 130 if stopped, after telling what was done so far.
    """
    _check_together(seed, mutant, record, only, trace=trace, as_json=as_json)
    if mutant == "list":
        _list_mutants(as_json=as_json)
        return
    if mutant == "all":
        sys.exit(_hunt_all(range(start, start + seeds), engine, jobs, record, as_json=as_json))
    if seed is not None:
        sys.exit(_play_one(seed, engine, mutant, only, trace=trace, as_json=as_json, shrinks=not no_shrink))
    sys.exit(_play_many(range(start, start + seeds), engine, mutant, jobs, as_json=as_json, shrinks=not no_shrink))


def _check_together(
    seed: int | None, mutant: str | None, record: Path | None, only: str | None, *, trace: bool, as_json: bool
) -> None:
    """Raise ConfigError for options that do not go together."""
    if mutant not in (None, "all", "list", *MUTANTS):
        raise ConfigError(f"unknown mutant {mutant!r}; the names are: {', '.join(MUTANTS)}")
    if seed is None and (only is not None or trace):
        raise ConfigError("--only and --trace are about one history: name its seed with --seed")
    if trace and as_json:
        raise ConfigError("--trace prints text, and --json nothing but one object: leave one of them out")
    if mutant == "all" and seed is not None:
        raise ConfigError("--mutant all plays many seeds: say which with --start and --seeds, not with --seed")
    for option in ("seeds", "start", "jobs"):
        if seed is not None and _is_given(option):
            raise ConfigError(f"--{option} is about many seeds, and --seed plays one alone: leave one of them out")
    if record is None:
        return
    if mutant != "all":
        raise ConfigError("--record is about all mutants: add --mutant all")
    try:
        record.open("a").close()  # now, not after an hour of playing
    except OSError as wrong:
        raise ConfigError(f"--record {record} cannot be written: {wrong.strerror}") from wrong


def _is_given(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.COMMANDLINE


def _list_mutants(*, as_json: bool) -> None:
    listed = {name: mutant.breaks for name, mutant in MUTANTS.items()}
    click.echo(json.dumps(listed) if as_json else "\n".join(f"{name}: {breaks}" for name, breaks in listed.items()))


def _play_one(
    seed: int, engine: str | None, mutant: str | None, only: str | None, *, trace: bool, as_json: bool, shrinks: bool
) -> int:
    faults = None if only is None else parse_faults(only)
    with mutate(mutant) if mutant is not None else contextlib.nullcontext():
        history = play(seed, engine=engine, only=faults, traces=trace)
        if trace:
            click.echo(LEGEND)
            click.echo("\n".join(history.lines))
        figures = Figures()
        figures.add(history)
        if as_json:
            click.echo(json.dumps(figures.as_dict()))
        else:
            _tell(figures, None)
            if shrinks and faults is None and not trace:
                _tell_shrunk(history, engine, mutant)
    return _status(figures, mutant)


def _play_many(seeds: range, engine: str | None, mutant: str | None, jobs: int, *, as_json: bool, shrinks: bool) -> int:
    clock, figures = MonotonicClock(), Figures()
    began = told_at = clock.now()
    stopped: Stopped | None = None
    try:
        with contextlib.closing(campaign(seeds, engine=engine, mutant=mutant, jobs=jobs)) as histories:
            for history in histories:
                figures.add(history)
                if history.invariant is not None and not as_json:
                    click.echo(f"seed {history.seed} ({history.engine}), step {history.step}: {history.what}", err=True)
                if mutant is not None and figures.violations:
                    break
                if sys.stderr.isatty() and clock.now() - told_at > PROGRESS_NS:
                    told_at = clock.now()
                    click.echo(
                        f"\r{figures.seeds} of {len(seeds)} seeds, {figures.takeovers} takeovers", nl=False, err=True
                    )
    except Stopped as signal:
        stopped = signal
    seconds = (clock.now() - began) / 1e9
    if as_json:
        click.echo(json.dumps({**figures.as_dict(), "seconds": round(seconds, 2)}))
    else:
        _tell(figures, seconds)
    if stopped is not None:
        click.echo(f"ftvm simulate: stopped by {stopped} after {figures.seeds} of {len(seeds)} seeds", err=True)
        raise stopped
    if figures.violations and shrinks and not as_json:
        with mutate(mutant) if mutant is not None else contextlib.nullcontext():
            _tell_shrunk(figures.violations[0], engine, mutant)
    return _status(figures, mutant)


def _hunt_all(seeds: range, engine: str | None, jobs: int, record: Path | None, *, as_json: bool) -> int:
    """Search with every mutant in turn; print each result, or all at the end as JSON."""
    hunts: list[Hunt] = []
    try:
        for mutant in MUTANTS:
            hunts.append(hunt(mutant, seeds, engine=engine, jobs=jobs, enough=_SEEDS_KEPT))
            if not as_json:
                click.echo(_hunt_line(hunts[-1]))
            if record is not None:
                record.write_text(json.dumps({each.mutant: _seeds_of(each) for each in hunts}, indent=1) + "\n")
    except Stopped as signal:
        click.echo(f"ftvm simulate: stopped by {signal} after {len(hunts)} of {len(MUTANTS)} mutants", err=True)
        raise
    finally:
        if as_json:
            click.echo(json.dumps({"mutants": {each.mutant: _hunt_facts(each) for each in hunts}}))
    return 0 if all(each.found for each in hunts) else 1


def _hunt_line(hunted: Hunt) -> str:
    what = hunted.found[0].what if hunted.found else "NOT FOUND"
    return f"{hunted.mutant}: seeds {_seeds_of(hunted)} of {hunted.tried}: {what}"


def _hunt_facts(hunted: Hunt) -> dict[str, object]:
    what = hunted.found[0].what if hunted.found else None
    return {"seeds": _seeds_of(hunted), "tried": hunted.tried, "what": what}


def _seeds_of(hunted: Hunt) -> list[int]:
    return [history.seed for history in hunted.found]


def _status(figures: Figures, mutant: str | None) -> int:
    is_as_hoped = bool(figures.violations) == (mutant is not None)
    return 0 if is_as_hoped else 1


def _tell(figures: Figures, seconds: float | None) -> None:
    told = figures.as_dict()
    took = f" in {seconds:.1f} s, {figures.seeds / seconds:.1f} a second" if seconds else ""
    click.echo(f"{figures.seeds} seeds{took}: {told['virtual_seconds']} virtual seconds, {figures.steps} steps")
    click.echo(f"engines: {_counts(told['engines'])}")
    click.echo(f"faults: {_counts(told['faults'])}")
    click.echo(
        f"takeovers: {figures.takeovers}, switchovers: {figures.switchovers}, "
        f"guests lost to two failures at once: {figures.lost}"
    )
    for one in figures.violations:
        click.echo(f"VIOLATION seed {one.seed} ({one.engine}), step {one.step}: {one.what}")
    if not figures.violations:
        click.echo("no violation")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"


def _tell_shrunk(failing: Run, engine: str | None, mutant: str | None) -> None:
    if failing.invariant is None:
        return
    shrunk = shrink(failing, engine=engine)
    faults = ",".join(map(str, shrunk.faults))
    command = f"ftvm simulate --seed {failing.seed} --only {faults or NO_FAULTS}"
    command += f" --engine {engine}" if engine is not None else ""
    command += f" --mutant {mutant}" if mutant is not None else ""
    click.echo(
        f"seed {failing.seed} needs {len(shrunk.faults)} of {len(failing.faults)} faults ({shrunk.tries} tries):"
    )
    click.echo(f"  {shrunk.run.what}")
    click.echo(f"  {command} --trace")
