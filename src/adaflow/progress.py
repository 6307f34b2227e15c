"""What a run tells about how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

STAGES = {
    "mask": "reading the mask",
    "encode": "encoding frames",
    "features": "diffusion features",
    "partition": "choosing keyframes",
    "invert": "DDIM inversion",
    "locate": "finding what to edit",
    "match": "matching tokens",
    "edit": "editing",
    "decode": "decoding frames",
    "write": "writing the video",
}
"""The stages of a run in order, with the words shown to people."""


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of one stage; a stage found complete in the workspace is reported once, done."""

    stage: str
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]
"""Called after every unit of work; raising `Cancelled` in it stops the run, resumable."""


def clock(seconds: float) -> str:
    """Seconds as 42 s, 3 min 20 s, or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
