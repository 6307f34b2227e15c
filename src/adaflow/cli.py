"""The command line: each command is a sentence over the API, and its options are the fields of `EditConfig`."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import tyro
from tyro.conf import Positional, arg

from . import __version__, cli_bench, heap
from .cli_bench import JSON
from .cli_parsing import Commands, option, parse
from .config import EditConfig
from .console import err
from .errors import AdaFlowError
from .settings import Settings


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
            hint: Any = Annotated[Optional[kind], option(text, **words)]  # noqa: UP045
            fields.append((f.name, hint, None))
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


def _check_video(path: Path) -> None:
    """Refuse what is no video before torch and a model are loaded, which takes seconds."""
    from .decode import open_video

    with open_video(path):
        pass


def _check_mask(path: Path | None) -> None:
    """Refuse what is no mask as early."""
    if path is not None:
        from .mask_source import open_mask
        from .video import FileSource

        if isinstance(open_mask(path), FileSource):
            _check_video(path)


_OUT = option("default: NAME.edited.mp4 beside the source", aliases=["-o"], metavar="FILE")
_PICTURE = option("default: NAME.preview.png beside the source", aliases=["-o"], metavar="FILE")
_MODEL = option("a known name (adaflow models list), a hub id, or a folder", metavar="MODEL")
_CONFIG = option("settings from a YAML file; options go before it", metavar="FILE")
_WORKSPACE = option("default: one for this video in the user's cache", metavar="FOLDER")
_REPORT = option("where the page of figures goes (default: NAME.report.html beside the output)", metavar="FILE.html")
_FIGURES = option("where the page of figures goes (default: NAME.report.html beside the video)", metavar="FILE.html")
_NO_REPORT = option("write no page of figures")
_COMPARE = option(
    "also write source and edit in one video: NAME.side.mp4, or NAME.slider.mp4 with a moving line",
    metavar="{side,slider}",
)
_PROGRESS = option("how progress is told on stderr: bars, or lines of JSON for programs", metavar="{bar,json}")
_MASK = option("edit what is white in this picture or video, keep the rest; or a folder of pictures", metavar="FILE")
_VIDEO = option("the video to edit", metavar="VIDEO")
_PROMPT = option("what the edited video should show; one that starts with '-' goes last, after --", metavar="PROMPT")


def edit(
    video: Annotated[Positional[Path], _VIDEO],
    prompt: Annotated[Positional[str], _PROMPT],
    /,
    out: Annotated[Optional[Path], _OUT] = None,  # noqa: UP045
    model: Annotated[Optional[str], _MODEL] = None,  # noqa: UP045
    config: Annotated[Optional[Path], _CONFIG] = None,  # noqa: UP045
    workspace: Annotated[Optional[Path], _WORKSPACE] = None,  # noqa: UP045
    report: Annotated[Optional[Path], _REPORT] = None,  # noqa: UP045
    no_report: Annotated[bool, _NO_REPORT, tyro.conf.FlagCreatePairsOff] = False,
    mask: Annotated[Optional[Path], _MASK] = None,  # noqa: UP045
    compare: Annotated[Optional[str], _COMPARE] = None,  # noqa: UP045
    print_config: Annotated[bool, option("print the complete settings as YAML and stop")] = False,
    json_output: Annotated[bool, JSON] = False,
    progress: Annotated[str, _PROGRESS] = "bar",
    settings: Annotated[EditOptions, arg(name="")] = EditOptions(),  # noqa: B008
) -> None:
    """Edit VIDEO so that it shows PROMPT. The same command again resumes a run that was stopped."""
    asked = _config(settings, config)
    if not print_config:
        _check_video(video)
        _check_mask(mask)
    from .commands import edit_video

    edit_video(
        video,
        prompt,
        out,
        model,
        asked,
        workspace,
        report,
        print_config,
        json_output,
        progress,
        compare,
        no_report,
        mask,
    )


def inspect(
    video: Annotated[Positional[Path], _VIDEO],
    /,
    model: Annotated[Optional[str], _MODEL] = None,  # noqa: UP045
    config: Annotated[Optional[Path], _CONFIG] = None,  # noqa: UP045
    workspace: Annotated[Optional[Path], _WORKSPACE] = None,  # noqa: UP045
    report: Annotated[Optional[Path], _FIGURES] = None,  # noqa: UP045
    no_report: Annotated[bool, _NO_REPORT, tyro.conf.FlagCreatePairsOff] = False,
    json_output: Annotated[bool, JSON] = False,
    progress: Annotated[str, _PROGRESS] = "bar",
    settings: Annotated[EditOptions, arg(name="")] = EditOptions(),  # noqa: B008
) -> None:
    """Show the clips and keyframes of VIDEO, and what an edit will take; edits nothing."""
    asked = _config(settings, config)
    _check_video(video)
    from .commands import inspect_video

    inspect_video(video, model, asked, workspace, report, json_output, progress, no_report)


def preview(
    video: Annotated[Positional[Path], _VIDEO],
    prompt: Annotated[Positional[str], _PROMPT],
    /,
    out: Annotated[Optional[Path], _PICTURE] = None,  # noqa: UP045
    model: Annotated[Optional[str], _MODEL] = None,  # noqa: UP045
    config: Annotated[Optional[Path], _CONFIG] = None,  # noqa: UP045
    workspace: Annotated[Optional[Path], _WORKSPACE] = None,  # noqa: UP045
    mask: Annotated[Optional[Path], _MASK] = None,  # noqa: UP045
    progress: Annotated[str, _PROGRESS] = "bar",
    settings: Annotated[EditOptions, arg(name="")] = EditOptions(),  # noqa: B008
) -> None:
    """Edit four keyframes of VIDEO jointly, as one picture: what the edit will look like."""
    asked = _config(settings, config)
    _check_video(video)
    _check_mask(mask)
    from .commands import preview_video

    preview_video(video, prompt, out, model, asked, workspace, progress, mask)


def demo(
    out: Annotated[Path, option("folder for the videos and the page (default: demo)", metavar="FOLDER")] = Path("demo"),
    frames: Annotated[int, option("length of the rendered video (default: 64)")] = 64,
) -> None:
    """Render a video of the miniature's world, edit it, and show both."""
    from .demo import run_demo

    run_demo(out, frames)


