"""FLATTEN (Cong et al., https://arxiv.org/abs/2310.05922): attention along the trajectories of optical flow.

All frames of a chunk attend to each other in every layer. At the finest level the result of that is attended to once
more, each token seeing only the tokens on its own path through the frames. Normalisation in the resnets is joint over
the frames, as in a network inflated to video. All of it holds in the inversion as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .. import stages
from ..attention import attention_installed, extended_attention, projections
from ..backbone import Branch, Site
from ..config import PeerConfig
from ..diskarray import DiskArray
from ..steps import Step
from ..workspace import Stage
from .flow import flow_by, missing, resized
from .peer import Bench, read
from .stepwise import Prediction, Stepwise

PATHS = 4096
"""Paths attended along at once."""


class Flatten(Stepwise):
    """Attention among all frames of a chunk, then along the paths of the flow."""

    name = "flatten"
    title = "FLATTEN"
    about = "All frames attend to each other, then along the paths of optical flow; in chunks of 32 frames."
    published = MappingProxyType(
        {
            "steps": 50,
            "inversion_steps": 100,
            "guidance_scale": 10.0,
            "injection.features": 0.8,
            "injection.attention": 0.8,
            "peers.chunk": 32,
            "peers.flow": "dis",
        }
    )
    own_inversion = True

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.flow = flow_by(self.config.peers.flow, bench.backbone.device)
        if self.config.injection.sites == "pnp":
            self.features = feature_sites(bench.backbone.injection_feature_sites("wide"))
        self.queries = frozenset(site.name for site in query_sites(bench.backbone.injection_attention_sites()))
        self._successors: DiskArray | None = None

    @classmethod
    def missing(cls, peers: PeerConfig) -> str | None:
        """See `Peer`."""
        return missing(peers.flow)

    def prepare(self, latents: Stage) -> list[Stage]:
        """Each cell's successor in the next frame, by the flow: array ``successors`` ``[n, h * w]`` int32."""
        run = self.bench.run
        key = {"flow": self.config.peers.flow, "seed": self.config.seed, "size": run.geometry.content}
        stage = run.stage("flow", key, latents)
        h, w = run.latent_size
        successors = stage.array("successors", (run.frames, h * w), torch.int32)
        if not stage.complete:
            before: Tensor | None = None
            number = stage.done
            for batch in stages.read_frames(run, start=number):
                for frame in batch:
                    if before is not None:
                        found = torch.from_numpy(self.flow(before.numpy(), frame.numpy()))
                        random = np.random.default_rng((self.config.seed, number))
                        successors.write(number, successor(found, (h, w), random)[None])
                        number += 1
                        stage.advance(number)
                        run.report("match", number, run.frames)
                    before = frame
            successors.write(number, torch.full((1, h * w), -1, dtype=torch.int32))  # after the last frame: none
            stage.finish()
        run.report("match", run.frames, run.frames)
        self._successors = successors
        return [stage]

    def predict(self, step: Step, chunk: range, latents: DiskArray, source: DiskArray) -> Iterator[Prediction]:
        """See `Stepwise`: the whole chunk in one call."""
        this = PathPass(step.branches, len(chunk), self.paths(chunk), self.injected(step))
        z, inverted = read(latents, chunk), read(source, chunk)
        with joint_norms(self.bench.backbone.unet, len(step.branches)):
            noise = self.bench.predict(step, step.branches, z, inverted, chunk, this.processor, self.features)
        yield chunk, noise

    @contextmanager
    def inverting(self, chunk: range) -> Iterator[None]:
        """The same attention and norms, with the source alone."""
        this = PathPass(("source",), len(chunk), self.paths(chunk), frozenset())
        unet = self.bench.backbone.unet
        with attention_installed(unet, self.bench.attention, this.processor), joint_norms(unet, 1):
            yield

    def paths(self, chunk: range) -> Tensor:
        """The paths ``[P, T]`` through a chunk, on the model's device."""
        if self._successors is None:
            raise ValueError("the flow is not prepared")
        return paths(self._successors.read(chunk.start, chunk.stop)[:-1].long()).to(self.bench.backbone.device)


def feature_sites(wide: Sequence[Site]) -> list[Site]:
    """Where FLATTEN injects features: two resnets of the first decoder block that attends, one of the next.

    Args:
        wide: All resnets of the decoder blocks that attend, in order.
    """
    blocks = list(dict.fromkeys(site.block for site in wide))
    wanted = {(block, layer) for block, layer in zip(blocks, (0, 0), strict=False)} | {(blocks[0], 1)}
    return [site for site in wide if (site.block, site.layer) in wanted]


def query_sites(injected: Sequence[Site]) -> list[Site]:
    """Where FLATTEN injects queries and keys: as PnP, but in the finest block only in the first layer."""
    last = injected[-1].block if injected else 0
    return [site for site in injected if site.block != last or site.layer == 0]


