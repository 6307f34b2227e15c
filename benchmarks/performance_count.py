"""What an edit costs by count: floating-point operations and bytes, by stage, without running it.

Every kind of call is made once, by the method's own code on torch's meta device, and counted; how often it is made
comes from the method's own steps, schedule and partition. Products outside the networks (matching, the choice of kept
tokens) are counted by formula. `tests/test_performance.py` asserts that both together equal what a real run counts,
to the last operation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from adaflow.backbone import Backbone, Branch, Conditioning, Site
from adaflow.borders import BorderMatches, stretches
from adaflow.config import ResolvedConfig
from adaflow.correspondence import CHUNK
from adaflow.directions import sampled_frames
from adaflow.editor import DEEP, Editor
from adaflow.features import FeatureExtractor
from adaflow.keyframes import Partition, schedule
from adaflow.longv_eval.calls import FlopCounter
from adaflow.slimming import HEAT_BYTES, ROWS, kept_count
from adaflow.stages import Matches
from adaflow.steps import Step

STAGES = ("encode", "features", "partition", "invert", "match", "edit", "decode")
EDIT_PARTS = ("edit.text", "edit.borders", "edit.choose", "edit.key", "edit.source", "edit.propagate")

META = torch.device("meta")


def on_meta(backbone: Backbone) -> Backbone:
    """The model without its weights: its modules are moved to the meta device, and it can compute nothing more."""
    pipe = backbone.pipe
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.to(META)
    return Backbone(pipe, backbone.card)


def equal_clips(frames: int, clips: int) -> Partition:
    """`clips` clips of lengths that differ by one frame at most."""
    starts = np.linspace(0, frames, clips, endpoint=False).round().astype(int).tolist()
    return Partition.from_starts(starts, frames)


def flops_of(work: Callable[[], Any]) -> int:
    """Operations of what `work` does on the meta device."""
    with torch.inference_mode(), FlopCounter() as counter:
        work()
    return counter.flops


@dataclass
class Count:
    """The cost of one edit by count.

    Args:
        backbone: A model on the meta device.
        config: The settings, complete.
        clips: The partition.
        latent_size: ``(h, w)`` of the latents.
        drawn: The keyframes ``[T, M]``; None: as the schedule draws them.
        words: Tokens of a prompt; 0: as many as the model's tokenizer gives.
        found: Operations by kind of call, as far as met: to be handed from count to count of the same model.
    """

    backbone: Backbone
    config: ResolvedConfig
    clips: Partition
    latent_size: tuple[int, int]
    drawn: torch.Tensor | None = None
    words: int = 0
    found: dict[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.drawn is None:
            choice = self.config.keyframes.choice
            how = "middle" if choice == "medoid" else choice  # one keyframe a clip, whichever it is
            self.drawn = schedule(self.clips, self.config.steps, self.config.seed, how)
        self.words = self.words or int(self.backbone.pipe.tokenizer.model_max_length)

    # -- all of it -------------------------------------------------------------------------------------------------

    def flops(self) -> dict[str, int]:
        """Operations by stage; those of the edit also by part, under ``edit.…``, which are not to be added again."""
        n, config = self.clips.frames, self.config
        drawn_latents = config.features.input_range == "unit" or config.features.ensemble > 1
        copies = config.features.ensemble
        parts = self.edit_parts()
        return {
            "encode": n * self.encode,
            # one frame more, for the features' shape
            "features": (n + 1) * copies * self.features
            + drawn_latents * n * copies * self.encode
            + self.text
            + self.projected,
            "partition": self._compared() * self.pair(self.feature_grid),
            "invert": n * self.inversion + 3 * self.text,
            "match": self.pairs_matched * self.match,
            "edit": sum(parts.values()),
            "decode": n * self.decode,
            **parts,
        }

    def edit_parts(self) -> dict[str, int]:
        """Operations of the edit by part."""
        n, m = self.clips.frames, len(self.clips)
        parts = dict.fromkeys(EDIT_PARTS, 0)
        parts["edit.text"] = 3 * self.text
        parts["edit.borders"] = self.border_flops()
        steps, drawn = self.editor.steps, self._drawn
        for step in steps:  # where the keyframes are those of the step before, so are their tokens
            if step.number == 0 or not torch.equal(drawn[step.number], drawn[step.number - 1]):
                parts["edit.choose"] += self.choose(step.whole)
        for step, times in self.kinds.items():
            parts["edit.key"] += times * self.key(step, m)
            parts["edit.source"] += times * n * self.source(step)
            parts["edit.propagate"] += times * n * self.propagate(step)
        return parts

    @cached_property
    def kinds(self) -> dict[Step, int]:
        """The kinds of step (numbers and timesteps apart), and how many there are of each."""
        return dict(Counter(replace(step, number=0, timestep=0) for step in self.editor.steps))

    # -- one call of each kind ------------------------------------------------------------------------------------

    @cached_property
    def editor(self) -> Editor:
        """An editor whose text is empty tensors."""
        config = self.backbone.unet.config
        text = torch.empty(1, self.words, config.cross_attention_dim, device=META, dtype=self.backbone.dtype)
        branches: tuple[Branch, ...] = ("source", "negative", "prompt")
        return Editor(self.backbone, self.config, Conditioning(dict.fromkeys(branches, text)))

    @cached_property
    def text(self) -> int:
        """One prompt's embedding."""
        return self._once(("text",), lambda: self.backbone.embed(""))

    @cached_property
    def encode(self) -> int:
        """One frame's latents."""
        h, w = (self.backbone.vae_factor * side for side in self.latent_size)
        frame = torch.empty(1, h, w, 3, dtype=torch.uint8, device=META)
        return self._once(("encode",), lambda: self.backbone.encode(frame))

    @cached_property
    def decode(self) -> int:
        """One frame of latents."""
        return self._once(("decode",), lambda: self.backbone.decode(self._z(1)))

    @cached_property
    def row(self) -> int:
        """One row of a plain call of the UNet."""
        rows = self.editor.conditioning.rows(range(1), "source")
        return self._once(("row",), lambda: self.backbone.predict(self._z(1), 500, rows))

    @property
    def inversion(self) -> int:
        """The inversion of one frame."""
        config = self.config
        whole = -(-config.inversion_steps // config.inversion_reuse)
        return whole * self.row + (config.inversion_steps - whole) * self.finest

    @property
    def finest(self) -> int:
        """One row of a plain call of the UNet's finest level."""
        rows, deep = self.editor.conditioning.rows(range(1), "source"), MetaDeep(self).get(range(1), ("source",))
        return self._once(("finest",), lambda: self.backbone.predict_finest(self._z(1), 500, deep, rows))

    @cached_property
    def features(self) -> int:
        """One copy of one frame's features, latents given."""
        return self._once(("features",), lambda: self._extractor(self._z(1)))

    def key(self, step: Step, keys: int) -> int:
        """One step's joint edit of `keys` keyframes."""
        slimming = self.config.slimming
        slim = 0 < slimming.budget < keys
        alone = not slimming.budget
        made = 2 if slim or alone else keys  # then every keyframe costs the same
        kept = {}
        for level, (h, w) in self.grids.items():
            if slim:
                count = kept_count(keys, h * w, slimming.budget, slimming)
                kept[level] = torch.empty(made, count, device=META, dtype=torch.int64)
        seen = tuple(rows.shape[1] for rows in kept.values())
        found = self._once(("key", step, made, seen, alone), lambda: self._key_pass(step, made, kept))
        return found * keys // made

    def propagate(self, step: Step) -> int:
        """One frame's edit rows at one step."""
        return self._once(("propagate", step), lambda: self._propagation(replace(step, features=False, changes=False)))

    def source(self, step: Step) -> int:
        """One frame's source row at one step, as far as something is taken from it; nothing where nothing is."""
        if not self.editor.source_rows(step):
            return 0
        both = self._once(("both", step), lambda: self._propagation(step))
        return both - self.propagate(step)

    def choose(self, whole: bool) -> int:
        """One step's choice of kept tokens: products of whole keyframes, padded as `slimming` pads them."""
        m, budget = len(self.clips), self.config.slimming.budget
        if not 0 < budget < m:
            return 0
        copies = 2 if self.config.slimming.selection == "distinct" else 1
        levels = {s.level for s in self.backbone.attention_sites() if whole or self.backbone.in_finest_level(s)}
        flops = 0
        for level in levels:
            tokens = math.prod(self.grids[level])
            chunk = min(m, max(1, ROWS // tokens))
            block = max(1, min(m, HEAT_BYTES // (4 * m * tokens * copies)))
            products = sum(
                -(-start // chunk) + -(-(m - i) // chunk)
                for start in range(0, m, block)
                for i in range(start, min(start + block, m))
            )
            flops += 2 * products * chunk * tokens * tokens * self.depth
        return flops

    def pair(self, grid: tuple[int, int]) -> int:
        """All similarities of two frames' tokens, padded as `correspondence` pads them."""
        tokens = math.prod(grid)
        chunk = min(CHUNK, tokens)
        return 2 * -(-tokens // chunk) * chunk * tokens * self.depth

    @cached_property
    def match(self) -> int:
        """One frame matched with one keyframe, at all levels."""
        return sum(self.pair(grid) for grid in self.grids.values())

    @property
    def pairs_matched(self) -> int:
        """Frames matched with keyframes that they are not, each pair once."""
        layout = Matches.layout(self.clips, self._drawn, {})
        return layout.starts[-1] - sum(map(len, layout.keys))

    def border_flops(self) -> int:
        """Frames near borders matched with the keyframes beyond; borders looked at for cuts."""
        blend = self.config.propagation.blend
        if not blend:
            return 0
        layout = BorderMatches.layout(stretches(self.clips, blend), self._drawn)
        return layout.starts[-1] * self.match + (len(self.clips) - 1) * self.pair(self.feature_grid)

    # -- the published script ------------------------------------------------------------------------------------

    def published_flops(self) -> dict[str, int]:
        """What the published script does for these clips, with this model: its calls, at the same price each.

        Frames are encoded twice and once for every copy of the features, and decoded three times; all pairs of a
        clip's frames are matched; source rows run through the whole UNet, in keyframes and in propagation, at every
        step. No padding, and nothing for what it computes and never reads.
        """
        n, m, config, copies = self.clips.frames, len(self.clips), self.config, self.config.features.ensemble
        plain = replace(self.editor.steps[0], features=False, attention=False, guided=True, whole=True)
        tokens = [math.prod(grid) for grid in self.grids.values()]
        pair = sum(2 * count**2 * self.depth for count in tokens)
        slim = 0 < config.slimming.budget < m
        parts = {
            "edit.choose": slim * config.steps * m * m * pair,
            "edit.key": config.steps * (self.key(plain, m) + m * self.row),
            "edit.propagate": config.steps * n * self.propagate(plain) * 3 // 2,
        }
        return {
            "encode": 2 * n * self.encode,
            "features": n * copies * (self.encode + self.features),
            "partition": (n - 1) * 2 * math.prod(self.feature_grid) ** 2 * self.depth,
            "invert": n * config.inversion_steps * self.row,
            "match": pair * sum(len(clip) ** 2 for clip in self.clips.clips),
            "edit": sum(parts.values()),
            "decode": 3 * n * self.decode,
            **parts,
        }

    # -- bytes ---------------------------------------------------------------------------------------------------

    def stored(self) -> dict[str, int]:
        """Bytes of each stage's arrays on disk."""
        n, config = self.clips.frames, self.config
        latent = self.backbone.unet.config.in_channels * math.prod(self.latent_size)
        width = self.width
        deep = 2 * self.backbone.finest.channels * math.prod(self.latent_size) * width if config.reuse > 1 else 0
        matched = Matches.layout(self.clips, self._drawn, {}).starts[-1]
        tokens = sum(math.prod(grid) for grid in self.grids.values())
        pixels, whole = math.prod(self.latent_size) * self.backbone.vae_factor**2, self._feature_shape[3]
        return {
            "encode": n * latent * 4,
            "features": n * math.prod(self.feature_grid) * self.depth * 2
            + 4 * self.depth * whole * (self.depth < whole),
            "invert": n * config.steps * latent * 2,
            "match": matched * tokens * 2,
            "edit": n * (2 * latent * 4 + deep),
            "decode": n * pixels * 3,
        }

    @property
    def width(self) -> int:
        """Bytes of one of the model's numbers."""
        return torch.finfo(self.backbone.dtype).bits // 8

    @property
    def record_bytes(self) -> int:
        """Attention outputs of one keyframe, all layers and as many branches as are left at most."""
        return (
            max(len(step.recorded) for step in self.editor.steps)
            * self._outputs(self.backbone.attention_sites())
            * self.width
        )

    def _outputs(self, sites: Iterable[Site]) -> int:
        """Numbers that attention layers give for one keyframe and branch."""
        return sum(
            math.prod(self.grids[site.level]) * self.backbone.unet.get_submodule(site.name).to_q.in_features
            for site in sites
        )

    def _left(self, step: Step) -> tuple[int, int]:
        """Bytes that one keyframe leaves in the record at a step: for each branch, and for each of the edit's alone."""
        deep = self.backbone.finest.channels * math.prod(self.latent_size)
        if not step.deep or (self.editor.source_rows(step) and not step.changes):
            return self._outputs(self.backbone.attention_sites()) * self.width, step.deep * deep * self.width
        finest = [site for site in self.backbone.attention_sites() if self.backbone.in_finest_level(site)]
        return self._outputs(finest) * self.width, deep * self.width

    def moved(self, run: int) -> dict[str, int]:
        """Bytes that a whole edit moves between the device and the host, and between the host and the disk.

        The attention record goes from the device once a step, and to it for every run; reused deep features are written
        in whole steps and read in the others.

        Args:
            run: Frames of one propagation run.
        """
        runs = sum(-(-len(clip) // run) for clip in self.clips.clips)
        moved = dict.fromkeys(("record_from_device", "record_to_device", "deep_written", "deep_read"), 0)
        deep = self.clips.frames * self.backbone.finest.channels * math.prod(self.latent_size) * self.width
        for step, times in self.kinds.items():
            one, more = self._left(step)
            cut, edited = self.editor.source_rows(step) and not step.changes, len(step.edited)
            moved["record_from_device"] += times * len(self.clips) * (len(step.recorded) * one + edited * more)
            moved["record_to_device"] += times * runs * ((edited + cut) * one + edited * more)
            if self.config.reuse > 1:
                moved["deep_written" if step.whole else "deep_read"] += times * len(step.edited) * deep
        return moved

    # -- shapes --------------------------------------------------------------------------------------------------

    @cached_property
    def grids(self) -> dict[int, tuple[int, int]]:
        """The grid of every level with self-attention."""
        levels = sorted({site.level for site in self.backbone.attention_sites()})
        return {level: self.backbone.grid(self.latent_size, level) for level in levels}

    @cached_property
    def _feature_shape(self) -> tuple[int, ...]:
        return self._extractor(self._z(1)).shape

    @cached_property
    def _extractor(self) -> FeatureExtractor:
        """One copy's features, with text of as many words as are counted."""
        config = replace(self.config.features, ensemble=1)
        return FeatureExtractor(Worded(self.backbone, self.words), config, tuple(self._z(1).shape[1:]))

    @property
    def feature_grid(self) -> tuple[int, int]:
        """The features' own grid."""
        return self._feature_shape[1], self._feature_shape[2]

    @property
    def depth(self) -> int:
        """Numbers of a feature that is matched."""
        whole = self._feature_shape[3]
        return min(self.config.features.dimensions or whole, whole)

    @property
    def projected(self) -> int:
        """What it takes to find the directions that features are projected on, and to project them."""
        whole, tokens = self._feature_shape[3], math.prod(self.feature_grid)
        if self.config.features.dimensions in (0, whole):
            return 0
        sampled = len(sampled_frames(self.clips.frames))
        return sampled * (self.features + 2 * tokens * whole**2) + self.clips.frames * 2 * tokens * whole * self.depth

    # -- inside --------------------------------------------------------------------------------------------------

    @property
    def _drawn(self) -> torch.Tensor:
        assert self.drawn is not None
        return self.drawn

    def _compared(self) -> int:
        """Pairs of frames that are compared to cut the video into these clips."""
        n = self.clips.frames
        if self.config.keyframes.rule == "released":  # the frame after a cut is compared with nothing
            return n - 1 - sum(start + 1 < n for start in self.clips.starts[1:])
        return n - 1

    def _z(self, rows: int) -> torch.Tensor:
        return torch.empty(rows, self.backbone.unet.config.in_channels, *self.latent_size, device=META)

    def _once(self, key: Any, work: Callable[[], Any]) -> int:
        whole = (*key, self.latent_size, self.words, self.config.injection.sites, self.config.features.block)
        if whole not in self.found:
            self.found[whole] = flops_of(work)
        return self.found[whole]

    def _key_pass(self, step: Step, keys: int, kept: dict[int, torch.Tensor]) -> None:
        z = self._z(keys)
        record = MetaRecord(self, len(step.recorded))
        self.editor.edit_keys(step, z, z, range(keys), kept, record, None if step.whole else MetaDeep(self))

    def _propagation(self, step: Step) -> None:
        record = MetaRecord(self, len(step.recorded))
        phi = {k: torch.empty(1, h * w, device=META, dtype=torch.int64) for k, (h, w) in self.grids.items()}
        deep = None if step.whole else MetaDeep(self)
        self.editor.propagate(step, self._z(1), self._z(1), range(1), [0], phi, record, (), deep)


class Worded(Backbone):
    """A model on the meta device whose prompts have so many tokens, whatever its tokenizer says."""

    def __init__(self, backbone: Backbone, words: int) -> None:
        super().__init__(backbone.pipe, backbone.card)
        self._words = words

    def embed(self, text: str) -> torch.Tensor:
        """``[1, words, D]``, empty."""
        return torch.empty(1, self._words, self.unet.config.cross_attention_dim, device=META, dtype=self.dtype)


class MetaRecord:
    """An `AttentionRecord` that holds shapes alone."""

    def __init__(self, count: Count, branches: int) -> None:
        self._count, self._branches = count, branches
        self._sites = {site.name: site for site in count.backbone.attention_sites()}

    def put(self, layer: str, output: torch.Tensor, first: int = 0, total: int = 0) -> None:
        """Nothing is kept."""

    def get(self, layer: str, clip: int, branches: slice) -> torch.Tensor:
        """``[branches, N, C]``."""
        if layer == DEEP:
            width, tokens = self._count.backbone.finest.channels, math.prod(self._count.latent_size)
        else:
            width = self._count.backbone.unet.get_submodule(layer).to_q.in_features
            tokens = math.prod(self._count.grids[self._sites[layer].level])
        dtype = self._count.backbone.dtype
        return torch.empty(self._branches, tokens, width, device=META, dtype=dtype)[branches]


class MetaDeep:
    """`DeepFeatures` that hold shapes alone."""

    def __init__(self, count: Count) -> None:
        self._count = count

    def put(self, frames: Any, branches: Any, deep: torch.Tensor) -> None:
        """Nothing is kept."""

    def get(self, frames: Any, branches: Any) -> torch.Tensor:
        """``[branches x f, C, h, w]``."""
        backbone = self._count.backbone
        rows = len(frames) * len(branches)
        return torch.empty(rows, backbone.finest.channels, *self._count.latent_size, device=META, dtype=backbone.dtype)
