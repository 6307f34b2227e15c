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


_SUITE = _option("which videos and edits (adaflow eval list), or an index of real ones", metavar="SUITE")
_WEIGHTS = _option("folder of the metrics' networks (default: weights in adaflow's cache)", metavar="FOLDER")
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
    weights: Annotated[Optional[Path], _WEIGHTS] = None,  # noqa: UP045
    json_output: Annotated[bool, _JSON] = False,
) -> None:
    """Edit videos by several methods, and score them: rendered ones, of a suite, or those of an index.

    Of rendered ones the right answers are known. Resumes if stopped.
    """
    from .eval_commands import run_eval

    run_eval(suite, methods, out, model, keep_work, weights, json_output)


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


_EDITED = _option("the edited video, or a folder of its frames as lossless pictures (better)", metavar="VIDEO")
_SOURCE = _option("the video that it was made from", metavar="VIDEO")
_SHOWS = _option("what the edited video should show", metavar="TEXT")
_SHOWED = _option("what the source shows", metavar="TEXT")
_FETCH = _option("fetch missing networks from the hub, where it has them as safetensors")
_BORDERS = _option("first frames of the chunks the video was made in, such as 128,256", metavar="FRAME,…")
_ONLY = _option("only these metrics (docs/benchmark-metrics.md)", metavar="METRIC,…")
_INDEX = _option("where the index goes (default: FOLDER/index.jsonl)", metavar="FILE", aliases=["-o"])
_FPS = _option("pace of a folder of frames (default: the source's, else 30)", metavar="FPS")


def eval_score(
    video: Annotated[Positional[Path], _EDITED],
    /,
    prompt: Annotated[Optional[str], _SHOWS] = None,  # noqa: UP045
    source: Annotated[Optional[Path], _SOURCE] = None,  # noqa: UP045
    source_prompt: Annotated[Optional[str], _SHOWED] = None,  # noqa: UP045
    weights: Annotated[Optional[Path], _WEIGHTS] = None,  # noqa: UP045
    fetch: Annotated[bool, _FETCH] = False,
    borders: Annotated[Optional[str], _BORDERS] = None,  # noqa: UP045
    only: Annotated[Optional[str], _ONLY] = None,  # noqa: UP045
    fps: Annotated[Optional[float], _FPS] = None,  # noqa: UP045
    seed: Annotated[int, _option("of what DOVER draws (default: 0)")] = 0,
    json_output: Annotated[bool, _JSON] = False,
) -> None:
    """Score one edited video with the paper's metrics, as far as their networks are here."""
    from .eval_commands import score_video

    score_video(video, prompt, source, source_prompt, weights, fetch, borders, only, fps, seed, json_output)


def eval_verify(
    weights: Annotated[Optional[Path], _WEIGHTS] = None,  # noqa: UP045
    record: Annotated[bool, _option("keep the scores found, for later checks to compare with")] = False,
    fetch: Annotated[bool, _FETCH] = False,
    json_output: Annotated[bool, _JSON] = False,
) -> None:
    """Check the paper's metrics by what is known of them beforehand, and their networks where they are here."""
    from .eval_commands import verify_metrics

    verify_metrics(weights, record, fetch, json_output)


def eval_convert(
    file: Annotated[Positional[Path], _option("DOVER.pth, or LAION's head, or a pytorch_model.bin", metavar="FILE")],
    /,
    weights: Annotated[Optional[Path], _WEIGHTS] = None,  # noqa: UP045
) -> None:
    """Make safetensors of published pickled weights, read as weights only, once."""
    from .eval_commands import convert_weights

    convert_weights(file, weights)


def eval_index(
    folder: Annotated[Positional[Path], _option("a folder of videos, with tables of prompts", metavar="FOLDER")],
    /,
    out: Annotated[Optional[Path], _INDEX] = None,  # noqa: UP045
    hub: Annotated[Optional[str], _option("fetch this data set into FOLDER first", metavar="OWNER/NAME")] = None,  # noqa: UP045
    json_output: Annotated[bool, _JSON] = False,
) -> None:
    """Make an index of a folder of videos for `eval run --suite`, and say what found no place in it."""
    from .eval_commands import index_videos

    index_videos(folder, out, hub, json_output)


def eval_list(json_output: Annotated[bool, _JSON] = False) -> None:
    """The suites, and the methods by name."""
    from .eval_commands import list_eval

    list_eval(json_output)


_VIDEOS = _option("an index of videos, or a folder of them", metavar="INDEX")
_ENDPOINT = _option("an OpenAI-compatible one, such as https://api.example.com/v1", metavar="URL")
_WRITER = _option("makes the prompts, and the captions too if it is alone: its name there", metavar="NAME")
_CAPTIONER = _option("makes the captions, from frames (default: as --model)", metavar="NAME")
_ELSEWHERE = _option("where the captioner is (default: as --endpoint)", metavar="URL")
_ANNOTATED = _option("where the index with the prompts goes (default: INDEX itself)", metavar="FILE", aliases=["-o"])
_SOME = _option("only these videos of the index", metavar="ID,…")


