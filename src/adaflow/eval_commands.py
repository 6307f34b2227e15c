"""What `adaflow eval` does: choose a suite and methods, run, show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from .cache import cache_folder
from .commands import load
from .console import err, print_json, print_table
from .disk import disk_errors
from .errors import ConfigError, InputError, MissingError
from .longv_eval.columns import MISSING
from .longv_eval.dataset import SUFFIXES, index_text, load_index, open_frames
from .longv_eval.footage import real_suite, will_be_skipped
from .longv_eval.indexing import fetch_dataset, make_index
from .longv_eval.methods import choose, groups, methods
from .longv_eval.metrics.convert import convert
from .longv_eval.metrics.weights import DOVER, Weights, default_folder
from .longv_eval.rows import BASE, Row, by_method, load_rows
from .longv_eval.runner import Evaluation
from .longv_eval.scoring import Report, score
from .longv_eval.statistics import compare, non_inferior
from .longv_eval.suites import SUITES, suite
from .longv_eval.tables import comparison_text
from .longv_eval.verify import libraries, verify
from .longv_eval.watch import Bar, frame_bar

LONGV_EVAL = "zhangsh2001/LongV-EVAL"
"""The data set of the paper on the hub."""


def run_eval(
    suite_name: str,
    names: str,
    out: Path,
    model: str | None,
    keep_work: bool,
    weights: Path | None,
    part: str,
    as_json: bool,
) -> None:
    """`adaflow eval run`."""
    chosen, here, own = choose(names), None, _part(part)
    place = Path(suite_name)
    if suite_name == "longv-eval" and not place.is_dir():
        place = cache_folder() / suite_name
        if not place.is_dir():
            raise MissingError(f"LongV-EVAL is not here; fetch it with: adaflow eval index {place} --hub {LONGV_EVAL}")
    if suite_name not in SUITES and (place.is_dir() or place.suffix in SUFFIXES):
        index, here, pipe = load_index(place), Weights(weights), load(model)
        wanted = real_suite(index, pipe.backbone.home_size)
        _quiet()
        _say_skipped(will_be_skipped(here))
    else:
        wanted, pipe = suite(suite_name), load(model or "miniature")  # the suites are of its world
    with Bar(err) as bar:
        done = Evaluation(wanted, chosen, out, pipe, keep_work, here, own).run(bar)
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


def _part(words: str) -> tuple[int, int]:
    """Which of how many parts: ``2/4`` is (2, 4)."""
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", words)
    if found is None or int(found[1]) > int(found[2]):
        raise ConfigError(f"--part is {words!r}; it must be K/N, the K-th of N parts, such as 2/4")
    return int(found[1]), int(found[2])


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


def score_video(
    video: Path,
    prompt: str | None,
    source: Path | None,
    source_prompt: str | None,
    weights: Path | None,
    fetch: bool,
    borders: str | None,
    only: str | None,
    fps: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """`adaflow eval score`."""
    names = _words(only)
    starts = None if borders is None else _numbers(borders)
    here = Weights(weights, fetch=fetch)
    _quiet()
    original = None if source is None else open_frames(source, fps)
    pace = fps if fps is not None or original is None else float(original.info.frame_rate)
    edited = open_frames(video, pace)
    with frame_bar(err) as show:
        found = score(
            edited,
            here,
            prompt=prompt,
            source=original,
            source_prompt=source_prompt,
            borders=starts,
            only=names,
            seed=seed,
            on_progress=show,
        )
    if not found.measures:
        name, why = next(iter(found.skipped.items()))
        raise MissingError(f"none of the metrics asked for can be computed; {name}: {why}")
    if as_json:
        print_json({"video": str(video), **found.to_json(), "versions": libraries()})
        return
    print_table(*_score_lines(found))
    _say_skipped(found.skipped)
    if counts := found.facts.get("frames_of_each"):
        err.print(
            f"note: {video} has {counts['edited']} frames and {source} {counts['source']}; the first "
            f"{found.facts['frames']} are scored"
        )


def verify_metrics(weights: Path | None, record: bool, fetch: bool, as_json: bool) -> None:
    """`adaflow eval verify`."""
    _quiet()
    checks = verify(Weights(weights, fetch=fetch), record)
    if as_json:
        print_json({"checks": [asdict(check) for check in checks], "versions": libraries()})
    else:
        print_table(("check", "verdict", "found"), *((c.name, c.verdict, c.said) for c in checks))
    wrong = [check.name for check in checks if check.verdict == "fails"]
    if wrong:
        raise InputError(f"{len(wrong)} of {len(checks)} checks fail: {', '.join(wrong)}")


def index_videos(folder: Path, out: Path | None, hub: str | None, as_json: bool) -> None:
    """`adaflow eval index`."""
    if hub is not None:
        fetch_dataset(hub, folder)
    placed = make_index(folder, out)
    file = placed.index.file
    if file.exists():
        raise InputError(f"{file} is there already; delete it, or choose another place with --out")
    with disk_errors(file, "written"):
        file.write_text(index_text(placed.index), encoding="utf-8")
    if as_json:
        records = placed.index.records
        counts = {"videos": len(records), "edits": placed.index.edits}
        print_json({"index": str(file), **counts, "unplaced": list(placed.unplaced)})
        return
    for what in placed.unplaced:
        err.print(f"note: {what}")
    err.print(f"{len(placed.index.records)} videos with {placed.index.edits} edits")
    print(file)


def convert_weights(file: Path, weights: Path | None) -> None:
    """`adaflow eval convert`."""
    made = convert(file, weights or default_folder())
    if made.name == DOVER.file:
        err.print(f"note: the weights of DOVER are under a licence of their own ({DOVER.licence})")
    print(made)


def _score_lines(found: Report) -> list[tuple[str, ...]]:
    """The numbers as a table: of the edited video, and of the source and between them where there is one."""
    differences = found.differences()
    lines: list[tuple[str, ...]] = [("measure", "value", *(("source", "difference") if found.source else ()))]
    for name, value in found.measures.items():
        beside = (_written(found.source.get(name)), _written(differences.get(name), "+")) if found.source else ()
        lines.append((name, _written(value), *beside))
    return lines


def _say_skipped(skipped: Mapping[str, str]) -> None:
    """One line for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in skipped.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        err.print(f"skipped: {', '.join(names)}: {why}")


def _written(value: float | None, sign: str = "") -> str:
    return MISSING if value is None else f"{value:{sign}.4f}"


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    """Frame numbers of the command line, ascending."""
    try:
        return sorted({int(word) for word in _words(text)})
    except ValueError as error:
        raise InputError(f"--borders is {text!r}; give frame numbers with commas between, such as 128,256") from error


def _quiet() -> None:
    """No bars and no advice of transformers: what is wrong is said by us."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


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
