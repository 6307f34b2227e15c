"""A suite by several methods: one result file for each row, written whole, so that a stopped run goes on where it was.

::

    OUT/run.json                               the suite, the methods in order, what was not run and why
    OUT/results/<method>/<case>.<edit>.json    one row: measures, cost, settings
    OUT/clips/<case>.source.mp4                what it looks like; scored are the frames themselves, never these files
    OUT/clips/<case>.<edit>.<method>.mp4       … and .truth.mp4
    OUT/work/<case>/                           frames, workspace and ledger of the case at work
    OUT/table.csv, table.md, index.html        the tables, after every case, and the page, at the end

Cases come one after the other, with all their rows, so that one workspace at a time is on the disk. Several processes
may share a folder, each with a `part` of the cases.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config import EditConfig
from ..disk import disk_errors
from ..errors import InputError
from ..miniature.classifier import AttributeClassifier
from ..pipeline import AdaFlowPipeline
from ..result import versions
from ..store import write_json
from .desk import Desk, machine, read_json, today
from .methods import ADAFLOW, Method
from .metrics.weights import Weights
from .page import write_page
from .running import Asked
from .tables import write_tables
from .watch import Watch, Work

if TYPE_CHECKING:
    from .suites import Case, Edit, Suite


@dataclass(frozen=True)
class Summary:
    """What a run did: rows made now, rows that were there, and rows that are not run, with the reason."""

    made: int
    found: int
    not_run: Mapping[str, str]
    page: Path


@dataclass(frozen=True)
class Evaluation:
    """A suite, the methods it is run by, and where the results go.

    Attributes:
        methods: In the order of tables; those that others need are among them.
        out: A new folder, or one in which this suite was begun with this model.
        keep_work: Leave the workspaces of finished cases.
        weights: Of the paper's metrics, for real videos.
        part: ``(k, n)``: of every n cases the k-th, from 1; other processes, here or on other machines that see the
            folder, do the others.
    """

    suite: Suite
    methods: Sequence[Method]
    out: Path
    pipe: AdaFlowPipeline
    keep_work: bool = False
    weights: Weights | None = None
    part: tuple[int, int] = (1, 1)

    def run(self, watch: Watch | None = None) -> Summary:
        """Make every row that is not there yet, then the tables and the page.

        Raises:
            InputError: `out` holds another suite, model or settings; or the part is of no video.
            AdaFlowError: an edit cannot be made; the same run again goes on there.
        """
        watch = watch or Watch()
        cases = self.suite.cases[self.part[0] - 1 :: self.part[1]]
        if not cases:
            raise InputError(f"{self.suite.name} has {len(self.suite.cases)} videos, too few for part {self.part[0]}")
        self._open()
        rows: list[tuple[Case, Edit, Method]] = []
        for case in cases:
            # a row that another needs comes first
            fit = sorted((m for m in self.methods if not self._refuses(m, case)), key=lambda m: len(m.needs))
            rows += [(case, edit, method) for edit in case.edits for method in fit]
        not_run = {m.name: reason for m in self.methods if (reason := self._refused(m))}
        waiting = [row for row in rows if not self._found(*row)]
        with self._others_wait():
            self._describe(not_run)
        watch.plan([self._work(*row) for row in waiting])
        counted: dict[Hashable, Fraction] = {}
        if waiting:
            warm_up(self.pipe)
        classifier = AttributeClassifier.load()
        for case in cases:
            todo = [row for row in waiting if row[0] is case]
            if not todo:
                continue
            with Desk(self, case, classifier, counted, watch) as desk:
                for _, edit, method in todo:
                    work = self._work(case, edit, method)
                    watch.begin(work)
                    desk.row(edit, method)
                    watch.end(work)
            with self._others_wait():
                write_tables(self.out)
        with self._others_wait():
            write_tables(self.out)
            page = write_page(self.out)
        return Summary(len(waiting), len(rows) - len(waiting), not_run, page)

    def result(self, case: Case, edit: Edit, method: Method) -> Path:
        """The file of one row."""
        return self.out / "results" / method.name / f"{case.id}.{edit.name}.json"

    def asked(self, case: Case, edit: Edit) -> Asked:
        """One edit of one case, with what is known of it so far."""
        beside = self.result(case, edit, ADAFLOW)
        return Asked(self.pipe, self.settings(), case, edit, read_json(beside))

    def settings(self) -> dict[str, Any]:
        """The suite's `EditConfig` fields, by dotted name."""
        steps = {} if self.suite.steps is None else {"steps": self.suite.steps}
        return {**steps, **self.suite.settings}

    def _found(self, case: Case, edit: Edit, method: Method) -> bool:
        """Whether a row is there; refuses one that was made with other settings.

        A setting that is younger than the row counts as its default, which is what there was before.
        """
        file = self.result(case, edit, method)
        row = read_json(file)
        if row is None:
            return False
        now = self.complete_settings(method, self.asked(case, edit))
        before = {**EditConfig().completed().set_fields(), **row["settings"]} if row["settings"] else {}
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new:
                raise InputError(
                    f"{file} was made with {name} {old}, and now {method.name} has {new}; choose another folder with "
                    f"--out, or delete {file.parent}"
                )
        return True

    def complete_settings(self, method: Method, asked: Asked) -> dict[str, Any]:
        """Every setting of a row, by dotted name; none for methods that edit nothing."""
        return self.pipe.resolve(method.config(asked)).set_fields() if method.edits else {}

    def _refused(self, method: Method) -> str | None:
        """On which films a method is not run, and why; None if it is run on all of them."""
        reasons = {case.id: reason for case in self.suite.cases if (reason := self._refuses(method, case))}
        if not reasons:
            return None
        names = ", ".join(f"{case.id} ({len(case.film)} frames)" for case in self.suite.cases if case.id in reasons)
        return f"on {names if len(reasons) < len(self.suite.cases) else 'any video'}: {next(iter(reasons.values()))}"

    def _refuses(self, method: Method, case: Case) -> str | None:
        return method.refuses(len(case.film), self.settings())

    def _work(self, case: Case, edit: Edit, method: Method) -> Work:
        return Work(method.name, case.id, edit.name, len(case.film))

    def _open(self) -> None:
        """Make the folder, or see that what it holds is of this suite and model."""
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is a file; name a folder for the results with --out")
        with disk_errors(self.out, "used for the results"):
            for name in ("results", "clips", "work"):
                (self.out / name).mkdir(parents=True, exist_ok=True)
        kept = read_json(self.out / "run.json") or {}
        here = {"suite": self.suite.name, "settings": self.settings(), "model": self._model()}
        for name, value in here.items():
            if kept and kept.get(name) != json.loads(json.dumps(value)):
                raise InputError(
                    f"{self.out} holds results of another {name} ({kept.get(name)}, and this run has {value}); "
                    "choose another folder with --out"
                )

    @contextmanager
    def _others_wait(self) -> Iterator[None]:
        """One process at a time writes what all share; the lock dies with its process."""
        with disk_errors(self.out, "used for the results"), open(self.out / ".lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _describe(self, not_run: Mapping[str, str]) -> None:
        """Write run.json: what this run is, with the methods of earlier runs into the same folder."""
        kept = read_json(self.out / "run.json") or {}
        listed = {m["name"]: m for m in kept.get("methods", ())}
        listed |= {m.name: {"name": m.name, "title": m.title, "about": m.about} for m in self.methods}
        document = {
            "suite": self.suite.name,
            "methods": list(listed.values()),
            "settings": self.settings(),
            "model": self._model(),
            "not_run": {**kept.get("not_run", {}), **not_run},
            "date": kept.get("date") or today(),
            "versions": versions(),
            "machine": machine(self.pipe),
        }
        write_json(self.out / "run.json", document)

    def _model(self) -> dict[str, str]:
        return self.pipe.model_record()


def warm_up(pipe: AdaFlowPipeline) -> None:
    """One small call of every part of the model: the first ones are slow, and belong to no row."""
    backbone = pipe.backbone
    latents = backbone.encode(torch.zeros(2, *backbone.home_size, 3, dtype=torch.uint8))
    backbone.predict(latents, 1, backbone.conditioning("", "", "").rows(range(2), "source"))
    backbone.decode(latents)
