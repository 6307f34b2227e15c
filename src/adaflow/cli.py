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
from rich.console import Console
from tyro.conf import Positional, arg

from .config import EditConfig, Settings
from .errors import AdaFlowError

err = Console(stderr=True, highlight=False)


def _as_options(cls: type[Settings]) -> type:
    """`cls` as the command line sees it: the same fields, each optional, with its help and its default in words."""
    hints = typing.get_type_hints(cls)
    fields: list[tuple[str, Any, Any]] = []
    for f in dataclasses.fields(cls):
        if f.metadata:
            text = f.metadata["help"].replace("%", "%%")
            if f.metadata["default"] not in (None, ""):
                text += f" (package default: {f.metadata['default']})"
            option: Any = Annotated[Optional[hints[f.name]], arg(help=text, help_behavior_hint="")]  # noqa: UP045
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


def edit(
    video: Positional[Path],
    prompt: Positional[str],
    /,
    out: Annotated[Optional[Path], arg(aliases=["-o"], help="default: NAME.edited.mp4 beside the source")] = None,  # noqa: UP045
    model: Annotated[Optional[str], arg(help="a known name, a hub id, or a folder")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], arg(help="settings from a YAML file; options go before it")] = None,  # noqa: UP045
    workspace: Annotated[Optional[Path], arg(help="default: one for this video in the user's cache")] = None,  # noqa: UP045
    report: Annotated[Optional[Path], arg(help="also write a page of figures (.html)")] = None,  # noqa: UP045
    print_config: Annotated[bool, arg(help="print the complete settings as YAML and stop")] = False,
    json_output: Annotated[bool, arg(name="json", help="print one JSON document on stdout")] = False,
    settings: Annotated[EditOptions, arg(name="")] = EditOptions(),  # noqa: B008
) -> None:
    """Edit VIDEO so that it shows PROMPT. The same command again resumes a run that was stopped."""
    from .commands import edit_video

    edit_video(video, prompt, out, model, _config(settings, config), workspace, report, print_config, json_output)


def inspect(
    video: Positional[Path],
    /,
    model: Annotated[Optional[str], arg(help="a known name, a hub id, or a folder")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], arg(help="settings from a YAML file")] = None,  # noqa: UP045
    workspace: Annotated[Optional[Path], arg(help="default: one for this video in the user's cache")] = None,  # noqa: UP045
    report: Annotated[Optional[Path], arg(help="also write a page of figures (.html)")] = None,  # noqa: UP045
    json_output: Annotated[bool, arg(name="json", help="print one JSON document on stdout")] = False,
    settings: Annotated[EditOptions, arg(name="")] = EditOptions(),  # noqa: B008
) -> None:
    """Show the clips and keyframes of VIDEO, and what an edit will take; edits nothing."""
    from .commands import inspect_video

    inspect_video(video, model, _config(settings, config), workspace, report, json_output)


def preview(
    video: Positional[Path],
    prompt: Positional[str],
    /,
    out: Annotated[Optional[Path], arg(aliases=["-o"], help="default: NAME.preview.png beside the source")] = None,  # noqa: UP045
    model: Annotated[Optional[str], arg(help="a known name, a hub id, or a folder")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], arg(help="settings from a YAML file")] = None,  # noqa: UP045
    workspace: Annotated[Optional[Path], arg(help="default: one for this video in the user's cache")] = None,  # noqa: UP045
    settings: Annotated[EditOptions, arg(name="")] = EditOptions(),  # noqa: B008
) -> None:
    """Edit four keyframes of VIDEO jointly, as one picture: what the edit will look like."""
    from .commands import preview_video

    preview_video(video, prompt, out, model, _config(settings, config), workspace)


def demo(
    out: Annotated[Path, arg(help="folder for the videos and the page")] = Path("demo"),
    frames: Annotated[int, arg(help="length of the rendered video")] = 64,
) -> None:
    """Render a video of the miniature's world, edit it, and show both."""
    from .demo import run_demo

    run_demo(out, frames)


def models_list(json_output: Annotated[bool, arg(name="json")] = False) -> None:
    """The models known by name, where they come from, and whether they are here."""
    from .commands import list_models

    list_models(json_output)


def models_get(name: Positional[str], /) -> None:
    """Fetch a model from the hub: safetensors weights only."""
    from .commands import get_model

    get_model(name)


def workspace_list(json_output: Annotated[bool, arg(name="json")] = False) -> None:
    """The workspaces in the user's cache, with their sizes."""
    from .commands import list_all_workspaces

    list_all_workspaces(json_output)


def workspace_show(folder: Positional[Path], /, json_output: Annotated[bool, arg(name="json")] = False) -> None:
    """What one workspace holds."""
    from .commands import show_workspace

    show_workspace(folder, json_output)


def workspace_prune(
    max_gb: Annotated[float, arg(help="delete the least recently used until at most this much is left")] = 0.0,
) -> None:
    """Delete workspaces that no run is using."""
    from .commands import prune_all

    prune_all(max_gb)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; turns an `AdaFlowError` into one line on stderr and its exit code."""
    # Other libraries' bars and warnings are not the user's business; they read these when they are imported.
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("DIFFUSERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
    ):
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Notes()])
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                "edit": edit,
                "inspect": inspect,
                "preview": preview,
                "demo": demo,
                "models list": models_list,
                "models get": models_get,
                "workspace list": workspace_list,
                "workspace show": workspace_show,
                "workspace prune": workspace_prune,
            },
            prog="adaflow",
            description="Edit long videos by text.",
            args=list(arguments) if arguments is not None else None,
        )
    except AdaFlowError as error:
        _stop(str(error), error.exit_code)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on where this one stopped", 130)
    except MemoryError:
        _stop("the memory ran out; lower --height, or close other programs, and run the same command again", 4)


class _Notes(logging.Handler):
    """AdaFlow's own notes on stderr, one line each; other libraries' warnings are not the user's business."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("adaflow"):
            err.print(f"note: {record.getMessage()}", soft_wrap=True, markup=False)


def _stop(message: str, code: int) -> typing.NoReturn:
    err.print(f"adaflow: {' '.join(message.split())}", soft_wrap=True, markup=False)
    sys.exit(code)
