"""`--config FILE`: a host's options from a TOML file; what is also on the command line counts there."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from ftvm.errors import ConfigError
from ftvm.service.configfile import read_config

__all__ = ["check_word", "config_option", "keys_of", "word_option"]

F = TypeVar("F", bound=Callable[..., Any])

_NOT_KEYS: Final = frozenset({"config", "create", "json", "help"})
"""What belongs to one call, not to a host: `create` is an operator's word, and is not said again at every start."""


def _read(context: click.Context, parameter: click.Parameter, path: Path | None) -> Mapping[str, ConfigError]:
    """Have a file's values be the defaults; return what in it cannot be read, by key."""
    del parameter
    if path is None:
        return {}
    options = _options_of(context.command.params)
    told = read_config(path, {key: _kind(option) for key, option in options.items()})
    context.default_map = {str(options[key].name): value for key, value in told.values.items()}
    return told.misread


config_option: Final = click.option(
    "--config",
    "misread",
    metavar="FILE",
    type=click.Path(path_type=Path),
    is_eager=True,
    callback=_read,
    help="A TOML file whose keys are these options, without dashes. The command line counts where both say something.",
)


def word_option(name: str, words: Sequence[str], *, explained: str) -> Callable[[F], F]:
    """Return an option that is one of `words`, the first of them unless another is said.

    Not a click.Choice, which would end the command at the first wrong one: `check_word` judges it, among all settings.
    """
    return click.option(
        name,
        default=words[0],
        show_default=True,
        metavar=f"[{'|'.join(words)}]",
        shell_complete=lambda _context, _option, begun: [word for word in words if word.startswith(begun)],
        help=explained,
    )


def check_word(key: str, word: str, words: Sequence[str]) -> None:
    """Raise ConfigError unless `word` is one of those that there are."""
    if word not in words:
        raise ConfigError(f"{key} {word!r}: write one of {', '.join(words)}")


def keys_of(command: click.Command) -> dict[str, str]:
    """Return the keys of a command's config file, each with its kind."""
    return {key: _kind(option) for key, option in _options_of(command.params).items()}


def _options_of(parameters: Sequence[click.Parameter]) -> dict[str, click.Option]:
    named = {each.opts[0].removeprefix("--"): each for each in parameters if isinstance(each, click.Option)}
    return {key: option for key, option in named.items() if key not in _NOT_KEYS}


def _kind(option: click.Option) -> str:
    if option.multiple:
        return "texts"
    if option.is_flag:
        return "flag"
    if isinstance(option.type, click.types.IntParamType):
        return "whole number"
    return "number" if isinstance(option.type, click.types.FloatParamType) else "text"
