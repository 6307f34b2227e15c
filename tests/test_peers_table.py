"""`adaflow eval run --methods all`: every system and reference in one table, with what the paper's Table 1 lacks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_pipeline
from peer_edits import SIZE, controlnet

from adaflow import AdaFlowPipeline
from adaflow.cards import cards
from adaflow.cli import main
from adaflow.longv_eval.columns import BLOCKS, REAL_BLOCKS, TABLE_1
from adaflow.longv_eval.layout import main_tables, means_table
from adaflow.longv_eval.methods import COMPARED, REFERENCES, choose, variants
from adaflow.longv_eval.rows import Row, load_rows, load_run
from adaflow.longv_eval.runner import Evaluation
from adaflow.longv_eval.statistics import most
from adaflow.longv_eval.suites import Case, Edit, Suite
from adaflow.longv_eval.tables import table_md
from adaflow.miniature.world import video as film
from adaflow.peers import PEERS

N = 8
FEW: dict[str, Any] = {"steps": 2, "run.rows": 12, "slimming.budget": 2, "peers.chunk": 4, "peers.optimise": 1}


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline(), replace(cards()["miniature"], size=SIZE))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path / "cache"))


def suite(**settings: Any) -> Suite:
    pan = film("pan-1", N)
    target = pan.edit(colour="blue")
    edit = Edit("foreground", "colour", {"colour": "blue"}, target.caption, target)
    return Suite("tiny", (Case("pan-1", "pan", pan, (edit,), "", 3),), 2, {**FEW, **settings})


def test_all_is_every_system_and_reference() -> None:
    names = [method.name for method in choose("all")]
    assert names == [*REFERENCES, *COMPARED, "adaflow"] and set(PEERS) <= set(names)
    assert not set(names) & set(variants()) and len(choose("everything")) == len(names) + len(variants())


@pytest.mark.usefixtures("plain_figures")
def test_all_of_them_in_one_table(pipe: AdaFlowPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    done = Evaluation(suite(), choose("all"), out, pipe).run()
    assert list(done.not_run) == ["rave"] and done.not_run["rave"].startswith("on any video: rave takes the structure")
    rows = {row.method: row for row in load_rows(out)}
    assert set(rows) == {method.name for method in choose("all")} - {"rave"}
    together = {name: row.value("at_once") for name, row in rows.items()}
    joint = ("full", "uniform", "limited", "no-propagation", "masked", "found", "vidtome", "adaflow")
    whole = {name: float(N) for name in joint}
    keyed = {"rerender-lite": float(N), "fresco-lite": float(N)}
    chunked = {"tokenflow": 4.0, "rave-pnp": 4.0, "flatten": 4.0, "vidtome": 4.0}  # the suite's chunks
    assert together == {"source": None, "vae": None, "frame1": None, "pnp": 1.0} | whole | keyed | chunked
    for row in rows.values():
        if row.value("seconds") is not None:
            assert row.value("minutes") == pytest.approx(row.value("seconds") / 60)
    text = (out / "table.md").read_text()
    table = text.split(f"## {TABLE_1}\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert "minutes / video ↓" in lines[0] and "peak memory (MB) ↓" in lines[0]
    assert "in one inference (frames) ↑" in lines[0] and len(lines) == 2 + len(rows) + 1
    named = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]}
    assert named["TokenFlow"][-1] == "4" and named["AdaFlow"][-1] == "**8**" and named["RAVE not run"][-1] == "–"
    assert float(named["AdaFlow"][-2].strip("*").replace(",", "")) > 0
    assert TABLE_1 in (out / "index.html").read_text()


@pytest.mark.usefixtures("plain_figures")
def test_with_a_controlnet_rave_is_run_like_the_others(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    net = {"peers.controlnet": controlnet(pipe.backbone, tmp_path), "peers.control": "canny"}
    done = Evaluation(suite(**net), choose("rave"), tmp_path / "out", pipe).run()
    (row,) = load_rows(tmp_path / "out")
    assert not done.not_run and row.method == "rave" and row.settings["peers.controlnet"] == net["peers.controlnet"]
    assert {"encode", "match", "invert", "edit", "decode"} <= set(row.stages)
    operations = row.value("tflop")
    done = Evaluation(suite(**net), choose("rave-pnp"), tmp_path / "other", pipe).run()
    (plain,) = load_rows(tmp_path / "other")
    pictures, steps, inversion = 2, 2, 2 * N
    assert row.value("unet_rows") == inversion + steps * pictures * 2  # no source branch
    assert plain.value("unet_rows") == inversion + pictures * (3 + 2)
    per_row = [r.value("tflop") / r.value("unet_rows") for r in (row, plain)]  # type: ignore[operator]
    assert operations and per_row[0] > per_row[1]  # the ControlNet's operations are counted


def some(method: str, case: str, **values: float) -> Row:
    return Row(method, method, "s", case, "pan", "style", "style", 40, values=values)


def test_the_longest_is_the_longest_and_no_mean() -> None:
    rows = [some("a", f"v{i}", at_once=n, psnr=p) for i, (n, p) in enumerate([(96, 20.0), (1000, 10.0), (96, 12.0)])]
    found = most(rows, "at_once")
    assert found and found.mean == 1000 and not found.known and most(rows, "fq") is None
    columns = [c for c in BLOCKS[TABLE_1] if c.name in ("psnr", "at_once")]
    table = means_table([("a", rows)], columns)
    assert [cell.text for cell in table.lines[0]] == ["a", "14.00", "1,000"]


def test_table_1_has_the_papers_columns_and_ours() -> None:
    """Of real videos; intervals from six videos on."""
    names = [column.name for column in REAL_BLOCKS[TABLE_1]]
    assert names[:4] == ["fq", "vq", "oc", "sc"] and names[-3:] == ["minutes", "peak_mb", "at_once"]
    rows = [
        replace(some(m, f"v{i}", fq=5 + i / 10, minutes=2.0 + i, at_once=40 + i), motion="real")
        for m in ("adaflow", "tokenflow")
        for i in range(7)
    ]
    table = main_tables(rows, load_run(Path("nowhere"), rows))[TABLE_1]
    by_name = dict(zip(names, table.lines[0][1:], strict=True))
    assert by_name["fq"].text == "5.30" and by_name["fq"].small.startswith("[5.")
    assert by_name["minutes"].small and by_name["at_once"].text == "46" and not by_name["at_once"].small
    assert f"## {TABLE_1}" in table_md(rows, load_run(Path("nowhere"), rows))


def test_the_suites_of_the_issue_have_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from adaflow.longv_eval.suites import suite as of_name

    assert of_name("miniature") == of_name("report")
    with pytest.raises(SystemExit) as end:
        main(["eval", "run", "--suite", "longv-eval", "--out", str(tmp_path / "out"), "--methods", "all"])
    said = capsys.readouterr().err
    assert end.value.code == 3 and "adaflow eval index" in said and "--hub zhangsh2001/LongV-EVAL" in said


def test_the_command_runs_all(
    pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`adaflow eval run`, with a smaller suite in the place of `ci`."""
    monkeypatch.setattr("adaflow.eval_commands.suite", lambda name: suite())
    monkeypatch.setattr("adaflow.eval_commands.load", lambda name: pipe)
    names = "source,rave"
    main(["eval", "run", "--suite", "ci", "--methods", names, "--out", str(tmp_path / "out"), "--json"])
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["made"] == 1 and list(document["not_run"]) == ["rave"] and "note: rave is not run" in said.err
