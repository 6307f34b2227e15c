"""A UNet's forward pass in parts that end at its self-attention layers, for rows that cannot all be run at once.

Between two self-attention layers the rows of a batch have nothing to do with each other, so that they may go through
the UNet in chunks; at a layer where keyframes look at each other, all chunks have to have arrived. What a chunk has
then to remember is a value, `Rows`: it can wait on the device or on the host, be cut in two, and go through the same
part again after running out of memory. A part runs the UNet's own modules in the order in which diffusers' blocks run
them, so that forward hooks and LoRA layers take part; given all rows at once it computes what a forward pass computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .finest import odd_parts

BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D", "UNetMidBlock2DCrossAttn", "UpBlock2D", "CrossAttnUpBlock2D")


@dataclass(frozen=True)
class Rows:
    """Rows on their way through a UNet: all that the rest of the way needs.

    Attributes:
        frames: Which frames they are; the rows are these, branch after branch.
        x: The feature map ``[B, C, h, w]``; within a transformer, its input, which its output is added to.
        emb: The timestep's embedding ``[B, E]``.
        text: ``[B, L, D]``.
        skips: What the encoder left for the decoder and the decoder has not taken yet, ``[B, …]``, last first taken.
        tokens: Within a transformer, its hidden states ``[B, N, C]``.
    """

    frames: range
    x: Tensor
    emb: Tensor
    text: Tensor
    skips: tuple[Tensor, ...] = ()
    tokens: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor], *, skips: bool = True) -> Rows:
        """All tensors changed, or all but the skips."""
        tokens = None if self.tokens is None else change(self.tokens)
        left = tuple(map(change, self.skips)) if skips else self.skips
        return Rows(self.frames, change(self.x), change(self.emb), change(self.text), left, tokens)

    def part(self, some: range) -> Rows:
        """Some of these frames, in each branch."""
        first = some.start - self.frames.start
        found = self.each(
            lambda x: x.unflatten(0, (-1, len(self.frames)))[:, first : first + len(some)].flatten(0, 1).clone()
        )
        return replace(found, frames=some)


Work = Callable[[Rows], Rows]


@dataclass(frozen=True)
class Part:
    """What is run between two self-attention layers.

    Attributes:
        work: In order; the first part begins with a map that `begin` made, the last ends with the UNet's output in `x`.
        block: The transformer block whose self-attention comes next; None at the end.
        after: The block whose self-attention came before: the part begins by `attended`.
    """

    work: tuple[Work, ...]
    block: Any
    after: Any

    def __call__(self, rows: Rows) -> Rows:
        """All the work."""
        for one in self.work:
            rows = one(rows)
        return rows


def attended(block: Any, rows: Rows, out: Tensor) -> Rows:
    """The rest of a transformer block, given its self-attention's output ``[B, N, C]``."""
    if rows.tokens is None:
        raise ValueError("these rows are in no transformer")
    y = out + rows.tokens
    y = block.attn2(block.norm2(y), encoder_hidden_states=rows.text, attention_mask=None) + y
    return replace(rows, tokens=block.ff(block.norm3(y)) + y)


def begin(unet: Any, frames: range, sample: Tensor, timestep: int, text: Tensor) -> Rows:
    """Latents ``[B, c, h, w]`` of the UNet's type, of `frames` branch after branch, before the first part."""
    emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep))
    return Rows(frames, sample, emb, text)


def parts(
    unet: Any,
    *,
    finest: bool = False,
    take: Callable[[Rows], None] | None = None,
    give: Callable[[Rows], Tensor] | None = None,
) -> list[Part]:
    """The UNet's forward pass, cut before every self-attention layer.

    Args:
        unet: A UNet of which `unknown_parts` says nothing.
        finest: Only the first encoder block and the last decoder block, as `finest.FinestLevel`.
        take: Called with the rows that enter the last decoder block.
        give: With `finest`, what enters the last decoder block instead of what the encoder left.
    """
    down = list(unet.down_blocks)[: 1 if finest else None]
    up = list(unet.up_blocks)[-1 if finest else 0 :]
    stream: list[Any] = [_conv_in(unet)]
    for block in down:
        for layer in _layers(block):
            stream += [*layer, _push]
        for sampler in () if finest else block.downsamplers or ():
            stream += [_map(sampler), _push]
    if not finest and unet.mid_block is not None:
        first, *resnets = unet.mid_block.resnets
        stream.append(_resnet(first))
        for attention, resnet in zip(unet.mid_block.attentions, resnets, strict=True):
            stream += [*_transformer(attention), _resnet(resnet)]
    if finest and give is not None:
        stream.append(_replaced(give, len(up[0].resnets)))
    for number, block in enumerate(up):
        last = number == len(up) - 1
        if last and take is not None:
            stream.append(_taken(take))
        for layer in _layers(block):
            stream += [_pop, *layer]
        for sampler in block.upsamplers or ():
            stream.append(_upsampled(sampler))
    stream.append(_out(unet))

    found: list[Part] = []
    work: list[Work] = []
    after = None
    for item in stream:
        if isinstance(item, _Attention):
            found.append(Part(tuple(work), item.block, after))
            work, after = [], item.block
        else:
            work.append(item)
    return [*found, Part(tuple(work), None, after)]


