"""One video of a suite at work: its rows are made, scored, shown and written down."""

from __future__ import annotations

import datetime
import json
import math
import platform
import shutil
from collections.abc import Hashable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import AdaFlowError, Cancelled, InputError
from ..miniature.classifier import AttributeClassifier
from ..pipeline import AdaFlowPipeline
from ..progress import STAGES, Progress
from ..result import versions
from ..store import write_json
from ..video import write_video
from .cost import CostMeter, Spent
from .footage import Footage, numbers, scored
from .ledger import SHARED, Ledger, lineage
from .methods import ADAFLOW, Method
from .metrics import measure, measure_partition
from .metrics.weights import Weights
from .running import Output, Pictures, Sized, Task
from .watch import Watch

if TYPE_CHECKING:
    from .runner import Evaluation
    from .suites import Case, Edit

FRAMES_PER_SECOND = 12
QUALITY = 26
"""Of the clips, x264's constant rate factor: for looking at."""


class Desk:
    """One case at work: its frames and its workspace on disk, and the making of its rows.

    Args:
        whole: The run that it belongs to.
        case: The film and its edits.
        classifier: Reads what edited frames show.
        counted: Operations by kind of call, for all cases of one model.
        watch: Told of the progress.
    """

    def __init__(
        self,
        whole: Evaluation,
        case: Case,
        classifier: AttributeClassifier,
        counted: dict[Hashable, Fraction],
        watch: Watch,
    ) -> None:
        self.whole, self.case, self._classifier, self._counted, self._watch = whole, case, classifier, counted, watch
        self.folder = whole.out / "work" / case.id
        self.folder.mkdir(parents=True, exist_ok=True)
        self._video = self._rendered()
        self._ledger = Ledger(self.folder / "workspace")

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self.whole.keep_work:
            shutil.rmtree(self.folder, ignore_errors=True)

    def row(self, edit: Edit, method: Method) -> None:
        """Make one row: edit, score, show, and write it down.

        Raises:
            AdaFlowError: saying which row it is that cannot be made.
        """
        file = self.whole.result(self.case, edit, method)
        file.parent.mkdir(exist_ok=True)
        self._ledger.clear_unfinished()
        already = self._ledger.folders
        meter = CostMeter(self.whole.pipe.backbone, self._counted, lambda progress: self._booked(meter, progress))
        first = self.whole.result(self.case, edit, ADAFLOW).with_suffix(".png")
        asked = self.whole.asked(self.case, edit)
        task = Task(**vars(asked), video=self._video, workspace=self._ledger.workspace, meter=meter, first=first)
        try:
            with meter:
                output = method.runs(task, method.config(asked))
        except Cancelled:
            raise
        except AdaFlowError as error:
            raise type(error)(
                f"{method.name} cannot edit {self.case.id} ({edit.name}): {error}; the same command goes on there"
            ) from error
        scored = self._scored(edit, method, output)
        made = {"settings": self.whole.complete_settings(method, asked), "cost": self._cost(output, meter, already)}
        self._clips(edit, method, output)
        if method.name == ADAFLOW.name:
            _write_picture(first, next(iter(output.frames)))
        write_json(file, _plain(scored | made))

    def _booked(self, meter: CostMeter, progress: Progress) -> None:
        """Tell the ledger of a stage that is done, and the watch of everything."""
        if progress.done >= progress.total and progress.stage in SHARED.values():
            self._ledger.book(meter.stages)
        self._watch(progress)

    def _scored(self, edit: Edit, method: Method, output: Output) -> dict[str, Any]:
        case, starts = self.case, output.starts
        begun = output.chunks if starts is None else starts
        frames = Sized(output.frames, self._video.shape[1:3])
        borders = None if begun is None else begun[1:]
        film, parted = case.film, None
        if isinstance(film, Footage):
            found = scored(film, frames, edit.prompt, case.source_prompt, borders, self.whole.weights or Weights())
            measures = numbers(found)
        else:
            measures = measure(case, edit, frames, borders=borders, classifier=self._classifier)
            parted = None if starts is None else measure_partition(case, starts)
        return {
            "method": method.name,
            "title": method.title,
            "suite": self.whole.suite.name,
            "case": case.id,
            "motion": case.motion,
            "edit": edit.name,
            "kind": edit.kind,
            "frames": len(case.film),
            "source_prompt": case.source_prompt,
            "prompt": edit.prompt,
            "measures": measures,
            "partition": parted,
            "method_facts": dict(output.facts),
            "seed": case.seed,
            "versions": versions(),
            "machine": machine(self.whole.pipe),
            "date": today(),
        }

    def _cost(self, output: Output, meter: CostMeter, already: Iterable[str]) -> dict[str, Any] | None:
        """What the row took as if it had been made alone; None for rows that take nothing."""
        line = lineage(self._ledger.workspace, output.made_from)
        shared = self._ledger.shared(line)
        own = {name: spent for name, spent in meter.stages.items() if not line or name not in SHARED.values()}
        spent = {**shared, **own}
        if not spent:
            return None
        total = sum(spent.values(), Spent())
        return {
            "seconds": {name: round(spent[name].seconds, 4) for name in STAGES if name in spent},
            "total_seconds": round(total.seconds, 4),
            "unet_rows": total.unet_rows,
            "flops": total.flops,
            "peak_bytes": total.peak_bytes,
            "disk_bytes": sum(info.bytes for info in line.values()),
            "shared": sorted(self._ledger.shared(set(line) & set(already))),
        }

    def _clips(self, edit: Edit, method: Method, output: Output) -> None:
        """The edit as a file to look at, with the source and the target if they are not there yet."""
        case, clips = self.case, self.whole.out / "clips"
        own = f"{case.id}.{edit.name}.{method.name}"
        films: dict[str, Pictures] = {f"{case.id}.source": self._video, own: output.frames}
        fps = float(FRAMES_PER_SECOND)
        if isinstance(case.film, Footage):
            fps = case.film.fps
        else:
            films[f"{case.id}.{edit.name}.truth"] = edit.target
        for name, film in films.items():
            if name == own or not (clips / f"{name}.mp4").exists():
                write_video(clips / f"{name}.mp4", iter(film), fps=fps, crf=QUALITY)

    def _rendered(self) -> NDArray[np.uint8]:
        """The source's frames ``[n, H, W, 3]``, rendered once and read from the disk: no part of an edit's cost."""
        file = self.folder / "source.npy"
        if not file.exists():
            part = file.with_name(".source.npy")
            first = next(iter(self.case.film))
            frames = np.lib.format.open_memmap(
                part, mode="w+", dtype=np.uint8, shape=(len(self.case.film), *first.shape)
            )
            for i, frame in enumerate(self.case.film):
                frames[i] = frame
            frames.flush()
            del frames
            part.replace(file)
        return np.load(file, mmap_mode="r", allow_pickle=False)


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON file's content, or None where there is none.

    Raises:
        InputError: it cannot be read.
    """
    if not file.exists():
        return None
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); delete it and run again") from error
    return document


def machine(pipe: AdaFlowPipeline) -> str:
    """What the seconds belong to."""
    if pipe.backbone.device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def today() -> str:
    """The date, by universal time."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")


def _write_picture(file: Path, frame: NDArray[np.uint8]) -> None:
    part = file.with_name(f".{file.name}")
    Image.fromarray(frame).save(part, format="PNG")
    part.replace(file)


def _plain(value: Any) -> Any:
    """JSON has no numpy numbers, and neither infinity nor NaN: what is not finite is not known."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
