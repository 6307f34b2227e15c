"""What `adaflow eval` does: choose a suite and methods, run, show."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from .commands import load
from .console import err, print_json, print_table
from .errors import InputError
from .longv_eval.methods import choose, groups, methods
from .longv_eval.rows import BASE, Row, by_method, load_rows
from .longv_eval.runner import Evaluation
from .longv_eval.statistics import compare, non_inferior
from .longv_eval.suites import SUITES, suite
from .longv_eval.tables import comparison_text
from .longv_eval.watch import Bar


def run_eval(suite_name: str, names: str, out: Path, model: str | None, keep_work: bool, as_json: bool) -> None:
    """`adaflow eval run`."""
    chosen, wanted = choose(names), suite(suite_name)
    pipe = load(model or "miniature")  # the suites are of its world
    with Bar(err) as bar:
        done = Evaluation(wanted, chosen, out, pipe, keep_work).run(bar)
    for name, reason in done.not_run.items():
        err.print(f"note: {name} is not run {reason}")
    if as_json:
        tables = {name: str(out / name) for name in ("table.csv", "summary.csv", "table.md")}
        counts = {"made": done.made, "found": done.found, "not_run": dict(done.not_run)}
        print_json(
            {"suite": wanted.name, "methods": [m.name for m in chosen], **counts, **tables, "page": str(done.page)}
        )
    else:
        print((out / "table.md").read_text(encoding="utf-8"), end="")
        err.print(f"{done.made} rows made, {done.found} were there; open {done.page}")


def compare_methods(a: str, b: str, folder: Path | None, as_json: bool) -> None:
    """`adaflow eval compare`."""
    ours, theirs = _rows(a, folder), _rows(b, folder)
    if as_json:
        print_json(
            {
                "differences": [
                    {
                        "measure": found.column.name,
                        "relative": found.relative,
                        "verdict": found.verdict,
                        **({} if found.interval is None else _finite(asdict(found.interval))),
                    }
                    for found in compare(ours, theirs)
                ],
                "non_inferior": non_inferior(ours, theirs).verdict,
            }
        )
    else:
        print(comparison_text(ours, theirs))


def list_eval(as_json: bool) -> None:
    """`adaflow eval list`."""
    suites = [
        {
            "suite": name,
            "videos": len(found.cases),
            "edits": sum(len(case.edits) for case in found.cases),
            "frames": sum(len(case.film) for case in found.cases),
        }
        for name, found in ((name, suite(name)) for name in SUITES)
    ]
    known = methods().values()
    if as_json:
        listed = [{"method": m.name, "title": m.title, "about": m.about, "settings": dict(m.settings)} for m in known]
        print_json({"suites": suites, "methods": listed, "groups": groups()})
        return
    print_table(("suite", "videos", "edits", "frames"), *(tuple(entry.values()) for entry in suites))
    print()
    print_table(("method", "what"), *((m.name, m.about) for m in known))
    print()
    print_table(("group", "methods"), *((name, ", ".join(members)) for name, members in groups().items()))


def _rows(name: str, folder: Path | None) -> list[Row]:
    """The results that a word of the command line names: a method of the run in `folder`, or a folder.

    A folder is that of a run, whose AdaFlow is meant, or of one method in a run: ``OUT/results/METHOD``.
    """
    place, method = Path(name), BASE
    if place.is_dir() and place.parent.name == "results":
        place, method = place.parent.parent, place.name
    elif not place.is_dir():
        if folder is None:
            raise InputError(f"{name} is no folder; for the method {name} of a run, name its folder with --in")
        place, method = folder, name
    found = by_method(load_rows(place))
    if method not in found:
        raise InputError(f"{place} has no results of {method!r}; it has {', '.join(found)}")
    return found[method]


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no infinity: an end that is not known is null."""
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}
