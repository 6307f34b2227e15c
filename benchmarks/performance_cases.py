"""The cases of the performance benchmark: what is counted, what is run, and the settings they go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from adaflow.presets import PRESETS

Kind = Literal["count", "edit", "steps", "hour"]
Model = Literal["sd21", "miniature"]

SD_SIZE = (384, 672)
USUAL_STEPS = {"sd21": 50, "miniature": 25}
MINIATURE_SIZE = (128, 224)

OPTIONS: dict[str, dict[str, Any]] = {
    "inversion-25": {"inversion_steps": 25},
    "inversion-10": {"inversion_steps": 10},
    "inversion-5": {"inversion_steps": 5},
    "reuse-2": {"reuse": 2},
    "reuse-3": {"reuse": 3},
    "reuse-5": {"reuse": 5},
    "guidance-to-0.8": {"guidance_end": 0.8},
    "guidance-to-0.5": {"guidance_end": 0.5},
    "guidance-0.2-to-0.8": {"guidance_start": 0.2, "guidance_end": 0.8},
    "no-guidance": {"guidance_end": 0.0},
    "changes-0.5": {"propagation.changes": 0.5},
    "changes-1": {"propagation.changes": 1.0},
    "deep-from-0.5": {"propagation.deep_from": 0.5},
    "deep-from-0.2": {"propagation.deep_from": 0.2},
    "deep-from-0": {"propagation.deep_from": 0.0},
    "inversion-reuse-2": {"inversion_reuse": 2},
    "inversion-reuse-3": {"inversion_reuse": 3},
    "inversion-reuse-5": {"inversion_reuse": 5},
    "budget-7": {"slimming.budget": 7},
    "budget-4": {"slimming.budget": 4},
    "budget-20": {"slimming.budget": 20},
    "middle": {"keyframes.choice": "middle"},
    "features-64": {"features.dimensions": 64},
    "distinct": {"slimming.selection": "distinct"},
    "blend-4": {"propagation.blend": 4},
    "injection-0.5": {"injection.features": 0.5, "injection.attention": 0.5},
    "steps-25": {"steps": 25},
    "steps-10": {"steps": 10},
}
"""One option each, counted against `exact`."""

TOGETHER: dict[str, dict[str, Any]] = {
    "fast+reuse-3": {"preset": "fast", "reuse": 3},
    "fast+budget-7": {"preset": "fast", "slimming.budget": 7},
    "fast+guidance-to-0.8": {"preset": "fast", "guidance_end": 0.8},
    "fast+steps-25": {"preset": "fast", "steps": 25},
    "reuse-3+inversion-10": {"reuse": 3, "inversion_steps": 10},
    "reuse-5+inversion-10": {"reuse": 5, "inversion_steps": 10},
    "reuse-5+inversion-10+budget-7": {"reuse": 5, "inversion_steps": 10, "slimming.budget": 7},
    "reuse-5+inversion-10+guidance-to-0.8": {"reuse": 5, "inversion_steps": 10, "guidance_end": 0.8},
    "reuse-5+inversion-10+guidance-to-0.5": {"reuse": 5, "inversion_steps": 10, "guidance_end": 0.5},
    "reuse-3+inversion-10+guidance-to-0.5+budget-7": {
        "reuse": 3,
        "inversion_steps": 10,
        "guidance_end": 0.5,
        "slimming.budget": 7,
    },
    "reuse-5+inversion-10+guidance-0.2-to-0.8": {
        "reuse": 5,
        "inversion_steps": 10,
        "guidance_start": 0.2,
        "guidance_end": 0.8,
    },
    "reuse-5+inversion-10+guidance-to-0.8+budget-7": {
        "reuse": 5,
        "inversion_steps": 10,
        "guidance_end": 0.8,
        "slimming.budget": 7,
    },
    "reuse-5+inversion-10+guidance-0.2-to-0.8+budget-7": {
        "reuse": 5,
        "inversion_steps": 10,
        "guidance_start": 0.2,
        "guidance_end": 0.8,
        "slimming.budget": 7,
    },
    "steps-25+inversion-25": {"steps": 25, "inversion_steps": 25},
    "steps-25+inversion-10+reuse-2": {"steps": 25, "inversion_steps": 10, "reuse": 2},
    "steps-25+inversion-5+reuse-3": {"steps": 25, "inversion_steps": 5, "reuse": 3},
    "steps-10+inversion-10": {"steps": 10, "inversion_steps": 10},
}
"""Several options at once."""


def settings(name: str) -> dict[str, Any]:
    """The `EditConfig` fields that a name of this benchmark stands for.

    Raises:
        KeyError: there is no such name.
    """
    if name == "exact":  # the default, of which nothing is approximated
        return {}
    return {"preset": name} if name in PRESETS else (OPTIONS | TOGETHER)[name]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case.

    Attributes:
        kind: "count": nothing is run. "edit": a whole edit of generated frames. "steps": matching and a few of the
            editing steps at true n and M, on synthetic latents and features. "hour": near-static frames of the
            miniature's world through every stage but decoding.
        model: SD 2.1's shape with random weights, or the miniature with its own.
        frames, clips: n and M; of kind "hour" M is what the partition finds.
        size: (height, width) in pixels.
        settings: A name for `settings`.
        steps: Sampling steps; 0: as the settings have it. Inversion has as many where its settings do not say.
        edit_steps: Of kind "steps": how many are run, one of each kind of step before a second of any.
        channels: What features are reduced to; 0: the model's own.
        extra: Further `EditConfig` fields, such as ``run.record``.
    """

    kind: Kind
    model: Model = "sd21"
    frames: int = 1000
    clips: int = 60
    size: tuple[int, int] = SD_SIZE
    settings: str = "exact"
    steps: int = 0
    edit_steps: int = 0
    channels: int = 0
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """What its file is called."""
        h, w = self.size
        parts = [self.kind, self.model, self.settings, f"n{self.frames}", f"m{self.clips}", f"{h}x{w}"]
        parts += [f"s{self.steps}"] if self.steps else []
        parts += [f"e{self.edit_steps}"] if self.edit_steps else []
        parts += [f"d{self.channels}"] if self.channels else []
        return "-".join(parts + [f"{name}={value}" for name, value in self.extra])

    def fields(self) -> dict[str, Any]:
        """The settings as `EditConfig` fields."""
        found = dict(settings(self.settings))
        if self.steps:  # inversion keeps its proportion to sampling
            preset = PRESETS.get(found.get("preset", ""), {})
            usual = found.get("steps", preset.get("steps", USUAL_STEPS[self.model]))
            inversion = found.get("inversion_steps", preset.get("inversion_steps", 0))
            found["steps"] = self.steps
            if inversion:
                found["inversion_steps"] = max(1, round(inversion * self.steps / usual))
        narrowed = {"features.dimensions": self.channels} if self.channels else {}
        return found | narrowed | dict(self.extra)


