"""OUT/index.html: the results as one page that needs no network: tables, plots, and clips side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..report import Film, Grid, Link, Section, Shown, Table, write_report
from .layout import (
    DIFFERENCES,
    MARGINS,
    about,
    base_of,
    blocks,
    compared,
    difference_table,
    editing,
    heading,
    legend,
    main_tables,
    margins_table,
    part_tables,
)
from .plots import by_motion, forest, quality_against_cost
from .rows import Row, Run, by_method, load_rows, load_run

EMBEDDED = 15 * 2**20
"""Bytes of base64 that the clips may take in the page; further ones are linked."""
PAIRS = 6
"""Edits whose clips are shown."""
BESIDE = 8
"""Methods whose clips stand side by side; those of others are linked."""
PLAIN = ("adaflow", "full", "uniform", "no-propagation", "pnp")
"""The methods in the plots by motion, as far as they were run."""


def write_page(out: Path) -> Path:
    """Writes OUT/index.html from the results, the run and the clips under OUT.

    Returns:
        The page's path.

    Raises:
        InputError: there are no results, one cannot be read, or the page cannot be written.
    """
    out = Path(out)
    rows = load_rows(out)
    run = load_run(out, rows)
    return write_report(out / "index.html", heading(rows, run), _sections(out, rows, run))


def _sections(out: Path, rows: Sequence[Row], run: Run) -> Iterator[Section]:
    yield Section("What was measured", "\n\n".join(about(rows, run)))
    for name, table in main_tables(rows, run).items():
        yield Section(name, legend(blocks(rows)[name]), items=[table])
    yield _plots("Quality, consistency and cost", [
        quality_against_cost(rows, "seconds", "psnr"),
        quality_against_cost(rows, "warp_relative", "success"),
        quality_against_cost(rows, "unet_rows", "psnr"),
        quality_against_cost(rows, "drift", "success"),
    ])  # fmt: skip
    differences = difference_table(rows)
    if differences.lines:
        plots = [plot for name in compared(rows) if (plot := forest(rows, name)) is not None]
        yield Section(differences.caption, DIFFERENCES, items=[Grid(plots), _captioned(differences)])
        yield Section("Which are non-inferior", MARGINS, items=[_captioned(margins_table(rows))])
    yield _clips(out, rows, run)
    chosen = _plain_methods(rows)
    yield _plots("By motion", [by_motion(rows, name, chosen) for name in ("gain", "success", "warp_relative", "drift")])
    for part in ("kind", "motion"):
        tables = part_tables(rows, part)
        yield Section(
            f"Numbers by {'kind of edit' if part == 'kind' else part}",
            items=[_captioned(table, name) for name, table in tables.items()],
        )
    yield Section("How it was made", table=run.facts or {"suite": run.suite})


def shown_pairs(rows: Sequence[Row], count: int = PAIRS) -> dict[tuple[str, str], str]:
    """The edits whose clips are shown, and why: by rule, so that nobody picks the pretty ones.

    The base's best and worst by its gain in PSNR; then of each kind of edit the middle one, of a motion not yet shown
    where there is one; then further middle ones.
    """
    ranked = sorted(
        (row for row in editing(rows).get(base_of(rows), []) if row.value("gain") is not None),
        key=lambda row: (row.value("gain"), row.pair),
    )
    ranked = ranked or editing(rows).get(base_of(rows), [])
    if not ranked:
        return {}
    title = ranked[0].title
    chosen = {ranked[-1].pair: f"where {title} gains most"}
    chosen.setdefault(ranked[0].pair, f"where {title} gains least")
    seen = {row.motion for row in ranked if row.pair in chosen}
    kinds = sorted({row.kind for row in ranked})
    for turn in range(count):
        left = [row for row in ranked if row.pair not in chosen]
        if len(chosen) >= count or not left:
            break
        kind = kinds[turn % len(kinds)]
        some = [row for row in left if row.kind == kind] or left
        fresh = [row for row in some if row.motion not in seen] or some
        row = fresh[len(fresh) // 2]
        chosen[row.pair] = f"a middling edit of the {row.kind}"
        seen.add(row.motion)
    return dict(list(chosen.items())[:count])


def _plain_methods(rows: Sequence[Row]) -> list[str]:
    """Up to five methods, the plain ones first."""
    methods = list(editing(rows))
    return [*(m for m in PLAIN if m in methods), *(m for m in methods if m not in PLAIN)][:5]


def _plots(heading: str, plots: Sequence[Shown | None]) -> Section:
    shown = [plot for plot in plots if plot is not None]
    return Section(heading, "" if shown else "There is nothing to plot yet.", items=[Grid(shown)])


def _captioned(table: Table, caption: str = "") -> Table:
    """The same table under other words, or none where the heading says it."""
    return replace(table, caption=caption)


def _clips(out: Path, rows: Sequence[Row], run: Run) -> Section:
    """Source, truth and every method's edit of some videos, embedded while there is room."""
    items: list[Grid | Shown | Film | Link] = []
    room = EMBEDDED
    about_pair = {row.pair: row for row in rows}
    done = {(row.method, row.pair) for row in rows}
    methods = [m for m in by_method(rows) if m in editing(rows)]
    methods.sort(key=lambda m: m != base_of(rows))  # the base first, the others in their order
    for number, (pair, why) in enumerate(shown_pairs(rows).items(), 1):
        case, edit = pair
        row = about_pair[pair]
        named = [(f"{case}.source", "source"), (f"{case}.{edit}.truth", "truth")]
        named += [(f"{case}.{edit}.{m}", run.methods[m]) for m in methods if (m, pair) in done]
        grid: list[Film | Link] = []
        for i, (name, title) in enumerate(named):
            path = _clip(out, name)
            if path is None:
                continue
            size = -(-path.stat().st_size // 3) * 4
            if i < BESIDE + 2 and size <= room:
                room -= size
                grid.append(Film(path, title))
            else:
                grid.append(Link(f"clips/{path.name}", f"{title} of {number} (a file beside this page)"))
        if grid:
            said = f"{row.motion}, edit of the {row.kind}: “{row.source_prompt}” becomes “{row.prompt}”"
            items.append(Grid(grid, width=10, together=True, caption=f"{number}. {case}, {said}; {why}."))
    if not items:
        return Section("Side by side", "There are no clips beside these results.")
    text = "Chosen by rule, not by eye. The edits are scored on their lossless frames; these are small copies."
    return Section("Side by side", text, items=items)


def _clip(out: Path, name: str) -> Path | None:
    """A clip of this run, if it is there; a name that leads elsewhere is none."""
    path = out / "clips" / f"{name}.mp4"
    return path if Path(f"{name}.mp4").name == f"{name}.mp4" and path.is_file() else None
