"""What the runner left, read back: one `Row` a result file, and what is known of the run as a whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError

REFERENCES = ("source", "vae", "frame1")
"""Methods that edit nothing: they bracket a measure and are never the best."""
BASE = "adaflow"
"""The method that others are compared with."""
REAL = "real"
"""The motion of videos that are not rendered: no truth is known of them."""
FROZEN = 0.5
"""Motion, as a share of the target's, below which a video counts as frozen."""


@dataclass(frozen=True)
class Row:
    """One edit of one video by one method: who made it, and every number known of it."""

    method: str
    title: str
    suite: str
    case: str
    motion: str
    edit: str
    kind: str
    frames: int
    source_prompt: str = ""
    prompt: str = ""
    seed: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    """Measures, facts about the clips, and costs, by name; a name is missing where nothing was measured."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pair(self) -> tuple[str, str]:
        """What the result is of: the video's name and the edit's."""
        return self.case, self.edit

    def value(self, name: str) -> float | None:
        """A number of the result; None where it was not measured."""
        return self.values.get(name)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Row:
        """A result file's contents as a row.

        Raises:
            KeyError, TypeError, ValueError: it is no result.
        """
        cost = document.get("cost") or {}
        frames = int(document["frames"])
        return cls(
            **{name: str(document[name]) for name in ("method", "suite", "case", "motion", "edit", "kind")},
            title=str(document.get("title") or document["method"]),
            frames=frames,
            source_prompt=str(document.get("source_prompt", "")),
            prompt=str(document.get("prompt", "")),
            seed=int(document.get("seed") or 0),
            values=_numbers(document.get("method_facts"))
            | _numbers(document.get("partition"))
            | _numbers(document["measures"])
            | _costs(cost, frames),
            stages=_numbers(cost.get("seconds")),
            settings=dict(document.get("settings") or {}),
        )


@dataclass(frozen=True)
class Run:
    """What run.json says of all results: the suite, the methods in order with their titles, and how they were made."""

    suite: str
    methods: Mapping[str, str]
    facts: Mapping[str, str] = field(default_factory=dict)
    """Date, machine, versions and settings, as text."""
    not_run: Mapping[str, str] = field(default_factory=dict)
    """Why a method has no results, or not all."""


def load_rows(out: Path) -> list[Row]:
    """Every result under `out`, in the run's order of methods.

    Raises:
        InputError: there is none, or a file is not a result.
    """
    out = Path(out)
    rows = [_row(path) for path in sorted(out.glob("results/*/*.json"))]
    if not rows:
        raise InputError(f"there are no results in {out / 'results'}; make some with: adaflow eval run --out {out}")
    twice = _first_twice((row.method, *row.pair) for row in rows)
    if twice:
        raise InputError(f"{out} holds two results of {' '.join(twice)}; delete one of them")
    order = {method: i for i, method in enumerate(load_run(out, rows).methods)}
    return sorted(rows, key=lambda row: order[row.method])


def load_run(out: Path, rows: Iterable[Row]) -> Run:
    """The run that `rows` come from; methods that run.json does not name follow those that it does.

    Args:
        out: The folder of the run. Without a run.json in it, the rows say what they can.
        rows: Its results.

    Raises:
        InputError: run.json cannot be read.
    """
    rows = list(rows)
    document = _read(Path(out) / "run.json") if (Path(out) / "run.json").exists() else {}
    methods: dict[str, str] = {}
    listed = document.get("methods") or []
    for item in listed:  # names, or objects with a name and a title; a mapping gives its names
        named = item if isinstance(item, Mapping) else {"name": item}
        methods[str(named.get("name"))] = str(named.get("title") or named.get("name"))
    methods |= {row.method: row.title for row in rows}
    suite = str(document.get("suite") or next((row.suite for row in rows), ""))
    facts = {
        str(name): _said(value)
        for name, value in document.items()
        if name not in ("suite", "methods", "not_run") and value not in (None, {}, [])
    }
    reasons = {str(method): str(reason) for method, reason in (document.get("not_run") or {}).items()}
    return Run(suite, methods, facts, reasons)


def by_method(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by the name of their method, in the order in which the methods first appear."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.method, []).append(row)
    return found


def _said(value: Any) -> str:
    """A fact as text: an object as its names and values."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _first_twice(names: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    seen: set[tuple[str, ...]] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _row(path: Path) -> Row:
    document = _read(path)
    try:
        return Row.from_json(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a result of adaflow eval ({error}); delete it and run again") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it and run again") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a result of adaflow eval; delete it and run again")
    return document


def _numbers(values: Mapping[str, Any] | None) -> dict[str, float]:
    """The finite numbers among values; what could not be measured is None or NaN, and left out."""
    return {
        str(name): float(value)
        for name, value in (values or {}).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _costs(cost: Mapping[str, Any], frames: int) -> dict[str, float]:
    """The cost columns: seconds, minutes, and seconds a frame; UNet rows; TFLOP; megabytes of memory and of disk."""
    known = _numbers(cost)
    scaled = (
        ("seconds", "total_seconds", 1.0),
        ("minutes", "total_seconds", 1.0 / 60),
        ("seconds_per_frame", "total_seconds", 1.0 / max(frames, 1)),
        ("unet_rows", "unet_rows", 1.0),
        ("tflop", "flops", 1e-12),
        ("peak_mb", "peak_bytes", 1e-6),
        ("disk_mb", "disk_bytes", 1e-6),
    )
    return {name: known[source] * factor for name, source, factor in scaled if source in known}
