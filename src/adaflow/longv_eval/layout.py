"""What stands in each table: methods down, measures across, best values and differences that hold in bold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..report import Cell, Table
from .bootstrap import Interval
from .columns import BLOCKS, BRIEF, BRIEF_REAL, COLUMNS, MISSING, REAL_BLOCKS, Column
from .rows import BASE, FROZEN, REAL, REFERENCES, Row, Run, by_method
from .statistics import Difference, MarginResult, compare, mean, most, non_inferior

COMPARED = ("success", "psnr", "warp_relative", "drift", "seam", "seconds")
"""The measures whose differences from the base are shown for every method."""
COMPARED_REAL = ("fq", "vq", "oc", "sc", "text_alignment", "warp_error_relative", "flow_seam", "seconds")
"""The same, of real videos."""
DIFFERENCES = (
    "Over the edits that both have, paired by video. In brackets the 95 % interval; bold where it does not hold zero. "
    "Of 20 comparisons about one will stand out by chance."
)
MARGINS = (
    "Not worse by more than 0.2 dB PSNR, 2 points of edit success, 2 % of warp error and 2 % of seam ratio: the whole "
    "95 % interval must lie on the right side of every margin, over at least 12 videos with 3 edits each."
)


def about(rows: Sequence[Row], run: Run) -> list[str]:
    """What a reader must know before the numbers: paragraphs of plain text."""
    videos = {row.case: row.frames for row in rows}
    edits = len({row.pair for row in rows})
    if real(rows):
        first = (
            f"Measured on real videos: {len(videos)} with {sum(videos.values()):,} frames and {edits} edits. No truth "
            "is known of them (what goes through the autoencoder is the source): these measures reward what is smooth, "
            "and most of all a frozen picture. Read them beside the source's own row and beside the motion."
        )
    else:
        first = (
            f"Measured on the miniature: {len(videos)} rendered videos ({sum(videos.values()):,} frames) with {edits} "
            "edits, whose right answers are known. It says nothing of other models or of real footage."
        )
    said = [
        first,
        "Each number is the mean over videos (of a video's edits first) with its 95 % bootstrap interval; videos, not "
        "edits, are resampled, and below six videos no interval is given. Bold: the best of the methods that edit, "
        "frozen ones apart. The unedited source, the autoencoder's round trip of the target and the first frame "
        "repeated are no edits and only show the range.",
    ]
    counts = {method: len(group) for method, group in by_method(rows).items()}
    why = {method: f": {reason}" for method, reason in run.not_run.items()}
    short = [f"{run.methods[m]} ({n} of {edits} results{why.get(m, '')})" for m, n in counts.items() if n < edits]
    missing = [f"{title}{why.get(method, '')}" for method, title in run.methods.items() if method not in counts]
    if short:
        said.append(f"Without all results, so that their means are of other videos: {'; '.join(short)}.")
    if missing:
        said.append(f"Not run: {'; '.join(missing)}.")
    return said


def main_tables(rows: Sequence[Row], run: Run) -> dict[str, Table]:
    """One line a method in each block of columns; methods that were not run have a line that says so."""
    groups = by_method(rows)
    lines = [(title, groups.get(method, [])) for method, title in run.methods.items()]
    return {name: means_table(lines, block) for name, block in blocks(rows).items()}


def part_tables(rows: Sequence[Row], part: str) -> dict[str, Table]:
    """A brief table for each value of a field of the rows, such as each kind of edit."""
    found = {}
    for name in sorted({getattr(row, part) for row in rows}):
        some = [row for row in rows if getattr(row, part) == name]
        videos = len({row.case for row in some})
        lines = [(group[0].title, group) for group in by_method(some).values()]
        found[f"{name} ({videos} video{'' if videos == 1 else 's'})"] = means_table(
            lines, BRIEF_REAL if real(some) else BRIEF
        )
    return found


def means_table(groups: Sequence[tuple[str, Sequence[Row]]], columns: Sequence[Column]) -> Table:
    """One line a method; the best mean of each column among those that edit is strong.

    Args:
        groups: Each method's title and its results, none where it was not run.
        columns: The measures.
    """
    means = [{c.name: (most if c.most else mean)(group, c.name) for c in columns} for _, group in groups]
    still = [frozen(group) for _, group in groups]
    rivals = [
        bool(group) and group[0].method not in REFERENCES and not stuck
        for (_, group), stuck in zip(groups, still, strict=True)
    ]
    best = {}
    for column in columns:
        found = [m[column.name] for m, rival in zip(means, rivals, strict=True) if rival]
        values = [column.better * value.mean for value in found if value is not None]
        if column.better and len(values) > 1:
            best[column.name] = column.text(column.better * max(values))  # as written: equal in the table, equally best
    lines = []
    for (title, group), values_of, rival, stuck in zip(groups, means, rivals, still, strict=True):
        cells = [_mean_cell(c, values_of[c.name], best.get(c.name) if rival else None, stuck) for c in columns]
        lines.append([Cell(title, "" if group else "not run"), *cells])
    return Table(["method", *(column.heading for column in columns)], lines)


def difference_table(rows: Sequence[Row]) -> Table:
    """Each editing method less the base, in a few measures."""
    groups, base = editing(rows), base_of(rows)
    columns = [COLUMNS[name] for name in compared(rows)]
    lines = [
        [Cell(group[0].title), *(_difference_cell(d) for d in compare(group, groups[base], columns))]
        for method, group in groups.items()
        if method != base
    ]
    title = groups[base][0].title if groups else ""
    headings = [c.label if c.ratio else f"{c.label} ({difference_unit(c)})" for c in columns]
    return Table(["method", *headings], lines, f"Differences from {title}")


def margins_table(rows: Sequence[Row]) -> Table:
    """Whether the base is non-inferior to each other editing method, and each of these to the base."""
    groups, base = editing(rows), base_of(rows)
    others = [method for method in groups if method != base]
    pairs = [(base, other) for other in others] + [(other, base) for other in others]
    judged = [non_inferior(groups[a], groups[b]) for a, b in pairs]
    names = [result.margin.label for result in judged[0].margins] if judged else []
    lines = [
        [
            Cell(f"{found.a} to {found.b}"),
            Cell(found.verdict, strong=found.verdict == "non-inferior"),
            Cell(str(found.videos)),
            *(_margin_cell(result) for result in found.margins),
        ]
        for found in judged
    ]
    return Table(["is it non-inferior?", "verdict", "videos", *names], lines, "Non-inferiority")


def real(rows: Iterable[Row]) -> bool:
    """Whether the videos are real, so that no truth is known of them."""
    return any(row.motion == REAL for row in rows)


def blocks(rows: Iterable[Row]) -> Mapping[str, Sequence[Column]]:
    """The columns of the main tables, by the heading of each."""
    return REAL_BLOCKS if real(rows) else BLOCKS


def compared(rows: Iterable[Row]) -> Sequence[str]:
    """The measures whose differences from the base are shown."""
    return COMPARED_REAL if real(rows) else COMPARED


def heading(rows: Iterable[Row], run: Run) -> str:
    """What stands above everything."""
    return f"{'Real videos' if real(rows) else 'LongV-EVAL, miniature edition'}: {run.suite}"


def editing(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    """The rows of the methods that edit, by method."""
    return {method: group for method, group in by_method(rows).items() if method not in REFERENCES}


def base_of(rows: Sequence[Row]) -> str:
    """The method that others are compared with: AdaFlow, or the first that edits."""
    methods = editing(rows)
    return BASE if BASE in methods else next(iter(methods), "")


def frozen(rows: Iterable[Row]) -> bool:
    """Whether a method's results move so little that their consistency says nothing."""
    found = mean(rows, "motion")
    return found is not None and found.mean < FROZEN


