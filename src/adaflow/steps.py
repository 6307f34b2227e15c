"""The steps of an edit: what is injected, guided, reused and carried in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .backbone import Branch
from .config import ResolvedConfig
from .injection import injected_steps

EDITED: tuple[Branch, Branch] = ("negative", "prompt")


@dataclass(frozen=True)
class Step:
    """One timestep: its number, its place on the noise scale, and what is done in it.

    Attributes:
        features, attention: Whether features, and queries and keys, of the source are injected.
        guided: Whether there is guidance.
        whole: Whether the whole UNet is run, or its finest level with the deep features of the last whole step.
        deep: Whether in a whole step frames take over their keyframe's deep features, and run the finest level alone.
        changes: Whether what frames take over is what the edit has changed in the keyframe.
    """

    number: int
    timestep: int
    features: bool
    attention: bool
    guided: bool = True
    whole: bool = True
    deep: bool = False
    changes: bool = False

    @property
    def edited(self) -> tuple[Branch, ...]:
        """The edit's branches: without guidance there is nothing negative to run."""
        return EDITED if self.guided else ("prompt",)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches of the key pass: the source is run only while something is taken from it."""
        return ("source", *self.edited) if self.features or self.attention or self.changes else self.edited

    @property
    def recorded(self) -> tuple[Branch, ...]:
        """The branches whose attention outputs the key pass leaves: of changes, only the edit's have any."""
        return self.edited if self.changes else self.branches


def edit_steps(config: ResolvedConfig, timesteps: Sequence[int]) -> list[Step]:
    """The steps of an edit.

    Injection is in the first of them, guidance in an interval (Kynkäänniemi et al. 2024, https://arxiv.org/abs/
    2404.07724). Of every `reuse` steps the first runs the whole UNet, and so does one whose branches the last whole
    step did not have.
    """
    fractions = (config.injection.features, config.injection.attention, config.guidance_start, config.guidance_end)
    features, attention, start, end = (injected_steps(fraction, config.steps) for fraction in fractions)
    carried = injected_steps(config.propagation.deep_from, config.steps)
    changes = injected_steps(config.propagation.changes, config.steps)
    steps: list[Step] = []
    there: tuple[Branch, ...] = ()
    for s, t in enumerate(timesteps):
        step = Step(s, t, s < features, s < attention, start <= s < end, changes=s < changes)
        whole = s % config.reuse == 0 or not set(step.edited) <= set(there)
        step = replace(step, whole=whole, deep=whole and s >= carried)
        there = step.edited if step.whole else there
        steps.append(step)
    return steps
