"""The command line: each command is a sentence over the API, and its options are the fields of `EditConfig`."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import logging
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import tyro
from tyro.conf import Positional, arg

from . import __version__
from .config import EditConfig, Settings
from .console import err
from .errors import AdaFlowError, ConfigError


def _option(help: str, **options: Any) -> Any:
    return arg(help=help, help_behavior_hint="", **options)


def _as_options(cls: type[Settings]) -> type:
    """`cls` as the command line sees it: the same fields, each optional, with its help and its default in words."""
    hints = typing.get_type_hints(cls)
    fields: list[tuple[str, Any, Any]] = []
    for f in dataclasses.fields(cls):
        if f.metadata:
            text = f.metadata["help"].replace("%", "%%")
            if f.metadata["default"] not in (None, ""):
                text += f" (package default: {f.metadata['default']})"
            kind, words = hints[f.name], {}
            if choices := typing.get_args(kind):  # a Literal: left to `Settings`, which says more when it refuses
                kind, words = str, {"metavar": "{" + ",".join(choices) + "}"}
            option: Any = Annotated[Optional[kind], _option(text, **words)]  # noqa: UP045
            fields.append((f.name, option, None))
        else:
            group = _as_options(hints[f.name])
            fields.append((f.name, group, dataclasses.field(default_factory=group)))
    made = dataclasses.make_dataclass(cls.__name__, fields)
    made.__doc__ = (cls.__doc__ or "").strip().splitlines()[0]
    return made


EditOptions: Any = _as_options(EditConfig)


def _config(options: Any, file: Path | None) -> EditConfig:
    """Settings from the command line over those of a file."""

    def flat(node: Any, prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for f in dataclasses.fields(node):
            value = getattr(node, f.name)
            if dataclasses.is_dataclass(value):
                found |= flat(value, f"{prefix}{f.name}.")
            elif value is not None:
                found[prefix + f.name] = value
        return found

    flags = EditConfig.from_fields(flat(options))
    return flags.over(EditConfig.load(file)) if file else flags


_OUT = _option("default: NAME.edited.mp4 beside the source", aliases=["-o"], metavar="FILE")
_PICTURE = _option("default: NAME.preview.png beside the source", aliases=["-o"], metavar="FILE")
_MODEL = _option("a known name (adaflow models list), a hub id, or a folder", metavar="MODEL")
_CONFIG = _option("settings from a YAML file; options go before it", metavar="FILE")
_WORKSPACE = _option("default: one for this video in the user's cache", metavar="FOLDER")
_REPORT = _option("also write a page of figures", metavar="FILE.html")
_JSON = _option("print one JSON document on stdout, and nothing else", name="json")
_VIDEO = _option("the video to edit", metavar="VIDEO")
_PROMPT = _option("what the edited video should show; one that starts with '-' goes last, after --", metavar="PROMPT")


def edit(
    video: Annotated[Positional[Path], _VIDEO],
    prompt: Annotated[Positional[str], _PROMPT],
    /,
    out: Annotated[Optional[Path], _OUT] = None,  # noqa: UP045
    model: Annotated[Optional[str], _MODEL] = None,  # noqa: UP045
    config: Annotated[Optional[Path], _CONFIG] = None,  # noqa: UP045
    workspace: Annotated[Optional[Path], _WORKSPACE] = None,  # noqa: UP045
    report: Annotated[Optional[Path], _REPORT] = None,  # noqa: UP045
    print_config: Annotated[bool, _option("print the complete settings as YAML and stop")] = False,
    json_output: Annotated[bool, _JSON] = False,
    settings: Annotated[EditOptions, arg(name="")] = EditOptions(),  # noqa: B008
) -> None:
    """Edit VIDEO so that it shows PROMPT. The same command again resumes a run that was stopped."""
    from .commands import edit_video

    edit_video(video, prompt, out, model, _config(settings, config), workspace, report, print_config, json_output)


def inspect(
    video: Annotated[Positional[Path], _VIDEO],
    /,
    model: Annotated[Optional[str], _MODEL] = None,  # noqa: UP045
    config: Annotated[Optional[Path], _CONFIG] = None,  # noqa: UP045
    workspace: Annotated[Optional[Path], _WORKSPACE] = None,  # noqa: UP045
    report: Annotated[Optional[Path], _REPORT] = None,  # noqa: UP045
    json_output: Annotated[bool, _JSON] = False,
    settings: Annotated[EditOptions, arg(name="")] = EditOptions(),  # noqa: B008
) -> None:
    """Show the clips and keyframes of VIDEO, and what an edit will take; edits nothing."""
    from .commands import inspect_video

    inspect_video(video, model, _config(settings, config), workspace, report, json_output)


def preview(
    video: Annotated[Positional[Path], _VIDEO],
    prompt: Annotated[Positional[str], _PROMPT],
    /,
    out: Annotated[Optional[Path], _PICTURE] = None,  # noqa: UP045
    model: Annotated[Optional[str], _MODEL] = None,  # noqa: UP045
    config: Annotated[Optional[Path], _CONFIG] = None,  # noqa: UP045
    workspace: Annotated[Optional[Path], _WORKSPACE] = None,  # noqa: UP045
    settings: Annotated[EditOptions, arg(name="")] = EditOptions(),  # noqa: B008
) -> None:
    """Edit four keyframes of VIDEO jointly, as one picture: what the edit will look like."""
    from .commands import preview_video

    preview_video(video, prompt, out, model, _config(settings, config), workspace)


def demo(
    out: Annotated[Path, _option("folder for the videos and the page (default: demo)", metavar="FOLDER")] = Path(
        "demo"
    ),
    frames: Annotated[int, _option("length of the rendered video (default: 64)")] = 64,
) -> None:
    """Render a video of the miniature's world, edit it, and show both."""
    from .demo import run_demo

    run_demo(out, frames)


