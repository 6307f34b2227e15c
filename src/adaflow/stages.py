"""Everything that is done once per video, before any prompt matters, each stage stored in the workspace.

A stage's output lies under a key of just what determines it; a stage found complete is returned at once, and one found
half done goes on where its last finished unit ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from . import heap
from .budget import FRAMES_MATCHED
from .correspondence import match_units, resize
from .directions import energy, leading_directions, sampled_frames
from .diskarray import DiskArray
from .errors import InputError
from .features import FeatureExtractor
from .inversion import invert_steps
from .keyframes import Partition, partition_with_scores, pool, schedule
from .masks import LocalEdit
from .run import Run, batched, spans
from .workspace import Stage


def read_frames(run: Run, start: int = 0) -> Iterator[Tensor]:
    """The video's frames ``[b, H, W, 3]`` uint8, padded to the model's size, in batches for the VAE."""
    for batch in batched(run.source.frames(run.geometry.content, start=start), run.plan.images):
        yield run.geometry.pad(torch.from_numpy(np.stack(batch)))


def encode(run: Run) -> Stage:
    """Clean latents of every frame: array ``latents`` ``[n, c, h, w]`` fp32."""
    stage = run.stage("latents", {"geometry": [run.geometry.content, run.geometry.padded], **run.machine_key()})
    channels = run.backbone.unet.config.in_channels
    latents = stage.array("latents", (run.frames, channels, *run.latent_size), torch.float32)
    done = stage.done
    if not stage.complete:
        for frames in read_frames(run, start=done):
            if done + len(frames) > run.frames:
                break

            def encoded(span: range, frames: Tensor = frames, first: int = done) -> None:
                some = frames[span.start - first : span.stop - first]
                latents.write(span.start, run.backbone.encode(some).cpu())
                stage.advance(span.stop)
                run.report("encode", span.stop, run.frames)

            run.in_runs(done, done + len(frames), lambda plan: plan.images, encoded)
            done += len(frames)
        if done != run.frames:
            raise InputError(f"only {done} of {run.frames} frames of the video could be decoded; the file is damaged")
        stage.finish()
    run.report("encode", run.frames, run.frames)
    return stage


def extract_features(run: Run, latents: Stage) -> Stage:
    """Diffusion features of every frame: array ``features`` ``[n, h, w, d]`` fp16, not normalised.

    With ``features.dimensions`` they are projected on the directions that hold most of them: array ``directions``.
    """
    config = run.config.features
    stage = run.stage("features", config.set_fields() | run.machine_key(), latents)
    if not stage.complete:
        extractor = FeatureExtractor(run.backbone, config, (run.backbone.unet.config.in_channels, *run.latent_size))
        clean = _array(latents, "latents")
        h, w = extractor(clean.read(0, 1)).shape[1:3]
        features = stage.array("features", (run.frames, h, w, run.feature_depth), torch.float16)
        directions = _directions(run, stage, extractor, clean)

        def extracted(span: range, latents: Tensor | None = None, first: int = 0) -> None:
            batch = clean.read(span.start, span.stop) if latents is None else latents[:, span.start - first :]
            found = extractor(batch[..., : len(span), :, :, :])
            found = found if directions is None else found @ directions
            features.write(span.start, found.to(torch.float16).cpu())
            stage.advance(span.stop)
            run.report("features", span.stop, run.frames)

        if not config.of_latents:
            for start, drawn in _drawn_latents(run, stage.done):
                work = partial(extracted, latents=drawn, first=start)
                run.in_runs(start, start + drawn.shape[1], lambda plan: plan.rows, work)
        else:
            run.in_runs(stage.done, run.frames, lambda plan: plan.rows, extracted)
        stage.finish()
    run.report("features", run.frames, run.frames)
    return stage


def _directions(run: Run, stage: Stage, extractor: FeatureExtractor, latents: DiskArray) -> Tensor | None:
    """What features are projected on ``[d, dimensions]``; None where they are kept whole. Found once, then stored."""
    depth = run.backbone.feature_channels(run.config.features.block)
    if run.feature_depth == depth:
        return None
    stored = stage.array("directions", (depth, run.feature_depth), torch.float32)
    if not stage.done:
        chosen, total = sampled_frames(run.frames), torch.zeros(depth, depth, dtype=torch.float64)

        def sampled(span: range) -> None:
            total.add_(energy(extractor(latents.rows(chosen[span.start : span.stop]))))

        run.in_runs(0, len(chosen), lambda plan: plan.rows, sampled)
        stored.write(0, leading_directions(total, run.feature_depth))
    return stored.read().to(run.backbone.device)


def _drawn_latents(run: Run, start: int) -> Iterator[tuple[int, Tensor]]:
    """Latents for features as DIFT's ensemble and the published script make them: drawn from the posterior.

    Yields:
        The first frame of a batch, and its latents ``[ensemble, b, c, h, w]``.
    """
    config = run.config.features
    for frames in read_frames(run, start):
        generator = torch.Generator().manual_seed(config.noise_seed + 1)
        signed = config.input_range == "signed"
        draws = [run.backbone.encode(frames, signed=signed, generator=generator) for _ in range(config.ensemble)]
        yield start, torch.stack(draws)
        start += len(frames)


def partition(run: Run, features: Stage) -> tuple[Partition, Tensor, Stage]:
    """The clips (Algorithm 1), and each frame's mean and least window similarity ``[n, 2]``."""
    config = run.config.keyframes
    key = {k: v for k, v in config.set_fields().items() if k != "choice"}
    stage = run.stage("partition", key, features)
    if not stage.complete:
        array = _array(features, "features")
        frames = (array.read(i, i + 1)[0].to(run.backbone.device) for i in range(run.frames))
        found, scores = partition_with_scores(
            frames, config, on_frame=lambda done: run.report("partition", done, run.frames)
        )
        stage.write_json("partition", found.to_json() | {"scores": scores.tolist()})
        stage.finish()
    data = stage.read_json("partition")
    run.report("partition", run.frames, run.frames)
    return Partition.from_json(data), torch.tensor(data["scores"]), stage