def counted() -> list[Case]:
    """The cases that are only counted: presets, options, and the growth with n, M and the frame's size."""
    presets = ["released", "paper", "exact", "fast", "draft"]
    found = [Case(kind="count", settings=name) for name in (*presets, *OPTIONS, *TOGETHER)]
    grown = ["released", "exact", "fast"]
    found += [Case(kind="count", settings=s, clips=m) for s in grown for m in (5, 10, 14, 20, 30, 150, 300, 600)]
    found += [
        Case(kind="count", settings=s, frames=n, clips=60 * n // 1000) for s in grown for n in (100, 250, 3000, 10000)
    ]
    found += [Case(kind="count", settings=s, frames=10000, clips=m) for s in grown for m in (60, 150)]
    narrow = [(n, 60 * n // 1000) for n in (1000, 3000, 10000)]  # features reduced to 64 dimensions
    found += [Case(kind="count", settings=s, frames=n, clips=m, channels=64) for s in grown[1:] for n, m in narrow]
    found += [
        Case(kind="count", settings=s, size=size) for s in grown for size in ((256, 448), (512, 512), (576, 1024))
    ]
    return found


NAMED: dict[str, list[Case]] = {
    "count": counted(),
    "smoke": [
        Case(kind="edit", model="miniature", frames=16, clips=4, size=MINIATURE_SIZE, steps=2),
        Case(kind="steps", model="miniature", frames=16, clips=4, size=MINIATURE_SIZE, edit_steps=2, channels=8),
        Case(kind="hour", model="miniature", frames=24, clips=0, size=MINIATURE_SIZE, steps=2),
    ],
    "miniature": [
        Case(kind="edit", model="miniature", frames=n, clips=m, size=MINIATURE_SIZE, steps=2)
        for n, m in ((64, 16), (250, 20))
    ],
    "miniature-1000": [Case(kind="edit", model="miniature", frames=1000, clips=60, size=MINIATURE_SIZE)],
    "miniature-10000": [Case(kind="edit", model="miniature", frames=10000, clips=600, size=MINIATURE_SIZE)],
    "hour": [Case(kind="hour", model="miniature", frames=90000, clips=0, size=MINIATURE_SIZE, steps=2)],
    "sd-quick": [Case(kind="edit", frames=48, clips=16, settings="exact", steps=4)],
    "sd-presets": [
        Case(kind="edit", frames=240, clips=24, settings=s, steps=10) for s in ("exact", "fast", "released")
    ],
    "sd-m": [
        Case(kind="steps", frames=4 * m, clips=m, edit_steps=2, channels=64) for m in (10, 20, 40, 60, 100, 150, 300)
    ],
    "sd-n": [Case(kind="steps", frames=n, clips=60, edit_steps=2, channels=64) for n in (240, 500, 1000, 2000)],
    "sd-size": [Case(kind="steps", frames=240, clips=60, edit_steps=2, size=size) for size in ((256, 448), (512, 512))],
    "sd-1000": [Case(kind="edit", frames=1000, clips=60, settings=s) for s in ("fast", "exact", "released")],
    "sd-10000": [
        Case(kind="steps", frames=10000, clips=600, settings=s, edit_steps=2, channels=64) for s in ("exact", "fast")
    ],
}
"""Lists of cases by name, for the command line."""
