"""How a row of the benchmark comes to its frames: jointly by the pipeline, frame by frame, or by no edit at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .. import stages
from ..colour import resized
from ..config import EditConfig, SlimmingConfig
from ..editing import edit_keyframes
from ..editor import Editor
from ..errors import InputError
from ..pipeline import AdaFlowPipeline
from ..prompts import branch_prompts
from ..result import EditResult
from ..run import Run, batched, spans
from ..slimming import kept_per_keyframe, kept_tokens
from ..store import stage_infos
from ..video import open_source
from .cost import CostMeter
from .footage import Footage
from .metrics.correspondence import Correspondence

if TYPE_CHECKING:
    from .suites import Case, Edit

PIECE = 64
"""Frames of a piece, where frames are edited by themselves: only memory depends on it."""


class Pictures(Protocol):
    """Frames ``[H, W, 3]`` uint8, one after the other, any number of times."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[NDArray[np.uint8]]: ...


@dataclass(frozen=True)
class Asked:
    """One edit of one case.

    Attributes:
        pipe: The model.
        suite_settings: `EditConfig` fields of the suite, by dotted name.
        case: The film; `edit`: what shall become of it.
        adaflow: AdaFlow's result file on the same edit, where it is there.
    """

    pipe: AdaFlowPipeline
    suite_settings: Mapping[str, Any]
    case: Case
    edit: Edit
    adaflow: Mapping[str, Any] | None


@dataclass(frozen=True)
class Task(Asked):
    """One edit of one case, and where it is done.

    Attributes:
        video: The film's frames ``[n, H, W, 3]`` uint8, on disk.
        workspace: Shared by all edits and methods of the case.
        meter: Told of the progress; only what is reported counts as cost.
        first: The first frame of AdaFlow's edit, as PNG.
    """

    video: NDArray[np.uint8]
    workspace: Path
    meter: CostMeter
    first: Path


@dataclass(frozen=True)
class Output:
    """What a method made of a task.

    Attributes:
        frames: The edited frames.
        starts: The first frame of every clip; None where the method has no clips.
        chunks: The first frame of every chunk, where the method edits those by themselves and has no clips.
        facts: Further numbers about how it was made.
        made_from: Folders of the workspace that the frames were made from.
    """

    frames: Pictures
    starts: tuple[int, ...] | None = None
    chunks: tuple[int, ...] | None = None
    facts: Mapping[str, float | None] = field(default_factory=dict)
    made_from: Sequence[str] = ()


def joint(task: Task, config: EditConfig, mask: NDArray[np.uint8] | None = None) -> Output:
    """AdaFlow itself: one call of the pipeline."""
    result, made_from = _by_pipeline(task, config, mask)
    facts = {**_facts(task, result), "at_once": len(task.case.film)}
    return Output(result.frames, tuple(result.partition.starts), facts=facts, made_from=made_from)


def masked(task: Task, config: EditConfig) -> Output:
    """AdaFlow, told where to edit by the rendered world; of a style, and in real videos, that is everywhere."""
    film, kind = task.case.film, task.edit.kind
    if isinstance(film, Footage) or kind == "style":
        return joint(task, config)
    everything_else = kind == "background"
    planes = [film.masks(i).max(axis=0) if everything_else else film.masks(i)[0] for i in range(len(film))]
    mask = (255 * np.stack(planes)).round().astype(np.uint8)
    return joint(task, config, 255 - mask if everything_else else mask)


def compared(task: Task, config: EditConfig) -> Output:
    """A compared system, by the same call; the borders are those of its chunks."""
    result, made_from = _by_pipeline(task, config)
    starts, lengths = tuple(result.partition.starts), [len(chunk) for chunk in result.partition.clips]
    facts = {"chunks": len(lengths), "at_once": max(lengths)}
    return Output(result.frames, chunks=starts, facts=facts, made_from=made_from)


def alone(task: Task, config: EditConfig) -> Output:
    """Every frame a keyframe, and nothing propagated: jointly, or each by itself where the budget is 0.

    Frames that see only themselves are edited in pieces; others in one batch of three rows a frame.
    """
    resolved, n = task.pipe.resolve(config), len(task.case.film)
    budget = resolved.slimming.budget
    with task.pipe.opened(open_source(task.video), resolved, task.workspace, task.meter) as run:
        texts = branch_prompts(task.edit.prompt, resolved)
        latents = stages.encode(run)
        features = stages.extract_features(run, latents) if 0 < budget < n else latents  # else nobody asks for any
        inverted = stages.invert(run, latents, texts[0])
        trajectory = inverted.existing("trajectory")
        editor = Editor(run.backbone, resolved, run.backbone.conditioning(*texts))
        edited = []
        for piece in spans(0, n, n if budget else PIECE):
            noised = {s.timestep: trajectory.sub(s.number).read(piece.start, piece.stop) for s in editor.steps}
            features_at = stages.key_features(run, features, torch.arange(n))
            edited.append(edit_keyframes(editor, noised, piece, features_at))
            run.report("edit", piece.stop, n)
        frames = _decoded(run, torch.cat(edited))
        made_from = [stage.folder.name for stage in (latents, features, inverted)]
        return Output(frames, facts={"at_once": n if budget else 1}, made_from=made_from)


