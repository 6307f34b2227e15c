"""The plan of an edit's memory: how many rows a call, how many keyframes together, and what is held where.

`needs` tells what each unit of work takes; here that is set against the room there is. Where not even the smallest
units fit, it is said before any work is done, with the least memory that would do.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

import torch

from .backbone import Backbone
from .config import ResolvedConfig
from .errors import ConfigError, ResourceError
from .keypass import KeyChunks
from .memory import held_bytes
from .needs import PLACES, Needs, key_pass_bytes, largest, largest_chunks
from .slimming import HEAT_BYTES

SCRATCH = {"cuda": 1.15, "cpu": 1.25}
"""What torch's tensors take with all that libraries and allocators hold beside them, as a factor."""

RESERVE = {"cuda": 450 << 20, "cpu": 384 << 20}
"""Bytes that no tensor accounts for, and that a limit has to have room for: a CUDA context and its workspaces; on the
CPU what oneDNN compiles, 15 to 50 MB of address space for each new batch size, and what the heap does not give back."""

RESIDENT = {torch.bfloat16: 112 << 20, torch.float32: 40 << 20}
"""Of these on the CPU, what is really in memory at the peak, about; oneDNN holds more for bfloat16."""

SPARE = 0.8
"""The share of the free memory that is planned with where the settings set no limit."""

MOST_ROWS = {"cuda": 96, "cpu": 48}
"""UNet rows a call beyond which nothing is gained."""

FRAMES_MATCHED = 16
"""Frames whose features are held at once while they are matched with their clip's keyframes."""

CLIPS_A_RUN = 8
"""Clips whose frames go through the UNet together at most: their keyframes' outputs lie on the device meanwhile."""

CLIPS_NEAR = CLIPS_A_RUN + 3
"""Clips whose outputs are on a GPU at once where they are streamed to it: those at work, one on either side that a
border blends in, and the next."""

Record = Literal["memory", "streamed", "device", "disk"]
ON_HOST = ("memory", "streamed")

UNITS = {"": 2**30, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """A size as people write it, such as ``8GiB``, ``8 GB`` or ``8`` (GiB), in bytes; 0 for an empty one.

    Raises:
        ConfigError: It is no size.
    """
    if not text.strip():
        return 0
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]i?)?b?\s*", text.lower(), re.ASCII)
    size = int(float(found[1]) * UNITS[found[2] or ""]) if found and len(found[1]) < 16 else 0
    if not size:
        raise ConfigError(f"max_memory is {text!r}; it must be a size such as 8GiB, 12 GB or 900MiB")
    return size


def gib(size: float) -> str:
    """A size in GiB, rounded up: what is enough."""
    return f"{math.ceil(size / 2**30 * 100) / 100:g}GiB"


def room_within(limit: int, device: torch.device) -> int:
    """What a limit leaves for the work beside what the process holds now."""
    return limit - held_bytes(device) - RESERVE[_kind(device)]


def rough_needs(backbone: Backbone, latent_size: tuple[int, int]) -> Needs:
    """Needs by rule of thumb, somewhat too high: nothing is run, not even on shapes."""
    unet, (h, w) = backbone.unet, latent_size
    tensor = h * w * unet.config.block_out_channels[0] * backbone.dtype.itemsize
    sites = backbone.attention_sites()
    tokens = {level: math.prod(backbone.grid(latent_size, level)) for level in {site.level for site in sites}}
    widths = {site.name: unet.get_submodule(site.name).to_q.in_features for site in sites}
    record = 3 * backbone.dtype.itemsize * sum(tokens[site.level] * widths[site.name] for site in sites)
    finest = tokens[min(tokens)]
    image = h * w * backbone.vae_factor**2 * backbone.vae.config.block_out_channels[0] * backbone.vae.dtype.itemsize
    return Needs(28 * tensor, 5 * image, 6 * image, record, min(finest, 2048) * finest * 13, (), tokens)