def bracketed(column: Column, found: Interval, signed: bool = False) -> str:
    """An interval's ends in brackets; nothing where there are too few videos."""
    return f"[{column.text(found.low, signed)}, {column.text(found.high, signed)}]" if found.known else ""


def as_share(column: Column, relative: bool) -> Column:
    """The column as which a difference is written: relative ones in per cent."""
    return Column(column.name, column.label, column.better, digits=1, scale=100, unit="%") if relative else column


def difference_unit(column: Column, relative: bool = False) -> str:
    """The unit of a difference: per cent less per cent are points."""
    return "%" if relative else "points" if column.unit == "%" else column.unit


def legend(columns: Sequence[Column]) -> str:
    """What the columns mean."""
    return "; ".join(f"{c.label}: {c.about}" for c in columns) + "."


def margin_text(result: MarginResult) -> str:
    """The difference that a margin is about, with its interval."""
    if result.interval is None:
        return MISSING
    column = as_share(COLUMNS[result.margin.measure], result.margin.relative)
    return f"{column.text(result.interval.mean, signed=True)} {bracketed(column, result.interval, signed=True)}".strip()


def _mean_cell(column: Column, found: Interval | None, best: str | None, still: bool) -> Cell:
    if found is None:
        return Cell(MISSING)
    text = column.text(found.mean)
    flag = ", frozen" if column.name == "motion" and still else ""
    return Cell(text + flag, bracketed(column, found), strong=text == best)


def _difference_cell(found: Difference) -> Cell:
    if found.interval is None:
        return Cell(MISSING)
    column = as_share(found.column, found.relative)
    text = column.text(found.interval.mean, signed=True) + (" %" if found.relative else "")
    holds = found.verdict not in ("no difference shown", "not measured")
    return Cell(text, bracketed(column, found.interval, signed=True), holds)


def _margin_cell(result: MarginResult) -> Cell:
    if result.interval is None:
        return Cell(result.verdict)
    return Cell(result.verdict, margin_text(result), result.verdict == "within")
