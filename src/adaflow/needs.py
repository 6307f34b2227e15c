"""What the work on a video needs of memory, from shapes alone: activations of every kind of call, and what is kept.

The activations are those of the model's own modules, run without data and without memory (`memory.shapes_only`): exact
for what torch allocates, for any model. What libraries hold beside them, `budget.SCRATCH` allows for.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .attention import ChunkAttention, KeyPass, KeyValueStore
from .backbone import Backbone, Branch, Site
from .keypass import KeyChunks, Place
from .memory import peak_bytes, shapes_only
from .walk import Rows, attended, begin, parts, unknown_parts

BRANCHES: tuple[Branch, ...] = ("source", "negative", "prompt")

PLACES: tuple[tuple[Place, Place], ...] = (("device", "device"), ("host", "device"), ("host", "host"))
"""Where what waits and where keys and values are held, in the order in which they are tried."""


@dataclass(frozen=True)
class PartNeed:
    """Bytes of one keyframe's rows in all branches, about one part of the UNet between two self-attentions.

    Attributes:
        work: At the peak of the part with the self-attention before it, beyond what came into it.
        waits: What it leaves to go on with; `skips`: and what lies ready for the decoder.
        keys: The edit's keys and values at the self-attention after it.
        token: One key and its value of one branch there: what a keyframe gathers is so many times this.
    """

    work: int
    waits: int
    skips: int
    keys: int
    token: int


@dataclass(frozen=True)
class Needs:
    """Bytes of one unit of each kind of work at its peak, beyond weights and beyond what the process holds anyway.

    Attributes:
        row: A UNet row, self-attention propagated or plain.
        encode, decode: An image in the VAE.
        record: A keyframe's attention outputs in all branches.
        matching: The matching of two frames.
        parts: Of the key pass; empty where the UNet cannot be run in parts.
        tokens: N of each level that has self-attention.
    """

    row: int
    encode: int
    decode: int
    record: int
    matching: int
    parts: tuple[PartNeed, ...]
    tokens: dict[int, int]

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Needs:
        """From `dataclasses.asdict`, by way of JSON."""
        parts = tuple(PartNeed(**part) for part in stored["parts"])
        return cls(**{**stored, "parts": parts, "tokens": {int(k): v for k, v in stored["tokens"].items()}})


def needs(backbone: Backbone, size: tuple[int, int]) -> Needs:
    """The needs of a model at images of (height, width) `size`."""
    unet, device, dtype = backbone.unet, backbone.device, backbone.dtype
    h, w = (side // backbone.vae_factor for side in size)
    channels = unet.config.in_channels
    text = backbone.conditioning("", "", "")
    sites = backbone.attention_sites()
    width = dtype.itemsize
    tokens = {level: _product(backbone.grid((h, w), level)) for level in sorted({site.level for site in sites})}
    latents = (1, channels, h, w)
    row = peak_bytes(lambda: backbone.predict(torch.empty(latents, device=device), 500, text.rows([0], "source")))
    encode = peak_bytes(lambda: backbone.encode(torch.empty(1, *size, 3, dtype=torch.uint8, device=device)))
    decode = peak_bytes(lambda: backbone.decode(torch.empty(latents, device=device)))
    record = 3 * width * sum(tokens[s.level] * unet.get_submodule(s.name).to_q.in_features for s in sites)
    finest = tokens[min(tokens)]
    chunk = min(finest, 2048)
    return Needs(
        row=row,
        encode=encode,
        decode=decode,
        record=record,
        matching=chunk * finest * 13,
        parts=() if unknown_parts(unet) else tuple(_part_needs(backbone, sites, (channels, h, w))),
        tokens=tokens,
    )


@torch.inference_mode()
def _part_needs(backbone: Backbone, sites: Sequence[Site], latent: tuple[int, int, int]) -> list[PartNeed]:
    """One keyframe walked through the UNet."""
    unet, device, dtype = backbone.unet, backbone.device, backbone.dtype
    named = {id(unet.get_submodule(site.name)): site for site in sites}
    key_pass = KeyPass(BRANCHES, 1)
    text = backbone.conditioning("", "", "").rows([0], *BRANCHES)["encoder_hidden_states"]
    found = []
    with shapes_only() as tally:
        rows = begin(unet, range(1), torch.empty(3, *latent, device=device, dtype=dtype), 500, text)
        before: tuple[ChunkAttention, KeyValueStore] | None = None
        for part in parts(unet):
            came = tally.live
            tally.restart()
            filling = KeyValueStore(1, 2, device)
            if before is not None:
                layer, full = before
                out = layer.take(part.after.attn1, part.after.norm1(rows.tokens), 0, full)
                rows = attended(part.after, rows, out)
            rows = part(rows)
            keys = token = 0
            if part.block is not None:
                layer = ChunkAttention(named[id(part.block.attn1)], key_pass)
                layer.give(part.block.attn1, part.block.norm1(rows.tokens), 0, filling)
                k, v = filling.of(0)
                keys, token = 2 * (k.nbytes + v.nbytes), (k.nbytes + v.nbytes) // (k.shape[0] * k.shape[2])
                before = layer, filling
            found.append(PartNeed(tally.peak - came, _waits(rows), sum(x.nbytes for x in rows.skips), keys, token))
    return found


def _waits(rows: Rows) -> int:
    own = (rows.x, rows.emb, rows.text, rows.tokens)
    return sum(x.nbytes for x in own if x is not None)


def key_pass_bytes(found: Needs, keyframes: int, budget: int, chunks: KeyChunks) -> tuple[int, int]:
    """(device, host) bytes of a key pass at its peak, where these are two.

    Args:
        keyframes: M.
        budget: Keyframes' worth of tokens that each attends to; 0: only its own.
        chunks: How it is cut up.
    """
    size = min(chunks.size or keyframes, keyframes)
    if size == keyframes:
        joint = max((part.keys for part in found.parts), default=0) if budget else 0
        return keyframes * (3 * found.row + joint // 2), 0
    device = host = 0
    before = PartNeed(0, 0, 0, 0, 0)
    for part in found.parts:
        waits = keyframes * (max(before.waits, part.waits) + max(before.skips, part.skips))
        keys = keyframes * (before.keys + part.keys)
        gathered = 0 if keyframes <= budget or not budget else budget * _tokens_of(before) * before.token
        here = size * part.work + gathered
        if chunks.rows == "host":
            here += size * (before.waits + before.skips)
        device = max(
            device, here + (waits if chunks.rows == "device" else 0) + (keys if chunks.keys == "device" else 0)
        )
        host = max(host, (waits if chunks.rows == "host" else 0) + (keys if chunks.keys == "host" else 0))
        before = part
    return device, host


def _tokens_of(part: PartNeed) -> int:
    """N of a keyframe at the self-attention after a part."""
    return part.keys // (2 * part.token) if part.token else 0


def largest_chunks(
    found: Needs, keyframes: int, budget: int, room: int, *, most: int, one_place: bool
) -> KeyChunks | None:
    """The largest chunks of a key pass that fit into `room` bytes of the device; None: not even single keyframes do.

    All at once, if that fits. Else with everything on the device, if chunks of a few keyframes fit so: smaller ones
    would leave a GPU idle, and then what waits goes to the host.

    Args:
        most: Keyframes that are worth being run together.
        one_place: The device is the host: there is nowhere else.
    """
    if keyframes <= most and key_pass_bytes(found, keyframes, budget, KeyChunks())[0] <= room:
        return KeyChunks()
    if not found.parts:
        return None
    best: KeyChunks | None = None
    for rows, keys in PLACES[: 1 if one_place else None]:

        def fits(size: int, rows: Place = rows, keys: Place = keys) -> bool:
            return key_pass_bytes(found, keyframes, budget, KeyChunks(size, rows, keys))[0] <= room

        size = largest(fits, min(most, keyframes - 1))
        if size > (best.size if best else 0):
            best = KeyChunks(size, rows, keys)
        if best is not None and best.size >= min(keyframes - 1, ENOUGH):
            break
    return best


ENOUGH = 4
"""Keyframes of a chunk, three rows each, below which what waits is rather moved to the host."""


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, where all below one that fits do too; 0: not even 1."""
    return bisect.bisect_left(range(1, most + 1), True, key=lambda n: not fits(n))


def _product(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]
