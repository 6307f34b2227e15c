"""A slice of training: how long, how fast, and the averaged weights that it leaves (`adaflow.miniature.train`)."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
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


class Stepper:
    """One optimiser step after another: gradients of a loss, clipped, then AdamW.

    Args:
        live: The parameters.
        loss_of: The loss of some inputs.
        rate: The learning rate to start with.
        weight_decay: AdamW's.
        graph: Record a step as a CUDA graph and replay it. A small model's step is thousands of short kernels, and to
            launch them one by one takes longer than to run them. All inputs then have the same shapes at every step.

    """

    def __init__(
        self, live: list[Tensor], loss_of: Callable[..., Tensor], rate: float, weight_decay: float, graph: bool
    ) -> None:
        self.live, self.loss_of, self.graph = live, loss_of, graph
        on_gpu = live[0].is_cuda
        kernels = {"fused": True, "capturable": True} if on_gpu else {"foreach": True}
        self._rate = torch.tensor(rate, device=live[0].device)  # a tensor, so that a replayed step sees it change
        self._optimizer = torch.optim.AdamW(
            live, self._rate if on_gpu else rate, betas=(0.9, 0.99), weight_decay=weight_decay, **kernels
        )
        self._recorded: tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor] | None = None

    def __call__(self, inputs: Sequence[Tensor], rate: float) -> Tensor:
        """Take one step; the loss before it, still on its device."""
        if self._rate.is_cuda:
            self._rate.fill_(rate)
        else:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
        if not self.graph:
            return self._step(inputs)
        if self._recorded is None:
            self._recorded = self._record(inputs)
        graph, places, loss = self._recorded
        torch._foreach_copy_(places, list(inputs))
        graph.replay()
        return loss.clone()

    def _step(self, inputs: Sequence[Tensor]) -> Tensor:
        loss = self.loss_of(*inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(self.live, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()

    def _record(self, inputs: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        places = [x.clone() for x in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries allocate and choose kernels in their first calls, which no graph may hold
                self._step(places)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._step(places)
        return graph, places, loss


def run_slice(
    plan: Slice,
    modules: list[nn.Module],
    draw: Callable[[], Sequence[Tensor]],
    loss_of: Callable[..., Tensor],
    save: Callable[[], None],
    save_every: float,
    weight_decay: float = 0.01,
    graph: bool = False,
) -> None:
    """Optimise until the slice ends.

    Args:
        plan: How long and how fast.
        modules: What is trained.
        draw: The inputs of a step.
        loss_of: The loss of these inputs.
        save: Called with the averaged weights in place, now and then and at the end.
        save_every: Seconds between two calls.
        weight_decay: AdamW's.
        graph: See `Stepper`.

    """
    averaged = Averaged(modules)
    step = Stepper(averaged.live, loss_of, plan.rate, weight_decay, graph)
    next_save = next_word = time.monotonic()
    next_save += save_every
    while plan.progress < 1:
        loss = step(draw(), plan.learning_rate())
        averaged.update()
        plan.steps += 1
        plan.samples += plan.batch
        plan.losses.append(loss)  # not its value: that would wait for the device
        if plan.steps % 32 == 0:
            float(loss)  # wait after all, or replayed steps pile up for far longer than a slice may last
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
