"""The commands that start a host: their options are the settings of all kinds of guests, one for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from ftvm.cli.hostrun import run_primary, run_standby
from ftvm.cli.kinds import KINDS, all_settings, read_host
from ftvm.cli.settings import Setting
from ftvm.cli.values import GOES_IN, completing
from ftvm.errors import ConfigError

__all__ = ["host_command"]


class _HostCommand(click.Command):
    """Keeps words after `--` from being taken for FILE: they are for the hypervisor."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split at the first `--`."""
        at = args.index("--") if "--" in args else len(args)
        if args[at + 1 :]:
            ctx.obj = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Add it to the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- QEMU ARGUMENTS]"]


def host_command(name: str, *, boots: bool, explained: str, default_kind: str = "", old: str = "") -> click.Command:
    """Return a command that starts a host: as the first with the guest if it `boots`, else as its standby.

    default_kind  the kind of guest where neither the file nor an option says it
    old           the new name, for a command that was renamed in this version
    """
    params: list[click.Parameter] = [*_options(), *_ONCE]
    if boots:
        params.append(_CREATE)
    if not old:
        params.insert(0, click.Argument(["file"], required=False, type=click.Path(path_type=Path)))

    def start(is_json: bool, config: Path | None, file: Path | None = None, create: bool = False, **given: Any) -> None:
        if old:
            _say_new_name(f"`{click.get_current_context().command_path}`", f"`{old}`")
        if config is not None:
            _say_new_name("`--config FILE`", f"`{old or click.get_current_context().command_path} FILE`")
            if file is not None:
                raise ConfigError(f"give one guest file, not both {config} and {file}")
        options = _options_given(given, click.get_current_context().obj)
        settings = read_host(file or config, options, boots=boots, is_json=is_json, default_kind=default_kind)
        if boots:
            run_primary(settings, create=create)
        else:
            run_standby(settings)

    return _HostCommand(name, params=params, callback=start, help=explained, short_help=explained.partition("\n")[0])


def _say_new_name(before: str, now: str) -> None:
    click.echo(f"ftvm: {before} is now {now}; the old way is gone in {GOES_IN}", err=True)


def _options_given(given: dict[str, Any], behind: Sequence[str] | None) -> dict[str, Any]:
    """Return what the command line gave, by the names of the settings."""
    options = {name.replace("_", "-"): value for name, value in given.items() if value not in (None, ())}
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return {**told, "arguments": list(behind)} if behind is not None else told


def _options() -> list[click.Option]:
    return [
        _option([row for _, row in rows], _explained(rows)) for rows in all_settings().values() if rows[0][1].has_option
    ]


def _option(rows: Sequence[Setting], explained: str) -> click.Option:
    row = rows[0]
    is_flag = row.written == "flag"
    return click.Option(
        [f"--{row.name}/--no-{row.name}" if is_flag else f"--{row.name}"],
        default=None,
        multiple=any(row.is_list for row in rows),
        is_flag=is_flag or None,
        type=_type_of(row),
        metavar=f"[{'|'.join(row.words)}]" if row.words else row.metavar,
        shell_complete=completing(row.words) if row.words else None,
        help=explained,
    )


def _type_of(row: Setting) -> "click.ParamType[Any] | None":
    if row.written == "number":
        return click.FLOAT
    return click.Path() if (row.metavar or "").startswith("FILE") else None  # so that shells complete it


def _explained(rows: Sequence[tuple[str, Setting]]) -> str:
    """Return the help of a setting, with its kinds of guests and its default where they are not the same for all."""
    kinds = [kind for kind, _ in rows]
    texts = {row.help: [kind for kind, each in rows if each.help == row.help] for _, row in rows}
    if "" in kinds or (len(texts) == 1 and len(kinds) == len(KINDS)):
        told = rows[0][1].help
    elif len(texts) == 1:
        told = f"{rows[0][1].help} {_named(kinds)}."
    else:
        told = " ".join(f"{_named(of)}: {text}" for text, of in texts.items())
    defaults: dict[str, list[str]] = {}
    for kind, row in rows:
        if shown := _shown(row.default):
            defaults.setdefault(shown, []).append(kind)
    first, *others = defaults or [""]
    more = "".join(f"; {', '.join(defaults[each])}: {each}" for each in others)
    return f"{told}  [default: {first}{more}]" if first else told


def _named(kinds: Sequence[str]) -> str:
    return f"Kind{'s' if len(kinds) > 1 else ''} {', '.join(kinds)}"


def _shown(default: object) -> str:
    match default:
        case None | "" | bool():
            return ""
        case float():
            return f"{default:g}"
        case _:
            return str(default)


_ONCE: Final = (
    click.Option(
        ["--config"], metavar="FILE", type=click.Path(path_type=Path), hidden=True, help="The old way to name FILE."
    ),
    click.Option(["--json", "is_json"], is_flag=True, help="Print events and status as JSON lines on stdout."),
)
_CREATE: Final = click.Option(
    ["--create"], is_flag=True, help="Create the arbiter's record if it does not exist (or run `ftvm init` first)."
)
