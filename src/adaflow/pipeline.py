"""AdaFlow (Section 4 of the paper), from a video and a sentence to the edited video."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from typing_extensions import Self

from . import peers, stages
from .backbone import Backbone
from .borders import match_borders
from .budget import parse_bytes
from .cards import ModelCard, default_model
from .config import EditConfig, ResolvedConfig, resolve
from .editing import Prepared, edit
from .editor import Editor
from .errors import ConfigError, ResourceError
from .estimate import Estimate, check_fits, disk_bytes, estimate, fewest_and_most, is_long, rough_estimate, unit_costs
from .inversion import check_grids
from .keyframes import Partition
from .locate import locate
from .mask_source import Mask, open_mask
from .masks import Kept, LocalEdit, MaskArrays, mask_stage
from .memory import out_of_memory
from .previewing import preview
from .progress import ProgressCallback
from .prompts import CHANGE, branch_prompts, check_prompt
from .result import EditResult, Frames, Inspection, Preview, versions
from .reuse import check_reuse
from .run import Geometry, Run
from .steps import Step
from .video import VideoSource, open_source
from .workspace import Stage, Workspace, default_root

log = logging.getLogger(__name__)

Video = str | Path | np.ndarray | Sequence[Any]
"""A file, an array ``[n, H, W, 3]`` uint8, or a list of PIL images."""


class AdaFlowPipeline:
    """Edits videos of any length by text, with one Stable Diffusion model.

    Make it with `from_pretrained` or `from_pipe`. Calling it edits; `inspect` and `preview` show what would be done.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._fingerprint = backbone.fingerprint()

    @classmethod
    def from_pretrained(
        cls, model: str | Path | None = None, *, device: str | None = None, torch_dtype: torch.dtype | None = None
    ) -> Self:
        """A model by name (`miniature`, `sd21`), hub id, or folder in diffusers layout; None: the best one here.

        Raises:
            MissingError: the model is not here and could not be fetched.
            InputError: it is no Stable Diffusion 1.x or 2.x model.
        """
        return cls(Backbone.load(str(model or default_model()), device=device, dtype=torch_dtype))

    @classmethod
    def from_pipe(cls, pipe: StableDiffusionPipeline, card: ModelCard | None = None) -> Self:
        """A pipeline that is already built, as it is: its LoRA layers and textual inversions take part."""
        return cls(Backbone(pipe, card or ModelCard(name="custom")))

    def __call__(
        self,
        video: Video,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        source_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        method: str | None = None,
        mask: Mask | None = None,
        config: EditConfig | None = None,
        workspace: str | Path | None = None,
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], Any] | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> EditResult:
        """Edit `video` so that it shows `prompt`.

        Args:
            video: A file, an array or a list of images.
            prompt: What the result should show.
            negative_prompt: And this to `guidance_scale`: as in diffusers; what is set here goes before `config`.
            generator: Only its initial seed is used; every draw is stored, so that resuming needs no generator.
            method: A compared system in AdaFlow's place, such as ``tokenflow`` (docs/peers.md).
            mask: What is edited, in white; everything else stays the source's. One picture, or one for every frame.
            config: All settings; what it leaves open comes from the model's card. A card may have a kind of edit
                look for what the prompt changes of `source_prompt`, and edit that alone (`mask.find`).
            workspace: Folder for everything kept; None: one for this video in the user's cache.
            callback_on_step_end: Called as ``(pipeline, step, timestep, {})`` after each editing step.
            on_progress: Called with a `Progress` after every unit of work, in all stages.

        Raises:
            AdaFlowError: with one sentence that says what is wrong and what to do.
        """
        given: dict[str, Any] = dict(
            negative_prompt=negative_prompt,
            source_prompt=source_prompt,
            height=height,
            width=width,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            seed=generator.initial_seed() if generator else None,
            method=method,
        )
        asked = EditConfig.from_fields({name: value for name, value in given.items() if value is not None})
        config = asked.over(config or EditConfig())
        settings = self.resolve(config, masked=mask is not None)
        _check_mask(settings, mask)
        _check_texts(self.backbone, settings, prompt)
        _note_search(settings, config)

        def after_step(step: Step) -> None:
            returned = callback_on_step_end(self, step.number, step.timestep, {}) if callback_on_step_end else None
            if returned and returned.get("latents") is not None:
                raise ConfigError(
                    "callback_on_step_end returned latents; AdaFlow keeps them on disk and takes none back"
                )

        with self.opened(open_source(video), settings, workspace, on_progress) as run:
            if peers.find(settings.method) is None:
                return self._edit(run, prompt, after_step, open_mask(mask) if mask is not None else None)
            return self._edit_by_peer(run, prompt, after_step)

    def _edit(self, run: Run, prompt: str, after_step: Callable[[Step], None], mask: VideoSource | None) -> EditResult:
        """The method, stage by stage; each stage is found in the workspace or computed."""
        config = run.config
        source_prompt, negative_prompt, _ = texts = branch_prompts(prompt, config)
        masked = [] if mask is None else [mask_stage(run, mask)]

        latents = stages.encode(run)
        features = stages.extract_features(run, latents)  # DIFT, Section 3
        clips, scores, partitioned = stages.partition(run, features)  # AKS, Section 4.1
        check_fits(run, len(clips.clips))
        trajectory = stages.invert(run, latents, source_prompt)
        if config.mask.find:
            masked = [locate(run, trajectory, prompt)]
        drawn, scheduled = stages.draw_keyframes(run, clips, features, partitioned)
        matches = stages.match_tokens(run, clips, drawn, features, scheduled)  # φ, Section 4.3

        key = {"prompt": prompt, "negative": negative_prompt, "seed": config.seed, "guidance": config.guidance_scale}
        key |= {name: getattr(config, name) for name in ("guidance_start", "guidance_end", "reuse")}
        key |= config.injection.set_fields() | {f"slimming.{k}": v for k, v in config.slimming.set_fields().items()}
        key |= {f"propagation.{k}": v for k, v in config.propagation.set_fields().items()}
        edited = run.stage("edit", key | run.machine_key(), trajectory, scheduled, features, *masked)
        local = LocalEdit(MaskArrays.of(masked[0]), latents.existing("latents")) if masked else None
        restored = local if config.mask.restore else None
        decoded = run.stage("decoded", {"restored": True} if restored else {}, edited)
        if not decoded.complete:
            editor = Editor(self.backbone, config, self.backbone.conditioning(*texts))
            borders = match_borders(run, clips, drawn, features, scheduled)
            video = Prepared(trajectory.existing("trajectory"), clips, drawn, matches, borders, features, local)
            z = edit(run, editor, edited, video, after_step)  # AAS and FMLP, Sections 4.2 and 4.3
            stages.decode(run, z, decoded, restored)
        run.report("edit", run.frames * config.steps, run.frames * config.steps)
        run.report("decode", run.frames, run.frames)

        return self._result(run, prompt, edited, decoded, clips, scores, drawn, *masked)

    def _edit_by_peer(self, run: Run, prompt: str, after_step: Callable[[Step], None]) -> EditResult:
        """A compared system in AdaFlow's place; its chunks are the partition; it has no scores and no schedule."""
        made = peers.edit(run, prompt, after_step)
        nothing = torch.zeros(0, 2), torch.zeros(run.config.steps, 0, dtype=torch.int64)
        return self._result(run, prompt, made.edit, made.decoded, made.chunks, *nothing)

    def _result(
        self,
        run: Run,
        prompt: str,
        edited: Stage,
        decoded: Stage,
        clips: Partition,
        scores: Tensor,
        drawn: Tensor,
        masked: Stage | None = None,
    ) -> EditResult:
        """What is given back of a finished edit; what shall not be kept is removed."""
        record = {
            "prompt": prompt,
            "settings": run.config.set_fields(),
            "model": self.model_record(),
            "versions": versions(),
        }
        kept = None
        if masked is not None:
            record["mask"] = masked.key.get("mask", "found")
            if run.config.mask.restore:
                kept = Kept(run.source, masked.existing("mask").reopened(), run.geometry.content)
        result = EditResult(
            frames=Frames(decoded.existing("frames"), run.geometry.content),
            partition=clips,
            scores=scores,
            schedule=drawn,
            record=record | {"plan": run.plan_record(drawn.shape[1]), "frames": run.frames},
            source=run.source.info,
            config=run.config,
            workspace=run.workspace.root,
            kept=kept,
        )
        edited.write_json("record", result.record)
        stages.tidy(run, keep=run.config.output.keep, edit=[edited, decoded])
        return result

    def inspect(
        self,
        video: Video,
        *,
        mask: Mask | None = None,
        config: EditConfig | None = None,
        workspace: str | Path | None = None,
        on_progress: ProgressCallback | None = None,
        on_rough: Callable[[Estimate, Estimate], None] | None = None,
    ) -> Inspection:
        """The partition of a video, its keyframes, and an estimate of what its edit will take; nothing is edited.

        Costs a few percent of an edit, and the edit reuses it.

        Args:
            mask: Of the edit to come: what is wrong with it is said now.
            on_rough: Called first, before anything is computed, with the least and the most that an edit may take.

        Raises:
            ResourceError: even the least does not fit this machine.
        """
        settings = self.resolve(config or EditConfig(), masked=mask is not None)
        _only_adaflow(settings, "inspect")
        _check_mask(settings, mask)
        with self.opened(open_source(video), settings, workspace, on_progress) as run:
            few, _ = fewest_and_most(run.frames)
            check_fits(run, few)
            if mask is not None:
                mask_stage(run, open_mask(mask))
            run.workspace.reserve(disk_bytes(run, few))
            costs = unit_costs(run)
            if on_rough:
                on_rough(*rough_estimate(run, costs))
            latents = stages.encode(run)
            features = stages.extract_features(run, latents)
            clips, scores, partitioned = stages.partition(run, features)
            drawn, scheduled = stages.draw_keyframes(run, clips, features, partitioned)
            source_prompt, *_ = branch_prompts("", run.config)
            left = {
                "invert": stages.still_to_do(stages.trajectory_stage(run, latents, source_prompt), run.frames),
                "match": stages.still_to_do(stages.matches_stage(run, features, scheduled), len(clips.clips)),
            }
            if is_long(run, costs):
                costs = unit_costs(run, again=True)
            found = estimate(run, len(clips.clips), costs).where_left(left)
            return Inspection(run.source.info, run.geometry, clips, scores, drawn, found)

    def preview(
        self,
        video: Video,
        prompt: str,
        *,
        keyframes: int = 4,
        mask: Mask | None = None,
        config: EditConfig | None = None,
        workspace: str | Path | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Preview:
        """The joint edit of a few keyframes, spread over the video: what the edit will look like, for little.

        It is an edit of `keyframes` frames, not of all M: the whole edit sees more and may differ.
        """
        settings = self.resolve(config or EditConfig(), masked=mask is not None)
        _only_adaflow(settings, "preview")
        _check_mask(settings, mask)
        _check_texts(self.backbone, settings, prompt)
        _note_search(settings, config or EditConfig())
        with self.opened(open_source(video), settings, workspace, on_progress) as run:
            return preview(run, prompt, keyframes, None if mask is None else open_mask(mask))

    def resolve(self, config: EditConfig, *, masked: bool = False) -> ResolvedConfig:
        """The complete settings of an edit with this model.

        Args:
            config: What the caller set.
            masked: A mask is given, so that nothing is to be found.
        Raises:
            ConfigError: settings that contradict each other, or steps whose grids do not fit this model.
        """
        card = self.backbone.card
        known = {**peers.published(config, card.settings), **card.settings}
        settings = resolve(config, known, _kinds(card, config, masked))
        check_grids(self.backbone, settings.steps, settings.inversion_steps)
        check_reuse(self.backbone, settings)
        parse_bytes(settings.max_memory)
        return settings

    @contextmanager
    def opened(
        self,
        source: VideoSource,
        config: ResolvedConfig,
        workspace: str | Path | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Iterator[Run]:
        """A run with its workspace open, for the stages; closed, and the thread count given back, on the way out."""
        info, fingerprint, threads = source.info, source.fingerprint(), torch.get_num_threads()
        geometry = Geometry.of((info.height, info.width), config, self.backbone)
        identity = {"video": fingerprint, "frames": info.frames, "height": info.height, "width": info.width}
        root = Path(workspace) if workspace else default_root(fingerprint)
        with Workspace.open(root, identity, describe=str(info.path or "frames in memory")) as store:
            try:
                yield Run(self.backbone, store, config, source, geometry, self._fingerprint, on_progress)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise ResourceError(
                    "the memory ran out; lower --height or --run.rows, or close other programs, and run the same "
                    "command again: it goes on where this one stopped"
                ) from error
            finally:
                torch.set_num_threads(threads)

    def model_record(self) -> dict[str, str]:
        """What the model is: name, fingerprint of its weights, device and type."""
        return {
            "name": self.backbone.card.name,
            "fingerprint": self._fingerprint,
            "device": self.backbone.device.type,
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
        }


def _only_adaflow(config: ResolvedConfig, command: str) -> None:
    """Refuse a compared system where there is nothing of it to show."""
    if peers.find(config.method) is not None:
        raise ConfigError(f"{command} shows AdaFlow's keyframes, and {config.method} has none; leave the method away")


def _kinds(card: ModelCard, config: EditConfig, masked: bool) -> Mapping[str, Mapping[str, Any]]:
    """The card's settings by kind of edit, less the search for what is edited where nothing can be looked for.

    A kind's search compares two prompts, so it needs the source's; and a mask, a method that edits everywhere, or a
    caller who wants no search comes first.
    """
    asked = config.mask.find
    if asked or (asked is None and config.source_prompt and not masked and peers.find(config.method) is None):
        return card.kinds
    return {
        kind: {name: value for name, value in settings.items() if not name.startswith("mask.")}
        for kind, settings in card.kinds.items()
    }


def _check_mask(config: ResolvedConfig, mask: Mask | None) -> None:
    """Refuse what says twice where to edit, or says it to a method that edits everywhere."""
    if mask is not None and config.mask.find:
        raise ConfigError("a mask is given, and mask.find has words for one; leave one of them away")
    if (mask is not None or config.mask.find) and peers.find(config.method) is not None:
        raise ConfigError(f"masks go with AdaFlow's own method, not with {config.method}; leave one of them away")


def _note_search(settings: ResolvedConfig, config: EditConfig) -> None:
    """Say that only a part is edited, where the model's card has it so and nobody asked."""
    if settings.mask.find and config.mask.find is None:
        log.warning("only what the prompt changes is edited, and the rest stays; mask.find '' edits everything")


def _check_texts(backbone: Backbone, config: ResolvedConfig, prompt: str) -> None:
    """Say what the user should know about the prompt, and about the words that are looked for."""
    sought = [] if config.mask.find in ("", CHANGE) else [config.mask.find]
    for text in (prompt, *sought):
        for note in check_prompt(text, backbone):
            log.warning(note)
