"""A slice of training: how long, how fast, and the averaged weights that it leaves (`adaflow.miniature.train`)."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Slice:
    """One run of training: its length, its learning rate and what it has done so far."""

    minutes: float
    rate: float
    batch: int
    schedule: str = "cosine"  # or "constant"
    max_samples: int | None = None
    warmup: int = 150
    samples: int = 0
    steps: int = 0
    losses: deque[Tensor] = field(default_factory=lambda: deque(maxlen=100))  # of the last steps, on their device
    curve: list[tuple[int, float]] = field(default_factory=list)  # samples, and the mean of the losses then
    started: float = field(default_factory=time.monotonic)

    @property
    def progress(self) -> float:
        """From 0 to 1, by time or by samples, whichever ends first."""
        share = (time.monotonic() - self.started) / (60 * self.minutes)
        return max(share, self.samples / self.max_samples) if self.max_samples else share

    def learning_rate(self) -> float:
        """Of the next step: warm-up, then the schedule."""
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))) if self.schedule == "cosine" else 1.0
        return self.rate * min(1.0, (self.steps + 1) / self.warmup) * decay

    @property
    def loss(self) -> float:
        """Mean over the last steps; waits for the device."""
        return float(torch.stack(tuple(self.losses)).mean()) if self.losses else 0.0

    def report(self) -> dict[str, Any]:
        """What this slice has done, for the log and for ``training.json``."""
        minutes = (time.monotonic() - self.started) / 60
        return {
            "samples": self.samples,
            "minutes": round(minutes, 2),
            "per_second": round(self.samples / max(60 * minutes, 1e-9), 1),
            "loss": round(self.loss, 5),
            "rate": float(f"{self.learning_rate():.3g}"),
            "batch": self.batch,
            "schedule": self.schedule,
        }


class Averaged:
    """Parameters in training and their exponential moving average, which is what gets saved."""

    def __init__(self, modules: list[nn.Module], decay: float = 0.9985) -> None:
        self.live: list[Tensor] = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.live]
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the live values; its horizon grows with the first updates."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, self.live, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged values; a second call puts them back."""
        for live, average in zip(self.live, self.average, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)


def run_slice(
    plan: Slice,
    modules: list[nn.Module],
    loss_of: Callable[[], Tensor],
    save: Callable[[], None],
    save_every: float,
    weight_decay: float = 0.01,
) -> None:
    """Optimise until the slice ends; ``save`` is called with the averaged weights in place."""
    averaged = Averaged(modules)
    kernels = {"fused": True} if averaged.live[0].is_cuda else {"foreach": True}
    optimizer = torch.optim.AdamW(averaged.live, plan.rate, betas=(0.9, 0.99), weight_decay=weight_decay, **kernels)
    next_save = next_word = time.monotonic()
    next_save += save_every
    while plan.progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate()
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(averaged.live, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update()
        plan.steps += 1
        plan.samples += plan.batch
        plan.losses.append(loss.detach())  # not its value: that would wait for the device
        now = time.monotonic()
        if now >= next_word:
            print(json.dumps(plan.report()), flush=True)
            plan.curve.append((plan.samples, round(plan.loss, 5)))
            next_word = now + 10
        if now >= next_save:
            averaged.swap()
            save()
            averaged.swap()
            next_save = time.monotonic() + save_every
    averaged.swap()
    save()
    print(json.dumps(plan.report()), flush=True)
