"""Real videos as a suite: no truth is known of them, so they are scored by the paper's metrics alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from ..colour import Picture, Size
from ..errors import InputError
from ..video import VideoSource
from .dataset import Index
from .metrics.weights import Weights
from .rows import REAL
from .scoring import Asked, Report, chosen, prepare, score_frames

if TYPE_CHECKING:
    from .running import Pictures
    from .suites import Suite


@dataclass(frozen=True)
class Footage:
    """The frames of a real video at the size at which it is edited; stands where a rendered film would.

    Attributes:
        video: Where they come from.
        size: (height, width), in pixels; shapes are not kept, as in the paper.
    """

    video: VideoSource
    size: Size
    cuts: tuple[int, ...] = field(default=(), init=False)

    def __len__(self) -> int:
        return self.video.info.frames

    def __iter__(self) -> Iterator[Picture]:
        return self.video.frames(self.size)

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.video.info.frame_rate)


def real_suite(index: Index, size: Size) -> Suite:
    """The videos of an index as a suite, at a size (height, width).

    Raises:
        InputError: a video has no edits, or cannot be read.
    """
    from .suites import Case, Edit, Suite

    cases = []
    for seed, record in enumerate(index.records):
        if not record.edits:
            raise InputError(f"{index.file}: {record.id} has no edits; write prompts into it, or leave the video out")
        film = Footage(record.source(), size)
        # what stands for the truth is the source: nothing but its way through the autoencoder asks for it
        stand_in = cast(Any, film)  # measures of the truth, which ask more of a film, are never taken of it
        edits = tuple(Edit(cast(Any, name), cast(Any, name), {}, p, stand_in) for name, p in record.edits.items())
        cases.append(Case(record.id, REAL, stand_in, edits, record.caption, seed))
    return Suite(index.file.resolve().parent.name, tuple(cases), None, {})


def scored(
    film: Footage, frames: Pictures, prompt: str, source_prompt: str, borders: tuple[int, ...] | None, weights: Weights
) -> Report:
    """The paper's metrics of an edited video against its source."""
    asked = Asked(
        frames=min(len(frames), len(film)),
        fps=film.fps,
        size=film.size,
        prompt=prompt,
        source_prompt=source_prompt or None,
        has_source=True,
        borders=borders or None,
        seed=0,
        weights=weights,
    )
    return score_frames(iter(frames), iter(film), asked)


def numbers(found: Report) -> dict[str, float | None]:
    """A report as the measures of a row: the edited video's, and what it loses of the source's consistency.

    `motion` is the name by which tables know frozen videos.
    """
    differences = {f"{name}_difference": value for name, value in found.differences().items() if name in DIFFERENCES}
    return {**found.measures, **differences, "motion": found.measures.get("flow_ratio")}


DIFFERENCES = ("sc", "oc", "oc_1s", "oc_5s", "oc_20s", "subject_consistency", "background_consistency", "palette_drift")


def will_be_skipped(weights: Weights) -> Mapping[str, str]:
    """The metrics that no video of a suite can have, and why."""
    everything: dict[str, Any] = {"prompt": "x", "source_prompt": "x", "has_source": True, "borders": (1,)}
    _, skipped = prepare(Asked(frames=2, fps=1, size=(224, 224), seed=0, weights=weights, **everything), chosen(()))
    return skipped
