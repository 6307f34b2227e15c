"""The results as text: one line a result (table.csv), one a mean (summary.csv), tables (table.md), a comparison."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError
from ..report import Cell, Table
from .columns import COLUMNS, COMPARED, COMPARED_REAL, MISSING
from .layout import (
    DIFFERENCES,
    MARGINS,
    about,
    as_share,
    blocks,
    bracketed,
    difference_table,
    difference_unit,
    heading,
    legend,
    main_tables,
    margin_text,
    margins_table,
    part_tables,
    real,
)
from .rows import Row, Run, by_method, load_rows, load_run
from .statistics import Difference, compare, mean, non_inferior

PARTS = ("kind", "motion")
"""What the results are also shown by."""
FIELDS = ("method", "title", "suite", "case", "motion", "edit", "kind", "frames", "seed", "source_prompt", "prompt")


def write_tables(out: Path) -> list[Path]:
    """Writes OUT/table.csv, OUT/summary.csv and OUT/table.md from OUT's results, and gives their paths.

    Raises:
        InputError: there are no results, one cannot be read, or a table cannot be written.
    """
    out = Path(out)
    rows = load_rows(out)
    run = load_run(out, rows)
    texts = {"table.csv": results_csv(rows), "summary.csv": summary_csv(rows), "table.md": table_md(rows, run)}
    try:
        return [_write(out / name, text) for name, text in texts.items()]
    except OSError as error:
        raise InputError(f"the tables cannot be written to {out}: {error.strerror or error}") from error


def results_csv(rows: Sequence[Row]) -> str:
    """One line a result, one column a number; empty where it was not measured; floats in full."""
    names = _ordered(name for row in rows for name in row.values)
    stages = sorted({stage for row in rows for stage in row.stages})
    lines: list[list[object]] = [[*FIELDS, *names, *(f"seconds.{stage}" for stage in stages)]]
    for row in rows:
        numbers = [row.value(name) for name in names] + [row.stages.get(stage) for stage in stages]
        lines.append([getattr(row, name) for name in FIELDS] + ["" if n is None else repr(n) for n in numbers])
    return _csv(lines)


def summary_csv(rows: Sequence[Row]) -> str:
    """One line a mean: of each method and measure, over all results and over each kind of edit and motion."""
    lines: list[list[object]] = [["method", "part", "measure", "mean", "low", "high", "videos", "results"]]
    for part, some in {"all": list(rows), **_parts(rows)}.items():
        for method, group in by_method(some).items():
            for name in _ordered(name for row in group for name in row.values):
                found = mean(group, name)
                if found is not None:
                    ends = [repr(found.low), repr(found.high)] if found.known else ["", ""]
                    count = sum(row.value(name) is not None for row in group)
                    lines.append([method, part, name, repr(found.mean), *ends, found.videos, count])
    return _csv(lines)


def table_md(rows: Sequence[Row], run: Run) -> str:
    """All tables as Markdown: the means in blocks of columns, differences, margins, and the parts."""
    said = [f"# {plain(heading(rows, run))}", *map(plain, about(rows, run))]
    for name, table in main_tables(rows, run).items():
        said += [f"## {name}", markdown(table), plain(legend(blocks(rows)[name]))]
    for table, text in ((difference_table(rows), DIFFERENCES), (margins_table(rows), MARGINS)):
        if table.lines:
            said += [f"## {plain(table.caption)}", text, markdown(table)]
    for part in PARTS:
        said.append(f"## By {part}")
        for name, table in part_tables(rows, part).items():
            said += [f"### {plain(name)}", markdown(table)]
    facts = [f"- {plain(name)}: {plain(value)}" for name, value in run.facts.items()]
    return "\n\n".join([*said, "## How it was made", "\n".join(facts) or MISSING]) + "\n"


def comparison_text(a: Sequence[Row], b: Sequence[Row]) -> str:
    """Which differences between two methods hold, and whether `a` is non-inferior to `b`: lines for a terminal.

    Args:
        a: The results of one method.
        b: Those of another, or of the same from another run.

    Raises:
        InputError: the results are not of the same suite, or of several methods.
    """
    found = compare(a, b, COMPARED_REAL if real(a) else COMPARED)
    common = {row.pair for row in a} & {row.pair for row in b}
    videos = len({case for case, _ in common})
    names = [found[0].a, found[0].b]
    if names[0] == names[1]:
        names = [f"{names[0]} (first)", f"{names[1]} (second)"]
    where = "real videos" if real(a) else "the miniature"
    lines = [f"{names[0]} less {names[1]}, measured on {where}: {len(common)} edits of {videos} videos in both"]
    texts = [difference_text(each) for each in found]
    name, wide = max(len(each.column.label) for each in found), max(map(len, texts))
    for verdict in ("better", "worse", "higher", "lower", "no difference shown", "not measured"):
        lines += [
            f"  {each.column.label.ljust(name)}  {text.ljust(wide)}  {verdict}"
            for each, text in zip(found, texts, strict=True)
            if each.verdict == verdict
        ]
    judged = non_inferior(a, b)
    lines.append(f"non-inferior? {judged.verdict} ({judged.videos} videos with 3 edits; 12 are needed)")
    for result in judged.margins:
        over = f" over {result.interval.videos} videos" if result.interval else ""
        lines.append(f"  {result.margin.label}: {margin_text(result)}{over}, {result.verdict}")
    return "\n".join(lines)


def difference_text(found: Difference) -> str:
    """A difference, its unit and its interval: '+0.31 dB [+0.10, +0.52]'."""
    if found.interval is None:
        return MISSING
    column = as_share(found.column, found.relative)
    interval = bracketed(column, found.interval, signed=True) or "[too few videos]"
    words = (column.text(found.interval.mean, signed=True), difference_unit(found.column, found.relative), interval)
    return " ".join(word for word in words if word)


def markdown(table: Table) -> str:
    """A table as GitHub and others read it."""
    head, rule = [plain(name) for name in table.columns], ["---", *["---:"] * (len(table.columns) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *([*map(_cell, line)] for line in table.lines)])


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}<>|\[\]#~$&])", r"\\\1", " ".join(str(text).split()))


def _cell(cell: Cell) -> str:
    text = plain(cell.text)
    return f"{f'**{text}**' if cell.strong else text} {cell.small}".strip()  # what is small is ours: numbers, brackets


def _parts(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {
        f"{part}:{name}": [row for row in rows if getattr(row, part) == name]
        for part in PARTS
        for name in sorted({getattr(row, part) for row in rows})
    }


def _ordered(names: Iterable[str]) -> list[str]:
    """The columns that are known in their order, then the others."""
    known = set(names)
    return [name for name in COLUMNS if name in known] + sorted(known - COLUMNS.keys())


def _csv(lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _write(path: Path, text: str) -> Path:
    """All of the file, or what was there."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="")
    os.replace(part, path)
    return path
