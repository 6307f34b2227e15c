"""The key pass in chunks: all keyframes go through the UNet side by side, from one self-attention to the next.

At each self-attention layer every chunk first gives its keys and values; then each takes what it attends to and goes on
to the next layer. So memory holds the working rows of one chunk, one layer's keys and values of all keyframes (two
layers' for a moment: those being read and those being filled), and what the other chunks remember. The last lies on the
device or, where there is no room, on the host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .attention import ChunkAttention, KeyPass, KeyValueStore
from .backbone import Site
from .memory import out_of_memory, release
from .walk import Part, Rows, attended

Place = Literal["device", "host"]


@dataclass(frozen=True)
class KeyChunks:
    """How a key pass is cut up. What it computes depends on `size` to the last bit, on the others not at all.

    Attributes:
        size: Keyframes of a chunk; 0: all at once, in one forward pass of the UNet.
        rows: Where what waiting chunks remember is held.
        keys: Where keys and values are held.
    """

    size: int = 0
    rows: Place = "device"
    keys: Place = "device"

    def smaller(self, keyframes: int, device: torch.device) -> KeyChunks | None:
        """What to try after running out of memory: smaller chunks, then less on the device; None: nothing is left."""
        size = min(self.size or keyframes, keyframes)
        if size > 1:
            return KeyChunks(-(-size // 2), self.rows, self.keys)
        if device.type == "cpu":
            return None
        if self.rows == "device":
            return KeyChunks(1, "host", self.keys)
        return KeyChunks(1, "host", "host") if self.keys == "device" else None

    def spans(self, keyframes: int) -> list[range]:
        """The chunks of so many keyframes."""
        size = min(self.size or keyframes, keyframes)
        return [range(i, min(i + size, keyframes)) for i in range(0, keyframes, size)]


ALL_AT_ONCE = KeyChunks()


def key_pass_in_chunks(
    key_pass: KeyPass,
    chunks: KeyChunks,
    parts: Sequence[Part],
    sites: Mapping[int, Site],
    start: Callable[[range], Rows],
    device: torch.device,
    on_shrink: Callable[[KeyChunks], None] | None = None,
) -> Tensor:
    """A joint key pass; leaves the record as a pass of all rows at once does.

    Out of memory, the chunk at work is cut in two and goes on from the last layer; the chunks after it are cut as they
    come. Nothing else is done again.

    Args:
        key_pass: What the layers do.
        chunks: How many keyframes go together, and what is held where.
        parts: The UNet in parts.
        sites: The sites by the identity (`id`) of their self-attention modules.
        start: Makes the rows, ``[branches f, …]``, of some of the keyframes.
        device: Where the work is done.
        on_shrink: Told what `chunks` has become.

    Returns:
        The output of the edit's branches ``[e M, c, h, w]``.

    Raises:
        The allocator's error, where even a single keyframe with everything else on the host does not fit.
    """
    branches, total = len(key_pass.branches), key_pass.keys
    edited = branches - key_pass.own_branches
    layers = [None if part.block is None else ChunkAttention(sites[id(part.block.attn1)], key_pass) for part in parts]
    waiting: deque[range | Rows] = deque(chunks.spans(total))  # those not begun yet are frames alone
    outputs: dict[int, Tensor] = {}
    full: KeyValueStore | None = None
    for number, part in enumerate(parts):
        layer = layers[number]
        filling = KeyValueStore(total, edited, _at(chunks.keys, device))
        undone, waiting = waiting, deque()
        while undone:
            one = undone.popleft()
            rows: Rows | None = None
            smaller: KeyChunks | None = None
            try:
                if 0 < chunks.size < len(_frames(one)):
                    undone.extendleft(reversed(_cut(one, chunks.size)))
                    continue
                rows = start(one) if isinstance(one, range) else one.each(lambda x: x.to(device), skips=False)
                if full is not None:
                    rows = _took(layers[number - 1], part.after, rows, full)
                rows = part(rows)
                if layer is None:
                    outputs[rows.frames.start] = rows.x.float().unflatten(0, (branches, -1))[-edited:]
                else:
                    layer.give(part.block.attn1, _normed(part.block, rows), rows.frames.start, filling)
                    waiting.append(rows if chunks.rows == "device" else rows.each(_to_host))
            except (RuntimeError, MemoryError) as error:
                smaller = chunks.smaller(len(_frames(one)), device) if out_of_memory(error) else None
                if smaller is None:
                    raise
            if smaller is None:
                continue
            undone.appendleft(one)
            if smaller.rows != chunks.rows:
                undone, waiting = (
                    deque(w if isinstance(w, range) else w.each(_to_host) for w in some) for some in (undone, waiting)
                )
            if smaller.keys != chunks.keys:
                for store in (full, filling):
                    if store is not None:
                        store.move(_at(smaller.keys, device))
            chunks = smaller
            rows = None  # what it has of the device goes before the next try
            release(device)
            if on_shrink is not None:
                on_shrink(chunks)
        full = filling
    return torch.cat([outputs[first] for first in sorted(outputs)], dim=1).flatten(0, 1)


def _took(layer: ChunkAttention | None, block: Any, rows: Rows, full: KeyValueStore) -> Rows:
    """The rows after a block whose self-attention sees `full`."""
    assert layer is not None
    return attended(block, rows, layer.take(block.attn1, _normed(block, rows), rows.frames.start, full))


def _normed(block: Any, rows: Rows) -> Tensor:
    """What a block's self-attention is given."""
    normed: Tensor = block.norm1(rows.tokens)
    return normed


def _frames(one: range | Rows) -> range:
    return one if isinstance(one, range) else one.frames


def _cut(one: range | Rows, size: int) -> list[range | Rows]:
    """A chunk as chunks of at most `size` keyframes."""
    frames = _frames(one)
    some = [frames[i : i + size] for i in range(0, len(frames), size)]
    return [part if isinstance(one, range) else one.part(part) for part in some]


def _at(place: Place, device: torch.device) -> torch.device:
    return device if place == "device" else torch.device("cpu")


def _to_host(x: Tensor) -> Tensor:
    return x.to("cpu")