def rows_and_images(found: Needs, room: int, most: int, limit: int, device: torch.device) -> tuple[int, int]:
    """UNet rows a call and images a VAE call that fit into `room`.

    Raises:
        ResourceError: Not even one does.
    """
    scratch = SCRATCH[_kind(device)]
    rows, images = (int(room / scratch) // unit for unit in (found.row, max(found.encode, found.decode)))
    if not rows or not images or found.matching * scratch > room:
        least = limit - room + scratch * max(found.row, found.encode, found.decode, found.matching)
        raise ResourceError(
            f"max_memory {gib(limit)} is too little for one frame at this size, whose least is {gib(least)}; "
            "raise --max-memory or lower --height"
        )
    return min(rows, most), max(1, min(images, most // 6))


@dataclass(frozen=True)
class EditPlan:
    """How the work of an edit with a known number of keyframes is cut up.

    Attributes:
        frames: Frames of one propagation run.
        chunks: Of the key pass.
        record: Where the keyframes' attention outputs are held.
        device, host: Bytes at the peak, beyond what the process holds anyway. On a CPU all is `host`.
        fits: Whether there is room for it; if not, it is the smallest plan there is.
    """

    frames: int
    chunks: KeyChunks
    record: Record
    device: int
    host: int
    fits: bool


def plan_edit(
    found: Needs,
    config: ResolvedConfig,
    device: torch.device,
    *,
    clips: int,
    channels: int,
    room: int,
    limit: int,
    rows: int,
    images: int,
    frames: int,
    at_most: KeyChunks,
) -> EditPlan:
    """The plan of an edit.

    Args:
        found: What the work takes.
        clips: M.
        channels: Of a token's features.
        room: Bytes of the device for all of it; 0: not known, and nothing is cut.
        limit: What the user allows in all; 0: no limit.
        rows: UNet rows a call, where there are so many; `images`: images a call of the VAE.
        frames: n.
        at_most: What running out of memory has left of the key pass's chunks.
    """
    kind, budget, one_pool = _kind(device), config.slimming.budget, _kind(device) == "cpu"
    scratch = SCRATCH[kind]
    own = found.record // 3 if config.propagation.changes else 0
    found = recorded(found, config)
    choice = _choice_bytes(found, clips, budget, channels, config.slimming.selection == "distinct")
    drawn = min(config.steps, config.keyframes.longest_clip)  # keyframes that a clip's frames may be matched with
    matched = found.matching + 4 * channels * sum(found.tokens.values()) * (drawn + FRAMES_MATCHED)
    other = max(choice, matched, found.encode, found.decode)
    before = max(found.row * min(rows, frames), max(found.encode, found.decode) * min(images, frames))  # and after
    longest = min(CLIPS_A_RUN * -(-frames // clips), frames)  # a run is not likely to be longer

    def near(record: Record) -> int:
        """Keyframes whose outputs are brought to the device for a run."""
        return 0 if one_pool or record == "device" else min(clips, CLIPS_NEAR)

    def plan(run: int, chunks: KeyChunks, record: Record, fits: bool) -> EditPlan:
        chunks = tightened(chunks, at_most)
        on_device, on_host = key_pass_bytes(found, clips, budget, chunks)
        work = max(on_device, _propagation_bytes(found, min(run, longest), near(record), own), other)
        kept = clips * found.record
        here = kept if record == "device" or (one_pool and record in ON_HOST) else 0
        peak = max(here + int(scratch * work), int(scratch * before) if fits else 0)
        if one_pool:
            return EditPlan(run, chunks, record, 0, peak + on_host, fits)
        return EditPlan(run, chunks, record, peak, on_host + (kept if record in ON_HOST else 0), fits)

    together = one_pool or fits_at_once(found, clips, budget, room, device)
    records: list[Record] = [_placed(config.run.record, device, together and not at_most.size)]
    if limit and one_pool and records[0] in ON_HOST:
        records.append("disk")  # the same bytes, more slowly
    for record in records:
        here = clips * found.record if record == "device" or (one_pool and record in ON_HOST) else 0
        left = int((room - here) / scratch) if room else 2**62
        most = clips if together else MOST_ROWS[kind] // 3
        chunks = largest_chunks(found, clips, budget, left, most=most, one_place=one_pool)
        run = _most_frames(found, max(1, rows // 2), left, near(record), own) if limit else max(1, rows // 2)
        if chunks is not None and run and other <= left:
            return plan(run, chunks, record, True)
    smallest = KeyChunks(1, *PLACES[0 if one_pool else -1]) if found.parts else KeyChunks()
    return plan(1 if limit else max(1, rows // 2), smallest, records[-1], False)


def _placed(asked: Literal["auto", "memory", "streamed", "device", "disk"], device: torch.device, fits: bool) -> Record:
    """Where the record goes by itself: beside the keyframes, where there is room for both; else on the host."""
    if asked != "auto":
        return asked
    if device.type != "cuda":
        return "memory"
    return "device" if fits else "streamed"


def _most_frames(found: Needs, most: int, room: int, near: int, own: int) -> int:
    return largest(lambda frames: _propagation_bytes(found, frames, near, own) <= room, most)


def recorded(found: Needs, config: ResolvedConfig) -> Needs:
    """The needs with the record as this edit has it: of two branches where the source's outputs are in no step's."""
    injected = max(config.injection.features, config.injection.attention)
    return replace(found, record=found.record * 2 // 3) if injected <= config.propagation.changes else found


def fits_at_once(found: Needs, clips: int, budget: int, room: int, device: torch.device) -> bool:
    """Whether all keyframes fit together."""
    size = key_pass_bytes(found, clips, budget, KeyChunks())[0] * SCRATCH[_kind(device)]
    return not room or size + clips * found.record <= room


def tightened(chunks: KeyChunks, at_most: KeyChunks) -> KeyChunks:
    """Chunks no larger, and no more of them on the device, than `at_most` says."""
    sizes = [c.size for c in (chunks, at_most) if c.size]
    place = max(PLACES.index((c.rows, c.keys)) for c in (chunks, at_most))
    return KeyChunks(min(sizes, default=0), *PLACES[place])


def _propagation_bytes(found: Needs, frames: int, near: int, own: int) -> int:
    """A propagation run: its edit rows, the outputs of so many keyframes, and `own` of each frame's own source."""
    return frames * (2 * found.row + own) + near * found.record


def _choice_bytes(found: Needs, clips: int, budget: int, channels: int, distinct: bool) -> int:
    """The choice of kept tokens: features of all keyframes as read and normalised, similarities, and the lists."""
    if not 0 < budget < clips:
        return 0
    finest = max(found.tokens.values())
    lists = clips * budget * sum(found.tokens.values()) * 12
    heat = min(HEAT_BYTES, clips * clips * finest * 4 * (2 if distinct else 1)) + 4096 * finest * 4
    return clips * finest * channels * 10 + heat + lists


def _kind(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else "cuda"