def annotate(
    videos: Annotated[Positional[Path], _VIDEOS],
    /,
    endpoint: Annotated[str, _ENDPOINT],
    model: Annotated[str, _WRITER],
    captioner: Annotated[Optional[str], _CAPTIONER] = None,  # noqa: UP045
    captioner_endpoint: Annotated[Optional[str], _ELSEWHERE] = None,  # noqa: UP045
    out: Annotated[Optional[Path], _ANNOTATED] = None,  # noqa: UP045
    frames: Annotated[int, _option("frames of a video that the captioner is shown (default: 8)")] = 8,
    frame_size: Annotated[int, _option("their longer side in pixels, at most (default: 512)", metavar="PIXELS")] = 512,
    only: Annotated[Optional[str], _SOME] = None,  # noqa: UP045
    asks: Annotated[int, _option("how often a question is put whose answers cannot be used (default: 4)")] = 4,
    retries: Annotated[int, _option("how often one is sent again when the server fails (default: 6)")] = 6,
    timeout: Annotated[float, _option("seconds in which an answer must come (default: 120)", metavar="SECONDS")] = 120,
    json_output: Annotated[bool, _JSON] = False,
) -> None:
    """Have models make captions and LongV-EVAL's prompts for videos, as the paper did.

    The key is taken from ADAFLOW_API_KEY, else OPENAI_API_KEY. The same command again asks only what is missing.
    """
    from .annotate_commands import annotate_videos

    annotate_videos(
        videos,
        endpoint,
        model,
        captioner,
        captioner_endpoint,
        out,
        frames,
        frame_size,
        only,
        asks,
        retries,
        timeout,
        json_output,
    )


_FROM = _option("a folder of adaflow eval run, a manifest, or a folder of videos for each method", metavar="FROM …")
_SOURCES = _option("folder of the sources, for folders of methods", metavar="FOLDER")
_PROMPTS = _option("YAML or JSON file with a prompt for each name, for folders of methods", metavar="FILE")
_ONLY_METHODS = _option("comma-separated methods to compare (default: all that edit)", metavar="METHOD,…")
_DESIGN = _option("all methods side by side (sets), or two at a time (pairs); default: sets", metavar="{sets,pairs}")
_AGAINST = _option("with pairs: only those with this method", metavar="METHOD")
_PASSWORD_FILE = _option("the password that other machines need (or ADAFLOW_STUDY_PASSWORD)", metavar="FILE")
_TALLIED = _option("where the tables go (default: STUDY)", metavar="FOLDER", aliases=["-o"])
_STUDY = _option("a folder that adaflow study build made", metavar="STUDY")


def study_build(
    places: Annotated[Positional[tuple[Path, ...]], _FROM],
    /,
    out: Annotated[Path, _option("a new folder (default: study)", metavar="STUDY", aliases=["-o"])] = Path("study"),
    source: Annotated[Optional[Path], _SOURCES] = None,  # noqa: UP045
    prompts: Annotated[Optional[Path], _PROMPTS] = None,  # noqa: UP045
    methods: Annotated[Optional[str], _ONLY_METHODS] = None,  # noqa: UP045
    design: Annotated[str, _DESIGN] = "sets",
    against: Annotated[Optional[str], _AGAINST] = None,  # noqa: UP045
    sets: Annotated[Optional[int], _option("draw as many sources and prompts (default: all)", metavar="N")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], _option("of all draws (default: a random one)", metavar="SEED")] = None,  # noqa: UP045
    title: Annotated[str, _option("what stands above the page (default: Edited videos)", metavar="TEXT")] = (
        "Edited videos"
    ),
) -> None:
    """Make a blind set of edited videos, in random order and under names that say nothing."""
    from .study.commands import build_study

    build_study(places, out, source, prompts, methods, design, against, sets, seed, title)


def study_serve(
    study: Annotated[Positional[Path], _STUDY],
    /,
    host: Annotated[str, _option("address (default: 127.0.0.1); others need a password", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, _option("port (default: 8321); 0: any that is free", metavar="PORT")] = 8321,
    password_file: Annotated[Optional[Path], _PASSWORD_FILE] = None,  # noqa: UP045
) -> None:
    """Show the sets to participants in their browsers, and store their answers."""
    from .study.commands import serve_study

    serve_study(study, host, port, password_file)


def study_tally(
    study: Annotated[Positional[Path], _STUDY],
    /,
    out: Annotated[Optional[Path], _TALLIED] = None,  # noqa: UP045
    unfinished: Annotated[bool, _option("count those as well who have not finished")] = False,
    json_output: Annotated[bool, _JSON] = False,
) -> None:
    """Percentages of choices with their intervals, and agreement, as Markdown and CSV."""
    from .study.commands import tally_study

    tally_study(study, out, unfinished, json_output)


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
        "The benchmark: run, compare, list; the paper's metrics: score, verify, convert; real videos: index.",
        {
            "run": eval_run,
            "compare": eval_compare,
            "list": eval_list,
            "score": eval_score,
            "verify": eval_verify,
            "convert": eval_convert,
            "index": eval_index,
        },
    ),
    "study": (
        "The user study: blind sets, the page, the tally: build, serve, tally.",
        {"build": study_build, "serve": study_serve, "tally": study_tally},
    ),
    "annotate": annotate,
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
_OPTIONS += [
    "--prompt",
    "--source",
    "--source-prompt",
    "--weights",
    "--fetch",
    "--borders",
    "--only",
    "--fps",
    "--seed",
]
_OPTIONS += ["--record", "--hub", "--endpoint", "--captioner", "--captioner-endpoint", "--frame-size", "--asks"]
_OPTIONS += ["--retries", "--timeout"]


class _Notes(logging.Handler):
    """AdaFlow's own notes on stderr, one line each; other libraries' warnings are not the user's business."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"note: {record.getMessage()}")


def _stop(message: str, code: int) -> typing.NoReturn:
    err.print(f"adaflow: {' '.join(message.split())}")
    sys.exit(code)
