"""What an edit will take on this machine: seconds from one timed call of each kind, bytes from the shapes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import psutil
import torch

from .attention import KeyPass, MemoryRecord, attention_installed
from .backbone import Backbone, Branch
from .budget import CLIPS_A_RUN, RESIDENT, gib
from .correspondence import match_units, normalise
from .errors import ResourceError
from .injection import source_features
from .locate import timesteps_of
from .memory import held_bytes, resident_bytes
from .propagation import PropagationPass
from .run import Run
from .slimming import kept_tokens
from .steps import EDITED, edit_steps

MEASURED_KEYS = 12
"""Keyframes of a timed choice of kept tokens."""

TIMES = 3
"""How often a call is timed: the median is taken."""

MEASURED_SECONDS = 0.5
"""How long a timed call may take, about: as many rows as the plan has, but not so many as to cost what is estimated."""

LONG_SECONDS = 60
"""What an edit takes, at the least, to have its unit costs measured a second time once the process is warm."""


@dataclass(frozen=True)
class Estimate:
    """Seconds by stage of what is still to do, and bytes at the peak, for M clips."""

    clips: int
    seconds: dict[str, float]
    disk_bytes: int
    host_bytes: int
    device_bytes: int

    @property
    def total_seconds(self) -> float:
        """All stages together."""
        return sum(self.seconds.values())

    def where_left(self, shares: Mapping[str, float]) -> Estimate:
        """The estimate where of some stages only a share is left to do."""
        return replace(self, seconds={k: s * shares.get(k, 1.0) for k, s in self.seconds.items()})

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "clips": self.clips,
            "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
            "total_seconds": round(self.total_seconds, 1),
            "disk_bytes": self.disk_bytes,
            "host_bytes": self.host_bytes,
            "device_bytes": self.device_bytes,
        }


@dataclass(frozen=True)
class UnitCosts:
    """Seconds of one unit of each kind of work, measured on this machine for this model, size and plan."""

    row: float  # one row of a plain UNet call
    finest: float  # one row of its finest level; asked for where inversion reuses deep features
    match: float  # one frame matched with one keyframe
    encode: float
    decode: float


def unit_costs(run: Run, again: bool = False) -> UnitCosts:
    """The unit costs of this model, size, plan and features: measured once for a workspace, then remembered.

    Args:
        again: Measured once more, and remembered apart: a process's first calls are not as quick as those of its work.
    """
    name = f"costs-{run.feature_depth}" + ("-reuse" if run.config.inversion_reuse > 1 else "") + "-again" * again
    stored = run.remembered(name)
    if stored is None or stored.keys() != {f.name for f in fields(UnitCosts)}:  # another version counted otherwise
        stored = asdict(measure(run))
        run.remember(name, stored)
    return UnitCosts(**stored)


def is_long(run: Run, costs: UnitCosts) -> bool:
    """Whether an edit is so long that measuring its unit costs once more is nothing beside it."""
    config = run.config
    return run.frames * (config.inversion_steps + config.steps) * costs.row > LONG_SECONDS


def estimate(run: Run, clips: int, costs: UnitCosts, times: int = TIMES) -> Estimate:
    """What an edit with `clips` keyframes takes, features and partition done; each call is timed so many times."""
    config, n = run.config, run.frames
    steps = edit_steps(config, run.backbone.scheduler(config.steps).timesteps.tolist())
    injected = run.backbone.injection_feature_sites(config.injection.sites)
    edit, in_finest = 0.0, any(map(run.backbone.in_finest_level, injected))
    for whole, deep, changes, edited in sorted({(step.whole, step.deep, step.changes, step.edited) for step in steps}):
        kind = (whole, deep, changes, edited)
        of_kind = [step for step in steps if (step.whole, step.deep, step.changes, step.edited) == kind]
        key, choice = measure_key(run, clips, edited, whole, times), measure_choice(run, clips, whole, times)
        through = whole and not deep  # the whole UNet, for every frame
        cuts = sum(step.features for step in of_kind) if (through or in_finest) and not changes else 0
        cut, frame = measure_propagation(run, clips, costs, edited, through, cuts > 0, times)
        edit += changes * len(of_kind) * n * costs.row  # whole source rows, with attention of their own
        choices = len(of_kind) if config.keyframes.choice == "uniform" else any(step.number == 0 for step in of_kind)
        edit += cuts * n * cut + len(of_kind) * (n * frame + clips * key) + choices * clips**2 * choice
    full = -(-config.inversion_steps // config.inversion_reuse)  # inversion steps that run the whole UNet
    seconds = {
        "invert": n * (full * costs.row + (config.inversion_steps - full) * costs.finest),
        **({"locate": 2 * len(timesteps_of(run.backbone, config)) * n * costs.row} if config.mask.find else {}),
        "match": n * _distinct(config.steps, n / clips) * costs.match,
        "edit": edit + _blended(run, clips) * _distinct(config.steps, n / clips) * costs.match,
        "decode": n * costs.decode,
    }
    return Estimate(clips, seconds, disk_bytes(run, clips), *memory_bytes(run, clips))


def rough_estimate(run: Run, costs: UnitCosts) -> tuple[Estimate, Estimate]:
    """Before anything is computed: the least and the most, for M from n/400 to n/10, encoding and features included."""
    first = {"encode": run.frames * costs.encode, "features": run.frames * costs.row}
    few, many = fewest_and_most(run.frames)
    found = {clips: estimate(run, clips, costs, times=1) for clips in {few, many}}
    least, most = (replace(found[clips], seconds=first | found[clips].seconds) for clips in (few, many))
    return least, most


def fewest_and_most(frames: int) -> tuple[int, int]:
    """Between which numbers of clips a video of so many frames is expected to lie."""
    return max(1, frames // 400), max(1, frames // 10)


def check_fits(run: Run, clips: int) -> None:
    """Refuse now what would run out of memory later. Raises `ResourceError`; disk space is reserved by the stages."""
    (host, device), plan, limit = memory_bytes(run, clips), run.edit_plan(clips), run.plan.limit
    on_gpu = run.backbone.device.type == "cuda"
    if limit and not plan.fits:
        least = limit - run.plan.room + (plan.device if on_gpu else plan.host)
        raise ResourceError(
            f"max_memory {gib(limit)} is too little for {clips} keyframes at this size; the least is {gib(least)}: "
            "raise --max-memory, lower --height, or make fewer clips with --keyframes.mean-threshold"
        )
    free = psutil.virtual_memory().available + resident_bytes()
    if host > free:
        raise ResourceError(
            f"editing {clips} keyframes at once needs about {host / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} GiB are free; lower --height, or the number of clips with --keyframes.mean-threshold"
        )
    if on_gpu and device > torch.cuda.mem_get_info(run.backbone.device)[1]:
        raise ResourceError(
            f"editing {clips} keyframes at once needs about {device / 2**30:.1f} GiB of device memory, "
            "more than the card has; lower --height, or the number of clips with --keyframes.mean-threshold"
        )


def disk_bytes(run: Run, clips: int) -> int:
    """Bytes of all arrays of one edit in the workspace."""
    n, (h, w), config = run.frames, run.latent_size, run.config
    channels = run.backbone.unet.config.in_channels
    latent = channels * h * w
    depth = run.feature_depth
    height, width = run.geometry.padded
    tokens = sum(_tokens(run, level) for level in _levels(run.backbone))
    per_frame = latent * (4 + 2 * config.steps + 8) + 2 * depth * h * w + 3 * height * width
    if config.mask.find:
        per_frame += height * width + h * w + 4 * len(timesteps_of(run.backbone, config)) * h * w
    if config.reuse > 1:
        per_frame += 2 * run.backbone.finest.channels * h * w * torch.finfo(run.backbone.dtype).bits // 8
    return int(n * per_frame + 2 * tokens * (n + _blended(run, clips)) * _distinct(config.steps, n / clips))


def memory_bytes(run: Run, clips: int) -> tuple[int, int]:
    """(host, device) bytes at the peak: what is held before the work, weights included, and what the plan takes."""
    plan, device = run.edit_plan(clips), run.backbone.device
    on_device = held_bytes(device) + plan.device if device.type == "cuda" else 0
    beside = RESIDENT.get(run.backbone.dtype, RESIDENT[torch.float32])
    return (run.plan.held or resident_bytes()) + beside + plan.host, on_device


def measure(run: Run) -> UnitCosts:
    """Time one call of each kind that does not depend on the number of clips."""
    backbone, plan = run.backbone, run.plan
    text, z, generator = backbone.conditioning("", "", ""), _noise(run, plan.rows), torch.Generator().manual_seed(0)

    def seconds_a_row(rows: int) -> float:
        return _timed(lambda: backbone.predict(z[:rows], 500, text.rows(range(rows), "source")), backbone) / rows

    depth = run.feature_depth
    tokens = [
        normalise(torch.randn(_tokens(run, level), depth, generator=generator)).to(backbone.device)
        for level in _levels(backbone)
    ]
    images = min(plan.images, run.frames)
    image = torch.zeros(images, *run.geometry.padded, 3, dtype=torch.uint8)
    latents = _noise(run, images)
    first = seconds_a_row(1)
    rows = _affordable(first, min(plan.rows, run.frames))
    conditioning = text.rows(range(rows), "source")
    reused = run.config.inversion_reuse > 1
    return UnitCosts(
        row=seconds_a_row(rows) if rows > 1 else first,
        finest=_timed(lambda: _predict(run, z[:rows], conditioning, False), backbone) / rows if reused else 0.0,
        match=_timed(lambda: [match_units(f, f.flip(0)) for f in tokens], backbone),
        encode=_timed(lambda: backbone.encode(image), backbone) / images,
        decode=_timed(lambda: backbone.decode(latents), backbone) / images,
    )


def measure_propagation(
    run: Run,
    clips: int,
    costs: UnitCosts,
    edited: tuple[Branch, ...] = EDITED,
    whole: bool = True,
    injects: bool = True,
    times: int = TIMES,
) -> tuple[float, float]:
    """Seconds of one source row up to the last injected resnet, and of one frame's edit rows, both propagated.

    Args:
        edited: The edit's branches; `whole`: whether the whole UNet is run for them, or its finest level.
        injects: Whether features are injected in any step; else there are no source rows, and 0 is given.
        times: How often each is timed.
    """
    backbone, injected = run.backbone, run.backbone.injection_feature_sites(run.config.injection.sites)
    most = min(run.plan.frames, run.frames, max(1, round(CLIPS_A_RUN * run.frames / clips)))
    frames = _affordable(2 * costs.row, most)
    sites, record = backbone.attention_sites(), MemoryRecord(backbone.device)
    branches: tuple[Branch, ...] = ("source", *edited)
    text, z = backbone.conditioning("", "", ""), _noise(run, len(edited) * frames)
    phi = {
        level: torch.arange(_tokens(run, level)).expand(frames, -1).to(backbone.device) for level in _levels(backbone)
    }
    spanned = max(1, min(CLIPS_A_RUN, frames, round(clips * frames / run.frames)))  # clips that a run goes over
    numbers = [i * spanned // frames for i in range(frames)]
    with attention_installed(backbone.unet, sites, KeyPass(branches, spanned, record=record).processor):
        rows = text.rows(range(spanned), *branches)
        backbone.predict(z[:1].expand(spanned * len(branches), -1, -1, -1), 500, rows)

    def cut() -> None:
        one = PropagationPass(record, branches, ("source",), numbers, phi)
        with attention_installed(backbone.unet, sites, one.processor), source_features(backbone.unet, injected):
            backbone.predict(z[:frames], 500, text.rows(range(frames), "source"))

    def propagated() -> None:
        carried = PropagationPass(record, branches, edited, numbers, phi)
        with attention_installed(backbone.unet, sites, carried.processor):
            _predict(run, z, text.rows(range(frames), *edited), whole)

    of_source = _timed(cut, backbone, times) / frames if injects else 0.0
    return of_source, _timed(propagated, backbone, times) / frames


def _affordable(seconds: float, most: int) -> int:
    """How many units of so many seconds a timed call has."""
    return max(1, min(most, round(MEASURED_SECONDS / max(seconds, 1e-6))))


def _predict(run: Run, z: torch.Tensor, text: Mapping[str, torch.Tensor], whole: bool) -> None:
    """One call of the whole UNet, or of its finest level."""
    if whole:
        run.backbone.predict(z, 500, text)
    else:
        run.backbone.predict_finest(z, 500, torch.zeros(len(z), run.backbone.finest.channels, *z.shape[2:]), text)


def measure_key(
    run: Run, clips: int, edited: tuple[Branch, ...] = EDITED, whole: bool = True, times: int = TIMES
) -> float:
    """Seconds of one keyframe in a key pass with the source branch, attending to what it would among `clips`.

    Args:
        edited: The edit's branches; `whole`: whether the whole UNet is run for them, or its finest level.
        times: How often it is timed.
    """
    backbone, keys = run.backbone, min(clips, 6)
    seen = max(1, min(clips, run.config.slimming.budget))
    generator = torch.Generator().manual_seed(0)
    kept = {}
    for level in _levels(backbone):
        n = _tokens(run, level)
        kept[level] = torch.randint(keys * n, (keys, seen * n), generator=generator).to(backbone.device)
    branches: tuple[Branch, ...] = ("source", *edited)
    extended = KeyPass(branches, keys, kept=kept, record=MemoryRecord(torch.device("cpu")))
    text, z = backbone.conditioning("", "", ""), _noise(run, 1)

    def key_pass() -> None:
        with attention_installed(backbone.unet, backbone.attention_sites(), extended.processor):
            _predict(run, z.expand(len(branches) * keys, -1, -1, -1), text.rows(range(keys), *branches), whole)
        if not whole:  # the source's deep features are its own
            backbone.predict(z.expand(keys, -1, -1, -1), 500, text.rows(range(keys), "source"))

    return _timed(key_pass, backbone, times) / keys


def measure_choice(run: Run, clips: int, whole: bool = True, times: int = TIMES) -> float:
    """Seconds that the choice of kept tokens takes for a pair of keyframes; 0 where nothing has to be chosen."""
    backbone, config = run.backbone, run.config.slimming
    budget = config.budget
    if not 0 < budget < clips:
        return 0.0
    keys, depth = min(clips, MEASURED_KEYS), run.feature_depth
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(keys, _tokens(run, level), depth, generator=generator).to(backbone.device)
        for level in _levels(backbone)
        if whole or level == min(_levels(backbone))
    ]
    share = max(1, round(keys * budget / clips))
    return _timed(lambda: [kept_tokens(f, min(share, keys - 1), config) for f in features], backbone, times) / keys**2


def _noise(run: Run, rows: int) -> torch.Tensor:
    channels = run.backbone.unet.config.in_channels
    return torch.randn(rows, channels, *run.latent_size, generator=torch.Generator().manual_seed(0))


def _timed(work: Callable[[], Any], backbone: Backbone, most: int = TIMES) -> float:
    """Seconds of `work`, after a first time that sets things up: the median of `most`, fewer where they are long."""
    times: list[float] = []
    for turn in range(1 + most):
        start = time.perf_counter()
        work()
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        times += [time.perf_counter() - start] if turn else []
        if sum(times) > 1.0:
            break
    return statistics.median(times)


def _distinct(draws: int, clip: float) -> float:
    """Expected number of distinct keyframes in `draws` uniform draws from a clip."""
    return clip * (1 - (1 - 1 / clip) ** draws) if clip > 1 else 1.0


def _blended(run: Run, clips: int) -> float:
    """Frames that follow two keyframes, at most: where no border is a cut."""
    return min(2 * run.config.propagation.blend * (clips - 1), run.frames)


def _tokens(run: Run, level: int) -> int:
    h, w = run.backbone.grid(run.latent_size, level)
    return h * w


def _levels(backbone: Backbone) -> list[int]:
    return sorted({site.level for site in backbone.attention_sites()})