def models_list(json_output: Annotated[bool, _JSON] = False) -> None:
    """The models known by name, where they come from, and whether they are here."""
    from .commands import list_models

    list_models(json_output)


def models_get(name: Annotated[Positional[str], _option("a known name or a hub id", metavar="NAME")], /) -> None:
    """Fetch a model from the hub: safetensors weights only."""
    from .commands import get_model

    get_model(name)


def workspace_list(json_output: Annotated[bool, _JSON] = False) -> None:
    """The workspaces in the user's cache, with their sizes, the last used first."""
    from .commands import list_all_workspaces

    list_all_workspaces(json_output)


def workspace_show(
    folder: Annotated[Positional[Path], _option("a workspace (adaflow workspace list)", metavar="FOLDER")],
    /,
    json_output: Annotated[bool, _JSON] = False,
) -> None:
    """What one workspace holds."""
    from .commands import show_workspace

    show_workspace(folder, json_output)


def workspace_prune(
    everything: Annotated[bool, _option("delete all of them", name="all")] = False,
    max_gb: Annotated[
        Optional[float],  # noqa: UP045
        _option("delete the least recently used until at most this many GB are left", metavar="GB"),
    ] = None,
    older_than: Annotated[
        Optional[float],  # noqa: UP045
        _option("delete those not used for this many days", metavar="DAYS"),
    ] = None,
) -> None:
    """Delete workspaces in the user's cache, never one in use; needs --all, --max-gb or --older-than."""
    from .commands import prune_all

    prune_all(everything, max_gb, older_than)


_SUITE = _option("which videos and edits (adaflow eval list)", metavar="SUITE")
_METHODS = _option("comma-separated methods or groups (adaflow eval list)", metavar="METHOD,…")
_RESULTS = _option("folder for the results; the same folder again goes on with them", metavar="FOLDER", aliases=["-o"])
_EVAL_MODEL = _option("a known name, a hub id, or a folder (default: miniature, whose world it is)", metavar="MODEL")
_IN = _option("the folder of the run that A and B are methods of", name="in", metavar="FOLDER")
_COMPARED = "a method of the run in --in, the folder of a run, or its results/METHOD"


def eval_run(
    suite: Annotated[str, _SUITE],
    out: Annotated[Path, _RESULTS],
    methods: Annotated[str, _METHODS] = "references",
    model: Annotated[Optional[str], _EVAL_MODEL] = None,  # noqa: UP045
    keep_work: Annotated[bool, _option("leave the workspaces of finished videos in the folder")] = False,
    json_output: Annotated[bool, _JSON] = False,
) -> None:
    """Edit rendered videos whose right answers are known by several methods, and score them. Resumes if stopped."""
    from .eval_commands import run_eval

    run_eval(suite, methods, out, model, keep_work, json_output)


def eval_compare(
    a: Annotated[Positional[str], _option(_COMPARED, metavar="A")],
    b: Annotated[Positional[str], _option("likewise", metavar="B")],
    /,
    folder: Annotated[Optional[Path], _IN] = None,  # noqa: UP045
    json_output: Annotated[bool, _JSON] = False,
) -> None:
    """Which differences between A and B hold, and whether A is non-inferior to B."""
    from .eval_commands import compare_methods

    compare_methods(a, b, folder, json_output)


def eval_list(json_output: Annotated[bool, _JSON] = False) -> None:
    """The suites, and the methods by name."""
    from .eval_commands import list_eval

    list_eval(json_output)


Command = Callable[..., None]

