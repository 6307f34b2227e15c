"""From a command line to the command it names, ready to be called, or to one sentence that says what is wrong."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import io
import itertools
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import arg

from .config import EditConfig
from .errors import ConfigError

Command = Callable[..., None]
Commands = Mapping[str, "Command | tuple[str, Mapping[str, Command]]"]
"""Commands by name, and groups of commands with a line about them."""


def option(help: str, **options: Any) -> Any:
    """What the command line says of an argument, for ``Annotated``."""
    return arg(help=help, help_behavior_hint="", **options)


def parse(commands: Commands, arguments: Sequence[str]) -> Callable[[], None]:
    """The command asked for, ready to be called; raises `ConfigError` for a command line that makes none."""
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            command: Callable[[], None] = tyro.cli(
                _either(commands),
                prog="adaflow",
                description="Edit long videos by text.",
                args=list(arguments),
                config=(tyro.conf.DisallowNone,),
            )
    except SystemExit as end:
        if not end.code:
            raise  # --help
        raise ConfigError(_sentence(words.getvalue(), commands, arguments)) from None
    return command


def _either(commands: Commands) -> Any:
    """The commands as one type for tyro; groups of them are types of their own."""
    choices = []
    for name, command in commands.items():
        if isinstance(command, tuple):
            about, group = command
            choices.append(Annotated[_either(group), tyro.conf.subcommand(name, description=about)])
        else:
            choices.append(Annotated[Any, tyro.conf.subcommand(name, constructor=_bound(command))])
    return typing.Union[tuple(choices)]  # noqa: UP007


def _bound(command: Command) -> Callable[..., Callable[[], None]]:
    """`command` with its arguments, not called yet."""

    @functools.wraps(command)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return bind


def _sentence(box: str, commands: Commands, arguments: Sequence[str]) -> str:
    """What tyro says of a wrong command line, in a frame and in several lines, as one sentence."""
    lines = [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    sections = re.split(r"\n[─-]{3,}\n", "\n".join(lines))
    body = sections[0 if "╭" in box else 1]  # where a frame cannot be drawn, the title is a section
    text = " ".join(body.split("Got errors:")[0].split()).removeprefix("Error parsing ").rstrip(".")
    known_names = {*commands, *(name for group in commands.values() if isinstance(group, tuple) for name in group[1])}
    known_options = {option: None for command in _plain(commands).values() for option in _options(command)}
    names = [w for w in arguments[:2] if w in known_names]
    command = " ".join(["adaflow", *names])
    options = [w.split("=")[0] for w in itertools.takewhile(lambda w: w != "--", arguments) if w.startswith("--")]
    unknown = [w for w in options if w.replace("_", "-").replace("no-", "", 1) not in known_options]
    if found := re.match(r"Unrecognized options: ([^ ,]+)", text):
        unknown.append(found[1])
    if unknown:
        own = _plain(commands).get(" ".join(names))
        near = difflib.get_close_matches(unknown[0], _options(own) if own else [*known_options, *known_names], n=1)
        text = f"there is no {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    elif value := re.fullmatch(r"(\S+): no type matching (\S+) could be instantiated from \['(.*)'\]", text):
        text = f"{value[1]} is {value[3]!r}; it must be {_WORDS.get(value[2], value[2])}"
    elif value := re.fullmatch(r"(\S+): invalid literal for int\(\) .*: '(.*)'", text):
        text = f"{value[1]} is {value[2]!r}; it must be {_WORDS['INT']}"
    elif text.startswith("Missing from"):
        wanted = re.findall(r"^(?:-\w [A-Z]+, )?((?:--\S+ )?[A-Z]+)(?:\s\s|$)", body, re.MULTILINE)
        text = f"{command} needs {' and '.join(wanted)}"
    elif value := re.match(r"Missing value for argument '(\w+)'", text):
        text = f"{command} needs {value[1].upper()} (one that starts with '-' goes last, after --)"
    elif text.startswith("Expected one of"):
        text = f"{command} needs a command: {text.removeprefix('Expected one of ').strip('{}')}"
    return f"{text}; see: {command} --help"


_WORDS = {"INT": "a whole number", "FLOAT": "a number"}


def _plain(commands: Commands) -> dict[str, Command]:
    """The commands by all their words: ``edit``, ``eval run``."""
    found: dict[str, Command] = {}
    for name, command in commands.items():
        if isinstance(command, tuple):
            found |= {f"{name} {member}": one for member, one in command[1].items()}
        else:
            found[name] = command
    return found


def _options(command: Command) -> list[str]:
    """The options of a command, with those that are settings of an edit where it takes them."""
    found = ["help"]
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if name == "settings":
            found += EditConfig.names()
        elif parameter.kind is not parameter.POSITIONAL_ONLY:
            said = (getattr(more, "name", None) for more in getattr(hints[name], "__metadata__", ()))
            found.append(next(filter(None, said), None) or name)
    return [f"--{name.replace('_', '-')}" for name in found]