def successor(flow: Tensor, grid: tuple[int, int], random: np.random.Generator) -> Tensor:
    """For each cell of a frame, the cell of the next frame to which the flow leads, ``[h * w]`` int32; -1: none.

    The flow is taken at the nearest pixel and rounded to whole cells. What leaves the frame has no successor; of
    several cells that lead to one, a random one keeps it.

    Args:
        flow: ``[H, W, 2]`` (dx, dy) in pixels, from this frame to the next.
        grid: (h, w).
    """
    h, w = grid
    moved = resized(flow, grid, "nearest").round().long()
    x, y = torch.arange(w)[None, :] + moved[..., 0], torch.arange(h)[:, None] + moved[..., 1]
    inside = ((x >= 0) & (x < w) & (y >= 0) & (y < h)).flatten()
    target = torch.where(inside, (y * w + x).flatten(), -1)
    order = torch.from_numpy(random.permutation(h * w))
    order = order[inside[order]]
    keeper = np.full(h * w, -1)  # which cell keeps each cell of the next frame
    keeper[target[order].numpy()] = order.numpy()  # of equal indices numpy keeps the last one written
    taken, cells = torch.from_numpy(keeper), torch.arange(h * w)
    keeps = inside & (taken[target.clamp(min=0)] == cells)
    return torch.where(keeps, target, -1).to(torch.int32)


def paths(successors: Tensor) -> Tensor:
    """The longest chains of successors through T frames: every cell of every frame lies on exactly one.

    Args:
        successors: ``[T - 1, N]``, each cell's successor in the next frame or -1; no two alike in a frame.

    Returns:
        ``[P, T]`` int64: the cell of each path in each frame, -1 where the path is not.
    """
    tokens = successors.shape[1]
    names = [torch.arange(tokens)]  # of the path on which each cell lies
    count = tokens
    for step in successors:
        name = torch.full((tokens,), -1)
        goes_on = step >= 0
        name[step[goes_on]] = names[-1][goes_on]
        begins = (name < 0).nonzero()[:, 0]
        name[begins] = torch.arange(count, count + len(begins))
        count += len(begins)
        names.append(name)
    table = torch.full((count, len(names)), -1)
    for frame, name in enumerate(names):
        table[name, frame] = torch.arange(tokens)
    return table


def along_paths(x: Tensor, table: Tensor, chunk: int = PATHS) -> Tensor:
    """Attention of each token to those on its own path, itself among them; queries, keys and values are the tokens.

    Args:
        x: ``[T, H, N, d]``; `table`: the paths ``[P, T]`` (`paths`).
        chunk: Paths at once. Memory grows with ``chunk * T * H d``.

    Returns:
        ``[T, H, N, d]``.
    """
    frames = torch.arange(x.shape[0], device=x.device)
    out = torch.empty_like(x)
    for part in table.split(chunk):
        there = part >= 0
        tokens = x[frames, :, part.clamp(min=0)].transpose(1, 2)  # (P, H, T, d)
        found = scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=there[:, None, None])
        path, frame = there.nonzero(as_tuple=True)
        out[frame, :, part[path, frame]] = found[path, :, frame]
    return out


@dataclass(frozen=True)
class PathPass:
    """One step for a chunk of frames, all branches alike.

    Attributes:
        branches: The branches in the batch; the source is first, if it is there.
        frames: T, the frames of each branch.
        paths: ``[P, T]`` through the finest grid.
        injected: Layers in which the edit branches take the source's queries and keys.
    """

    branches: Sequence[Branch]
    frames: int
    paths: Tensor
    injected: frozenset[str]

    def processor(self, site: Site) -> PathAttention:
        """The attention processor of one layer for this pass."""
        return PathAttention(site, self)


class PathAttention:
    """Attention among all frames of a branch, and at the finest level along the paths of the flow after it."""

    def __init__(self, site: Site, path_pass: PathPass) -> None:
        self.site, self.path_pass = site, path_pass

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """``[B T, N, C]`` in and out, as diffusers' attention-processor API has it."""
        this = self.path_pass
        branches = len(this.branches)
        injected = self.site.name in this.injected and this.branches[0] == "source"
        q, k, v = projections(attn, hidden_states, branches if injected else 0)
        parts = []
        for rows in (slice(b * this.frames, (b + 1) * this.frames) for b in range(branches)):
            out = extended_attention(q[rows], k[rows], v[rows])
            parts.append(along_paths(out, this.paths) if self.site.level == 0 else out)
        out = torch.cat(parts).transpose(1, 2).flatten(-2).to(hidden_states.dtype)
        for layer in attn.to_out:
            out = layer(out)
        return out


@contextmanager
def joint_norms(unet: nn.Module, branches: int) -> Iterator[None]:
    """Within it, the group norms of the resnets and of the output take their statistics over all frames of a branch."""

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].unflatten(0, (branches, -1)).transpose(1, 2), *args[1:])  # (branches, C, T, h, w)

    def after(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output.transpose(1, 2).flatten(0, 1)

    with ExitStack() as stack:
        for name, module in unet.named_modules():
            if isinstance(module, nn.GroupNorm) and (".resnets." in name or name == "conv_norm_out"):
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(after).remove)
        yield