COMMANDS: Mapping[str, Command | tuple[str, Mapping[str, Command]]] = {
    "edit": edit,
    "inspect": inspect,
    "preview": preview,
    "demo": demo,
    "models": ("The models known by name: list, get.", {"list": models_list, "get": models_get}),
    "workspace": (
        "What is kept on disk for each video: list, show, prune.",
        {"list": workspace_list, "show": workspace_show, "prune": workspace_prune},
    ),
    "eval": (
        "The benchmark with ground truth: run, compare, list.",
        {"run": eval_run, "compare": eval_compare, "list": eval_list},
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; turns an `AdaFlowError` into one line on stderr and its exit code."""
    # Other libraries' bars and warnings are not the user's business; they read these when they are imported.
    arguments = sys.argv[1:] if arguments is None else arguments
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    if not (list(arguments[:2]) == ["models", "get"] and sys.stderr.isatty()):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    notes = _Notes()
    logging.getLogger("adaflow").addHandler(notes)
    silence = logging.NullHandler()  # else Python itself prints what no handler takes
    logging.getLogger().addHandler(silence)
    try:
        if list(arguments) == ["--version"]:
            print(f"adaflow {__version__}")
        else:
            _parse(arguments)()
    except AdaFlowError as error:
        _stop(str(error), error.exit_code)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on where this one stopped", 130)
    except MemoryError:
        _stop(_NO_MEMORY, 4)
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's MemoryError on a CPU
            raise
        _stop(_NO_MEMORY, 4)
    finally:
        logging.getLogger("adaflow").removeHandler(notes)
        logging.getLogger().removeHandler(silence)


_NO_MEMORY = "the memory ran out; lower --height, or close other programs, and run the same command again"


def _parse(arguments: Sequence[str]) -> Callable[[], None]:
    """The command asked for, ready to be called; raises `ConfigError` for a command line that makes none."""
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            command: Callable[[], None] = tyro.cli(
                _either(COMMANDS),
                prog="adaflow",
                description="Edit long videos by text.",
                args=list(arguments),
                config=(tyro.conf.DisallowNone,),
            )
    except SystemExit as end:
        if not end.code:
            raise  # --help
        raise ConfigError(_sentence(words.getvalue(), arguments)) from None
    return command


def _either(commands: Mapping[str, Command | tuple[str, Mapping[str, Command]]]) -> Any:
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


def _sentence(box: str, arguments: Sequence[str]) -> str:
    """What tyro says of a wrong command line, in a frame and in several lines, as one sentence."""
    lines = [line.strip(" │") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    sections = re.split(r"\n[─-]{3,}\n", "\n".join(lines))
    body = sections[0 if "╭" in box else 1]  # where a frame cannot be drawn, the title is a section
    text = " ".join(body.split("Got errors:")[0].split()).removeprefix("Error parsing ").rstrip(".")
    names = [w for w in arguments[:2] if w in _NAMES]
    command = " ".join(["adaflow", *names])
    options = [w.split("=")[0] for w in itertools.takewhile(lambda w: w != "--", arguments) if w.startswith("--")]
    unknown = [w for w in options if w.replace("_", "-").replace("no-", "", 1) not in _OPTIONS]
    if found := re.match(r"Unrecognized options: ([^ ,]+)", text):
        unknown.append(found[1])
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*_OPTIONS, *_NAMES], n=1)
        text = f"there is no {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    elif value := re.fullmatch(r"(\S+): no type matching (\S+) could be instantiated from \['(.*)'\]", text):
        text = f"{value[1]} is {value[3]!r}; it must be {_WORDS.get(value[2], value[2])}"
    elif text.startswith("Missing from"):
        wanted = re.findall(r"^(?:-\w [A-Z]+, )?((?:--\S+ )?[A-Z]+)(?:\s\s|$)", body, re.MULTILINE)
        text = f"{command} needs {' and '.join(wanted)}"
    elif value := re.match(r"Missing value for argument '(\w+)'", text):
        text = f"{command} needs {value[1].upper()} (one that starts with '-' goes last, after --)"
    elif text.startswith("Expected one of"):
        text = f"{command} needs a command: {text.removeprefix('Expected one of ').strip('{}')}"
    return f"{text}; see: {command} --help"


_WORDS = {"INT": "a whole number", "FLOAT": "a number"}
_NAMES = {*COMMANDS, *(name for group in COMMANDS.values() if isinstance(group, tuple) for name in group[1])}
_OPTIONS = [f"--{name.replace('_', '-')}" for name in EditConfig.names()]
_OPTIONS += ["--out", "--model", "--config", "--workspace", "--report", "--print-config", "--json", "--help"]
_OPTIONS += ["--frames", "--all", "--max-gb", "--older-than", "--suite", "--methods", "--in", "--keep-work"]


class _Notes(logging.Handler):
    """AdaFlow's own notes on stderr, one line each; other libraries' warnings are not the user's business."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"note: {record.getMessage()}")


def _stop(message: str, code: int) -> typing.NoReturn:
    err.print(f"adaflow: {' '.join(message.split())}")
    sys.exit(code)