def models_list(json_output: Annotated[bool, JSON] = False) -> None:
    """The models known by name, where they come from, and whether they are here."""
    from .upkeep_commands import list_models

    list_models(json_output)


def models_get(name: Annotated[Positional[str], option("a known name or a hub id", metavar="NAME")], /) -> None:
    """Fetch a model from the hub: safetensors weights only."""
    from .upkeep_commands import get_model

    get_model(name)


def workspace_list(json_output: Annotated[bool, JSON] = False) -> None:
    """The workspaces in the user's cache, with their sizes, the last used first."""
    from .upkeep_commands import list_all_workspaces

    list_all_workspaces(json_output)


def workspace_show(
    folder: Annotated[Positional[Path], option("a workspace (adaflow workspace list)", metavar="FOLDER")],
    /,
    json_output: Annotated[bool, JSON] = False,
) -> None:
    """What one workspace holds."""
    from .upkeep_commands import show_workspace

    show_workspace(folder, json_output)


def workspace_prune(
    everything: Annotated[bool, option("delete all of them", name="all")] = False,
    max_gb: Annotated[
        Optional[float],  # noqa: UP045
        option("delete the least recently used until at most this many GB are left", metavar="GB"),
    ] = None,
    older_than: Annotated[
        Optional[float],  # noqa: UP045
        option("delete those not used for this many days", metavar="DAYS"),
    ] = None,
) -> None:
    """Delete workspaces in the user's cache, never one in use; needs --all, --max-gb or --older-than."""
    from .upkeep_commands import prune_all

    prune_all(everything, max_gb, older_than)


COMMANDS: Commands = {
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
            "run": cli_bench.eval_run,
            "compare": cli_bench.eval_compare,
            "list": cli_bench.eval_list,
            "score": cli_bench.eval_score,
            "verify": cli_bench.eval_verify,
            "convert": cli_bench.eval_convert,
            "index": cli_bench.eval_index,
        },
    ),
    "study": (
        "The user study: blind sets, the page, the tally: build, serve, tally.",
        {"build": cli_bench.study_build, "serve": cli_bench.study_serve, "tally": cli_bench.study_tally},
    ),
    "annotate": cli_bench.annotate,
    "studio": cli_bench.studio,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; turns an `AdaFlowError` into one line on stderr and its exit code."""
    if arguments is None:  # a process of our own
        heap.one_for_all_threads()
        heap.keep_no_shapes()
        arguments = sys.argv[1:]
    # Other libraries' bars and warnings are not the user's business; they read these when they are imported.
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
            parse(COMMANDS, arguments)()
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


class _Notes(logging.Handler):
    """AdaFlow's own notes on stderr, one line each; other libraries' warnings are not the user's business."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"note: {record.getMessage()}")


def _stop(message: str, code: int) -> typing.NoReturn:
    err.print(f"adaflow: {' '.join(message.split())}")
    sys.exit(code)
