"""`adaflow study tally`: who was chosen how often, with intervals over participants, and how far they agree."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..disk import disk_errors
from ..errors import InputError
from .answers import Answers
from .plan import ANSWERS, QUESTIONS, Question, load_key, load_study
from .statistics import Share, krippendorff, shares

UNKNOWN = "–"


@dataclass(frozen=True)
class Vote:
    """One answer, with what it stands for.

    Attributes:
        participant: Their number, in the order in which they began.
        item: The set's name, and its opaque one.
        shown: The methods as this participant saw them, from A on.
    """

    participant: int
    item: str
    id: str
    question: str
    method: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What was answered to one question: a share for every method, in the tally's order, and the agreement."""

    question: Question
    shares: Sequence[Share]
    agreement: float | None


@dataclass(frozen=True)
class Tally:
    """The study, counted.

    Attributes:
        finished, unfinished: Participants.
        counted: Those whose answers are counted.
    """

    title: str
    sets: int
    methods: Sequence[str]
    finished: int
    unfinished: int
    counted: int
    verdicts: Sequence[Verdict]
    votes: Sequence[Vote]

    def to_json(self) -> dict[str, Any]:
        """Everything but the single answers."""
        return {
            "sets": self.sets,
            "participants": {"finished": self.finished, "unfinished": self.unfinished, "counted": self.counted},
            "questions": {
                verdict.question.name: {
                    "agreement": verdict.agreement,
                    "methods": {
                        method: {name: _finite(value) for name, value in vars(share).items()}
                        for method, share in zip(self.methods, verdict.shares, strict=True)
                    },
                }
                for verdict in self.verdicts
            },
        }


def tally(folder: Path, unfinished: bool = False) -> Tally:
    """Count the answers of a study.

    Args:
        folder: The study.
        unfinished: Count those as well who have not finished.

    Raises:
        InputError: it is no study, or its key or its answers are missing or damaged.
    """
    study = load_study(folder)
    key = load_key(folder, study)
    if not (folder / ANSWERS).exists():
        raise InputError(
            f"there is no {folder / ANSWERS}: nobody was asked yet; begin with: adaflow study serve {folder}"
        )
    answers = Answers(folder / ANSWERS, study.id)
    people = answers.participants()
    numbers = {p.id: number for number, p in enumerate(people, 1) if p.finished or unfinished}
    orders = {name: {item.id: item.clips for item in study.order(name)} for name in numbers}
    votes = []
    for answer in answers.all():
        if answer.participant in numbers:
            shown = tuple(key.clips[clip] for clip in orders[answer.participant][answer.item])
            method = key.clips[answer.choice]
            number = numbers[answer.participant]
            votes.append(Vote(number, key.items[answer.item], answer.item, answer.question, method, shown))
    votes.sort(key=lambda vote: (vote.participant, vote.item, vote.id, vote.question))
    finished = sum(p.finished for p in people)
    left = len(people) - finished
    verdicts = [_verdict(q, key.methods, [v for v in votes if v.question == q.name]) for q in QUESTIONS]
    return Tally(study.title, len(study.items), key.methods, finished, left, len(numbers), verdicts, votes)


def _verdict(question: Question, methods: Sequence[str], votes: Sequence[Vote]) -> Verdict:
    people = {number: row for row, number in enumerate(sorted({vote.participant for vote in votes}))}
    column = {method: i for i, method in enumerate(methods)}
    chosen = np.zeros((len(people), len(methods)), np.int64)
    offered = np.zeros_like(chosen)
    units: dict[str, list[str]] = {}
    possible: dict[str, frozenset[str]] = {}
    for vote in votes:
        chosen[people[vote.participant], column[vote.method]] += 1
        offered[people[vote.participant], [column[method] for method in vote.shown]] += 1
        units.setdefault(vote.id, []).append(vote.method)
        possible[vote.id] = frozenset(vote.shown)
    agreement = krippendorff((possible[name], given) for name, given in units.items())
    return Verdict(question, shares(chosen, offered), agreement)


def markdown(found: Tally) -> str:
    """The tally as the paper's Table 2: percentages of choices, with their intervals."""
    heads = ["method", *(f"{verdict.question.title.lower()}, %" for verdict in found.verdicts)]
    lines = [heads, ["---"] * len(heads)]
    for i, method in enumerate(found.methods):
        lines.append([method, *(_percent(verdict.shares[i]) for verdict in found.verdicts)])
    agreement = (UNKNOWN if v.agreement is None else f"{v.agreement:.2f}" for v in found.verdicts)
    lines.append(["agreement (Krippendorff's alpha)", *agreement])
    table = "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)
    counted = f"{_count(found.finished, 'participant')} finished, {found.unfinished} did not"
    if found.unfinished:
        counted += f" and {'are counted as well' if found.counted > found.finished else 'are left out'}"
    return (
        f"{counted}. {_count(found.sets, 'set')}, {_count(len(found.votes), 'answer')}.\n\n{table}\n\n"
        "Percentages are of the times a method was among those to choose from; in brackets 95 % over participants, for "
        "these very videos.\n"
    )


def write_tally(found: Tally, folder: Path) -> list[Path]:
    """Write tally.md, tally.csv and answers.csv.

    Raises:
        ResourceError, WorkspaceError: the disk is full, or the folder cannot be written to.
    """
    counts: list[Sequence[object]] = [
        ("question", "method", "chosen", "offered", "percent", "low", "high", "participants", "agreement")
    ]
    for verdict in found.verdicts:
        for method, share in zip(found.methods, verdict.shares, strict=True):
            numbers = [_number(100 * value, 2) for value in (share.value, share.low, share.high)]
            agreement = _number(math.nan if verdict.agreement is None else verdict.agreement, 4)
            line = verdict.question.name, method, share.chosen, share.offered, *numbers, found.counted, agreement
            counts.append(line)
    single: list[Sequence[object]] = [("participant", "set", "question", "chosen", "place", "shown")]
    for v in found.votes:
        place = chr(ord("A") + v.shown.index(v.method))
        single.append((v.participant, v.item, v.question, v.method, place, " ".join(v.shown)))
    texts = {"tally.md": markdown(found), "tally.csv": _csv(counts), "answers.csv": _csv(single)}
    with disk_errors(folder, "written to"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            part = folder / f".{name}.part"
            part.write_text(text, encoding="utf-8", newline="")
            part.replace(folder / name)
    return [folder / name for name in texts]


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _percent(share: Share) -> str:
    if not share.offered:
        return UNKNOWN
    interval = "" if math.isnan(share.low) else f" [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return f"{100 * share.value:.1f}{interval}"


def _cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table."""
    return " ".join(text.replace("|", r"\|").replace("<", "&lt;").split())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _finite(value: float) -> float | None:
    """JSON has no NaN: what is not known is null."""
    return None if math.isnan(value) else value
