"""Plug-and-Play per frame (Tumanyan et al., https://arxiv.org/abs/2211.12572): what the others start from."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from ..attention import KeyPass
from ..diskarray import DiskArray
from ..run import spans
from ..steps import Step
from .peer import read
from .stepwise import Prediction, Stepwise

PUBLISHED = MappingProxyType(
    {
        "steps": 50,
        "inversion_steps": 500,  # published: 999, which does not come by the 50 sampling timesteps
        "guidance_scale": 7.5,
        "injection.features": 0.8,
        "injection.attention": 0.5,
        "negative_prompt": "ugly, blurry, black, low res, unrealistic",
    }
)


class PnP(Stepwise):
    """Every frame by itself: no frame knows of another."""

    name = "pnp"
    title = "PnP per frame"
    about = "Every frame edited by itself, with the same inversion and injection."
    published = MappingProxyType({**PUBLISHED, "peers.chunk": 0})

    def predict(self, step: Step, chunk: range, latents: DiskArray, source: DiskArray) -> Iterator[Prediction]:
        """See `Stepwise`; as many frames a call as the plan has rows for."""
        bench = self.bench
        for frames in spans(chunk.start, chunk.stop, max(1, bench.rows // len(step.branches))):
            alone = KeyPass(step.branches, len(frames), extended=False, injected=self.injected(step))
            z, inverted = read(latents, frames), read(source, frames)
            yield frames, bench.predict(step, step.branches, z, inverted, frames, alone.processor, self.features)