def trajectory_stage(run: Run, latents: Stage, source_prompt: str) -> Stage:
    """Where `invert` leaves the trajectory, done or not."""
    key = {"prompt": source_prompt, **run.config.inversion()}
    return run.stage("trajectory", key | run.machine_key(), latents)


def invert(run: Run, latents: Stage, source_prompt: str) -> Stage:
    """The inversion trajectory at the editing timesteps, last first: array ``trajectory`` ``[T, n, c, h, w]`` fp16."""
    config, stage = run.config, trajectory_stage(run, latents, source_prompt)
    clean = _array(latents, "latents")
    timesteps = run.backbone.scheduler(config.steps).timesteps.tolist()
    trajectory = stage.array("trajectory", (config.steps, *clean.shape), torch.float16)
    count = max(config.inversion_steps, config.steps)  # of timesteps that the inversion comes by
    total = run.frames * count
    if not stage.complete:
        place = {t: s for s, t in enumerate(timesteps)}
        conditioning = run.backbone.conditioning(source_prompt, "", "")

        def inverted(span: range) -> None:
            steps = invert_steps(
                run.backbone,
                clean.read(span.start, span.stop),
                conditioning,
                config.inversion_steps,
                sampling_steps=config.steps,
                reuse=config.inversion_reuse,
            )
            for i, (t, z) in enumerate(steps):
                if t in place:
                    trajectory.sub(place[t]).write(span.start, z.to(torch.float16).cpu())
                run.report("invert", span.start * count + (i + 1) * len(span), total)
            stage.advance(span.stop)

        run.in_runs(stage.done, run.frames, lambda plan: plan.rows, inverted)
        stage.finish()
    run.report("invert", total, total)
    return stage