def unknown_parts(unet: Any) -> list[str]:
    """What this UNet has that `parts` does not know; Stable Diffusion's have nothing of it."""
    blocks = [*unet.down_blocks, *([unet.mid_block] if unet.mid_block is not None else []), *unet.up_blocks]
    found = odd_parts(unet) + [name for block in blocks if (name := type(block).__name__) not in BLOCKS]
    found += [name for name in ("addition_embed_type", "encoder_hid_dim_type") if unet.config.get(name)]
    found += ["FreeU" for block in blocks if getattr(block, "s1", None)]
    for block in blocks:
        for attention in getattr(block, "attentions", None) or ():
            plain = getattr(attention, "is_input_continuous", False)
            for b in attention.transformer_blocks if plain else ():
                plain &= b.norm_type == "layer_norm" and b.pos_embed is None and not b.only_cross_attention
                plain &= b.attn2 is not None and b._chunk_size is None and not hasattr(b, "fuser")
            found += [] if plain else [type(attention).__name__]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Attention:
    """Where the stream is cut: a block's self-attention, and what of the block comes after it, is not in it."""

    block: Any


def _layers(block: Any) -> Iterator[list[Any]]:
    """Each resnet of a block, with its transformer where it has one."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    for resnet, attention in zip(block.resnets, attentions, strict=True):
        yield [_resnet(resnet), *([] if attention is None else _transformer(attention))]


def _transformer(transformer: Any) -> list[Any]:
    def enter(rows: Rows) -> Rows:
        y = transformer.norm(rows.x)
        if transformer.use_linear_projection:
            return replace(rows, tokens=transformer.proj_in(_tokens(y)))
        return replace(rows, tokens=_tokens(transformer.proj_in(y)))

    def leave(rows: Rows) -> Rows:
        y: Any = rows.tokens
        if transformer.use_linear_projection:
            y = _image(transformer.proj_out(y), rows.x)
        else:
            y = transformer.proj_out(_image(y, rows.x))
        return replace(rows, x=y + rows.x, tokens=None)

    return [enter, *map(_Attention, transformer.transformer_blocks), leave]


def _tokens(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, h * w, c)


def _image(tokens: Tensor, like: Tensor) -> Tensor:
    b, _, h, w = like.shape
    return tokens.reshape(b, h, w, tokens.shape[-1]).permute(0, 3, 1, 2).contiguous()


def _conv_in(unet: Any) -> Work:
    return lambda rows: _push(replace(rows, x=unet.conv_in(rows.x)))


def _resnet(resnet: Any) -> Work:
    return lambda rows: replace(rows, x=resnet(rows.x, rows.emb))


def _map(module: Any) -> Work:
    return lambda rows: replace(rows, x=module(rows.x))


def _upsampled(sampler: Any) -> Work:
    def work(rows: Rows) -> Rows:
        # where a halving was rounded up, the size to come back to is that of the skips that are left
        size = rows.skips[-1].shape[2:] if rows.skips else None
        doubled = size is None or list(size) == [2 * side for side in rows.x.shape[2:]]
        return replace(rows, x=sampler(rows.x, None if doubled else size))

    return work


def _push(rows: Rows) -> Rows:
    return replace(rows, skips=(*rows.skips, rows.x))


def _pop(rows: Rows) -> Rows:
    return replace(rows, x=torch.cat([rows.x, rows.skips[-1].to(rows.x.device)], dim=1), skips=rows.skips[:-1])


def _taken(take: Callable[[Rows], None]) -> Work:
    def work(rows: Rows) -> Rows:
        take(rows)
        return rows

    return work


def _replaced(give: Callable[[Rows], Tensor], skips: int) -> Work:
    return lambda rows: replace(rows, x=give(rows), skips=rows.skips[:skips])


def _out(unet: Any) -> Work:
    def work(rows: Rows) -> Rows:
        x = rows.x
        if unet.conv_norm_out is not None:
            x = unet.conv_act(unet.conv_norm_out(x))
        return replace(rows, x=unet.conv_out(x))

    return work
