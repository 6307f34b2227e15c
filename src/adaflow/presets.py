"""Presets: sets of settings by a name. What each is for, and what was measured of it: docs/method.md."""

from __future__ import annotations

from typing import Any, Literal

Preset = Literal["default", "fast", "draft", "paper", "released"]

FAST: dict[str, Any] = {"propagation.deep_from": 0.2, "propagation.blend": 4, "inversion_reuse": 3}
AS_PUBLISHED: dict[str, Any] = {"propagation.changes": 0.0, "propagation.blend": 0, "slimming.own_tokens": False}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": FAST,
    "draft": {**FAST, "steps": 20, "reuse": 2},
    "paper": AS_PUBLISHED,
    "released": {
        **AS_PUBLISHED,
        "inversion_steps": 100,
        "negative_prompt": "ugly, blurry, low res, unrealistic, unaesthetic",
        "features.input_range": "unit",
        "features.ensemble": 8,
        "keyframes.rule": "released",
        "slimming.budget": 20,
        "slimming.count": "released",
    },
}