def draw_keyframes(run: Run, clips: Partition, features: Stage, partitioned: Stage) -> tuple[Tensor, Stage]:
    """The keyframe of every clip at every step, ``[T, M]``, drawn once with the run's seed and stored."""
    config = run.config
    key = {"steps": config.steps, "seed": config.seed, "choice": config.keyframes.choice}
    stage = run.stage("schedule", key, partitioned)
    if not stage.complete:
        pooled = None
        if config.keyframes.choice == "medoid":
            array = _array(features, "features")
            pooled = torch.stack([pool(array.read(i, i + 1)[0]) for i in range(run.frames)])
        drawn = schedule(clips, config.steps, config.seed, config.keyframes.choice, pooled)
        stage.write_json("schedule", drawn.tolist())
        stage.finish()
    return torch.tensor(stage.read_json("schedule"), dtype=torch.int64), stage


@dataclass(frozen=True)
class Matches:
    """φ of every frame to every keyframe drawn for its clip, at every level where attention is (Eq. 8).

    Rows lie clip by clip, within a clip keyframe by keyframe, within a keyframe frame by frame: a run of frames is one
    stretch of the array.
    """

    clips: Partition
    keys: tuple[tuple[int, ...], ...]  # the distinct keyframes of each clip, rising
    starts: tuple[int, ...]  # the first row of each clip
    arrays: dict[int, DiskArray]

    @classmethod
    def layout(cls, clips: Partition, drawn: Tensor, arrays: dict[int, DiskArray]) -> Matches:
        """Where each match lies, for the keyframes ``[T, M]`` drawn."""
        keys = tuple(tuple(sorted(set(column.tolist()))) for column in drawn.T)
        sizes = [len(clip) * len(k) for clip, k in zip(clips.clips, keys, strict=True)]
        starts = tuple(int(s) for s in np.cumsum([0, *sizes]))
        return cls(clips, keys, starts, arrays)

    def row(self, clip: int, key: int, frame: int) -> int:
        """The row of one frame's matches to one keyframe."""
        extent = self.clips.clips[clip]
        return self.starts[clip] + self.keys[clip].index(key) * len(extent) + frame - extent.start

    def of(self, clip: int, key: int, frames: range) -> dict[int, Tensor]:
        """By level, ``[frames, N]``."""
        first = self.row(clip, key, frames.start)
        return {level: array.read(first, first + len(frames)) for level, array in self.arrays.items()}


def matches_stage(run: Run, features: Stage, scheduled: Stage) -> Stage:
    """Where `match_tokens` leaves the correspondences, done or not."""
    return run.stage("matches", {}, features, scheduled)


def match_tokens(run: Run, clips: Partition, drawn: Tensor, features: Stage, scheduled: Stage) -> Matches:
    """Token correspondences within each clip, for the keyframes that are drawn and once per pair."""
    stage = matches_stage(run, features, scheduled)
    array = _array(features, "features")
    grids = attention_grids(run)
    layout = Matches.layout(clips, drawn, {})
    arrays = match_arrays(stage, layout.starts[-1], grids)
    device = run.backbone.device
    if not stage.complete:
        for c in range(stage.done, len(clips.clips)):
            clip, keys = clips.clips[c], layout.keys[c]
            targets = {k: level_features(array, k, grids, device) for k in keys}
            for frames in spans(clip.start, clip.stop, FRAMES_MATCHED):
                own = [level_features(array, frame, grids, device) for frame in frames]
                for key, target in targets.items():
                    write_matches(arrays, layout.row(c, key, frames.start), own, target, key - frames.start)
                run.report("match", frames.stop, run.frames)
            stage.advance(c + 1)
        stage.finish()
    run.report("match", run.frames, run.frames)
    return Matches.layout(clips, drawn, arrays)