def unedited(task: Task, config: EditConfig) -> Output:
    """The source."""
    return Output(task.video)


def round_trip(task: Task, config: EditConfig) -> Output:
    """The ground-truth target, encoded and decoded."""
    resolved = task.pipe.resolve(config)
    done, frames = 0, []
    with task.pipe.opened(open_source(task.video), resolved, task.workspace, task.meter) as run:
        for pictures in batched(iter(task.edit.target), run.plan.images):
            sized = [p if p.shape[:2] == run.geometry.content else resized(p, run.geometry.content) for p in pictures]
            padded = run.geometry.pad(torch.from_numpy(np.stack(sized)))
            task.meter.skip()  # rendering is no part of it
            latents = run.backbone.encode(padded)
            done += len(pictures)
            run.report("encode", done, run.frames)
            h, w = run.geometry.content
            frames.append(run.backbone.decode(latents)[:, :h, :w].cpu().numpy())
            run.report("decode", done, run.frames)
    return Output(np.concatenate(frames))


def repeated_first(task: Task, config: EditConfig) -> Output:
    """The first frame of AdaFlow's edit, as often as the film has frames."""
    if not task.first.exists():
        raise InputError(f"{task.first} is missing; delete the folder {task.first.parent} and run again")
    with Image.open(task.first) as picture:
        return Output(Repeated(np.asarray(picture.convert("RGB")), len(task.case.film)))


@dataclass(frozen=True)
class Repeated:
    """One picture, shown for a number of frames."""

    picture: NDArray[np.uint8]
    frames: int

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self.picture for _ in range(self.frames))


@dataclass(frozen=True)
class Sized:
    """Pictures at another size (height, width): films are scored at their own."""

    pictures: Pictures
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (p if p.shape[:2] == self.size else resized(p, self.size) for p in self.pictures)


def _by_pipeline(task: Task, config: EditConfig, mask: NDArray[np.uint8] | None = None) -> tuple[EditResult, list[str]]:
    """The pipeline's edit, and the folders of the workspace that it was made from."""
    result = task.pipe(
        task.video, task.edit.prompt, mask=mask, config=config, workspace=task.workspace, on_progress=task.meter
    )
    return result, [info.folder for info in stage_infos(task.workspace) if info.name in ("edit", "decoded")]


def _decoded(run: Run, latents: torch.Tensor) -> NDArray[np.uint8]:
    """Frames of clean latents."""
    h, w = run.geometry.content
    frames = np.empty((len(latents), h, w, 3), np.uint8)
    for span in spans(0, len(latents), run.plan.images):
        frames[span.start : span.stop] = run.backbone.decode(latents[span.start : span.stop])[:, :h, :w].cpu().numpy()
        run.report("decode", span.stop, len(latents))
    return frames


def _facts(task: Task, result: EditResult) -> dict[str, float | None]:
    """The clips' lengths; what the keyframes of the first step keep at the coarsest level, and how well the frames of
    their clips are matched with them at the finest.
    """
    lengths = sorted(len(clip) for clip in result.partition.clips)
    middle = float(np.median(lengths))
    facts = {"clips": len(lengths), "shortest_clip": lengths[0], "median_clip": middle, "longest_clip": lengths[-1]}
    # every stage is in the workspace by now
    with task.pipe.opened(open_source(task.video), result.config, task.workspace) as run:
        latents = stages.encode(run)
        features = stages.extract_features(run, latents)
        clips, _, partitioned = stages.partition(run, features)
        drawn, scheduled = stages.draw_keyframes(run, clips, features, partitioned)
        matches = stages.match_tokens(run, clips, drawn, features, scheduled)
        levels = sorted({site.level for site in run.backbone.attention_sites()})
        finest = run.backbone.grid(run.latent_size, levels[0])
        at_keys = stages.key_features(run, features, drawn[0])(levels[-1])
    rendered = not isinstance(task.case.film, Footage)  # of real videos nobody knows the motion
    whole = (
        rendered and run.geometry.content == run.geometry.padded == task.video.shape[1:3]
    )  # else a token is no whole cell
    correspondence = Correspondence(task.case.film, finest)
    for c, clip in enumerate(clips.clips) if whole else ():
        key = int(drawn[0, c])
        for frame in range(clip.start, clip.stop):
            if frame != key:
                phi = matches.of(c, key, range(frame, frame + 1))[levels[0]][0]
                correspondence.add(frame, key, phi.long().numpy())
    return {**facts, **_kept(at_keys, result.config.slimming), **correspondence.results()}


def _kept(at_keys: torch.Tensor, slimming: SlimmingConfig) -> dict[str, float]:
    """Of the tokens that keyframes attend to: the share that they are of all, and that are their own."""
    clips, tokens = at_keys.shape[:2]
    if not slimming.budget:
        return {"kept_share": 1 / clips, "kept_own": 1.0}
    kept = kept_tokens(at_keys, slimming.budget, slimming)
    counts = kept_per_keyframe(kept, tokens).double()
    return {
        "kept_share": float(counts.sum() / (clips * clips * tokens)),
        "kept_own": float(counts.diagonal().sum() / counts.sum()),
    }