def write_matches(
    arrays: Mapping[int, DiskArray],
    row: int,
    own: Sequence[Mapping[int, Tensor]],
    target: Mapping[int, Tensor],
    same: int = -1,
) -> None:
    """φ of some frames to one keyframe, into the rows from `row` on; a GPU is waited for once a level.

    Args:
        arrays: By level.
        own: Of each frame the normalised features ``[N, d]`` by level; `target`: the keyframe's.
        same: Which of the frames is the keyframe itself, if one is: φ is then the identity.
    """
    for level, array in arrays.items():
        identity = torch.arange(len(target[level]), device=target[level].device)
        phi = [
            identity if i == same else match_units(features[level], target[level])[0] for i, features in enumerate(own)
        ]
        array.write(row, torch.stack(phi).cpu())


def attention_grids(run: Run) -> dict[int, tuple[int, int]]:
    """The grids (h, w) of the levels that have self-attention."""
    levels = sorted({site.level for site in run.backbone.attention_sites()})
    return {level: run.backbone.grid(run.latent_size, level) for level in levels}


def match_arrays(stage: Stage, rows: int, grids: dict[int, tuple[int, int]]) -> dict[int, DiskArray]:
    """Arrays ``level0`` … ``[rows, N]`` for matches, in the smallest type that has room for a token's index."""
    return {
        level: stage.array(f"level{level}", (rows, h * w), torch.int16 if h * w <= 2**15 else torch.int32)
        for level, (h, w) in grids.items()
    }


def still_to_do(stage: Stage, units: int) -> float:
    """The share of a stage's work that is not done yet."""
    return 0.0 if stage.complete else 1 - stage.done / units


def key_features(run: Run, features: Stage, keys: Tensor) -> Callable[[int], Tensor]:
    """Normalised features ``[M, N, d]`` of keyframes by level; they are read once, when the first is asked for."""

    @cache
    def read() -> Tensor:
        return _array(features, "features").rows(keys).to(run.backbone.device)

    return lambda level: torch.stack([resize(one, run.backbone.grid(run.latent_size, level)) for one in read()])


def level_features(
    array: DiskArray, frame: int, grids: dict[int, tuple[int, int]], device: torch.device
) -> dict[int, Tensor]:
    """Normalised features ``[N, d]`` of one frame, by level."""
    feature = array.read(frame, frame + 1)[0].to(device)
    return {level: resize(feature, grid) for level, grid in grids.items()}


def _array(stage: Stage, name: str) -> DiskArray:
    return stage.existing(name)


def decode(run: Run, latents: DiskArray, stage: Stage, local: LocalEdit | None = None) -> None:
    """The edited frames: array ``frames`` ``[n, H, W, 3]`` uint8 of padded size.

    Args:
        local: Where not all is edited and the source's pixels are to be put back elsewhere.
    """
    heap.give_back()  # what the edit has left: its stage was begun after this one's
    frames = stage.array("frames", (run.frames, *run.geometry.padded, 3), torch.uint8)

    def decoded(span: range, source: Tensor | None = None, first: int = 0) -> None:
        pictures = run.backbone.decode(latents.read(span.start, span.stop)).cpu()
        if local and source is not None:
            pictures = local.restored(pictures, source[span.start - first : span.stop - first], span)
        frames.write(span.start, pictures)
        stage.advance(span.stop)
        run.report("decode", span.stop, run.frames)

    done = stage.done
    for source in read_frames(run, start=done) if local else ():
        work = partial(decoded, source=source, first=done)
        run.in_runs(done, done + len(source), lambda plan: plan.images, work)
        done += len(source)
    run.in_runs(done, run.frames, lambda plan: plan.images, decoded)
    stage.finish()


def tidy(run: Run, keep: str, edit: list[Stage]) -> None:
    """Remove from the workspace what the user does not want kept; the frames already handed out stay readable."""
    if keep == "none":
        run.workspace.prune(keep=[])
    elif keep == "edit":
        run.workspace.prune(keep=[stage.folder.name for stage in edit])
