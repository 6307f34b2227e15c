"""Every edit and inspection has its page of figures, which never costs anything else: no result, and no other file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import tiny_pipeline
from video_files import make

from adaflow import AdaFlowPipeline
from adaflow.cli import main
from adaflow.report import kind_of, write_report

SMALL = ["--steps", "2", "--height", "32"]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


@pytest.fixture
def command(
    pipe: AdaFlowPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plain_figures: None,
) -> Command:
    """The command line, in a folder that holds in.mp4: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(AdaFlowPipeline, "from_pretrained", lambda name: pipe)
    make(tmp_path / "in.mp4", n=3)

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            main([*map(str, words), *SMALL])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


def pages(folder: Path) -> dict[str, str | None]:
    return {str(p.relative_to(folder)): kind_of(p) for p in sorted(folder.rglob("*.html"))}


# -- the usual place --------------------------------------------------------------------------------------------------


def test_an_edit_has_its_page_beside_the_output(command: Command, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for out, page in (("sub/a.mp4", "sub/a.report.html"), ("b.c.mkv", "b.c.report.html")):
        assert command("edit", "in.mp4", "a car", "-o", out)[:2] == (0, f"{out}\n{page}\n")
    code, out, _ = command("edit", "in.mp4", "a red car", "-o", "b.c.mkv", "--json")  # in the former one's place
    assert (code, json.loads(out)["report"]) == (0, "b.c.report.html")
    assert "AdaFlow: a red car" in (tmp_path / "b.c.report.html").read_text()
    assert pages(tmp_path) == {"b.c.report.html": "edit", "sub/a.report.html": "edit"}


def test_an_inspection_has_its_page_beside_the_video(command: Command, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    shutil.copy(tmp_path / "in.mp4", tmp_path / "sub" / "v.mp4")
    for _ in range(2):
        code, out, _ = command("inspect", "sub/v.mp4")
        assert code == 0 and out.endswith("\nfigures: sub/v.report.html\n")
    assert json.loads(command("inspect", "sub/v.mp4", "--json")[1])["report"] == "sub/v.report.html"
    assert pages(tmp_path) == {"sub/v.report.html": "inspect"}


def test_there_is_none_where_none_is_wanted(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaflow.commands.evidence", lambda *_, **__: pytest.fail("nothing needs it"))
    code, out, err = command("edit", "in.mp4", "a car", "-o", "a.mp4", "--no-report")
    assert (code, out) == (0, "a.mp4\n") and "report" not in err
    assert json.loads(command("inspect", "in.mp4", "--no-report", "--json")[1])["report"] is None
    assert pages(tmp_path) == {}
    code, out, err = command("inspect", "in.mp4", "--no-report", "--report", "a.html")
    assert (code, out) == (2, "") and "--report and --no-report cannot both hold" in err


@pytest.mark.parametrize("words", [["edit", "in.mp4", "a car", "-o", "in2.mp4"], ["inspect", "in.mp4"]])
def test_what_is_no_report_of_ours_is_left_and_that_is_said(words: list[str], command: Command, tmp_path: Path) -> None:
    own = tmp_path / ("in2.report.html" if words[0] == "edit" else "in.report.html")
    own.write_text("<title>my own page about AdaFlow</title>")
    code, out, err = command(*words)
    assert code == 0 and "report.html" not in out and own.read_text().startswith("<title>my own")
    [note] = [line for line in err.splitlines() if line.startswith("note: ")]
    assert f"{own.name} is there, and is no report of adaflow's, so it is left alone" in note
    assert json.loads(command(*words, "--json")[1])["report"] is None
    assert command(*words, "--report", own.name)[:2] == (2, "")  # and where it is asked for, before any work
    assert own.read_text().startswith("<title>my own")


def test_a_look_at_an_edit_does_not_take_the_place_of_its_report(command: Command, tmp_path: Path) -> None:
    command("edit", "in.mp4", "a car", "-o", "out.mp4")
    code, out, err = command("inspect", "out.mp4")
    assert code == 0 and out.startswith("3 frames") and "out.report.html is the report of an edit" in err
    assert pages(tmp_path) == {"out.report.html": "edit"}
    assert command("inspect", "out.mp4", "--report", "look.html")[0] == 0
    assert command("edit", "in.mp4", "a car", "-o", "look.mp4", "--report", "look.html")[0] == 0
    assert pages(tmp_path) == {"look.html": "edit", "out.report.html": "edit"}


def test_a_video_in_a_folder_that_cannot_be_written_is_inspected(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    shutil.copy(tmp_path / "in.mp4", tmp_path / "locked" / "v.mp4")
    access = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place).name != "locked" and access(place, mode))
    code, out, err = command("inspect", "locked/v.mp4")
    assert code == 0 and "an edit will take about" in out and "figures" not in out
    assert [line for line in err.splitlines() if line.startswith("note: ")] == [
        "note: the look at the video is done, but not its report: the folder locked is not writable; choose another, "
        "or change its permissions"
    ]
    assert command("inspect", "locked/v.mp4", "--report", "here.html")[0] == 0
    assert pages(tmp_path) == {"here.html": "inspect"}


def test_a_name_that_is_nearly_too_long_is_one(command: Command, tmp_path: Path) -> None:
    """Names have 255 bytes; the output's fits, and its report's does or does not."""
    for length, fits in ((241, True), (242, False)):
        out = "x" * (length - 4) + ".mp4"
        code, said, err = command("edit", "in.mp4", "a car", "-o", out)
        assert code == 0 and said.splitlines()[0] == out and (tmp_path / out).is_file(), err
        assert len(said.splitlines()) == 1 + fits and ("is too long for a file" in err) != fits
    for words in (["edit", "in.mp4", "a car"], ["preview", "in.mp4", "a car"]):
        out = "x" * 246 + (".mp4" if words[0] == "edit" else ".png")
        code, said, err = command(*words, "-o", out)
        assert (code, said) == (2, "") and "the name xxx" in err and "is too long for a file" in err


# -- a place that is asked for ----------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, str]] = {
    "missing folder": ("no/page.html", "there is no folder no; make it first"),
    "a folder": ("folder.html", "folder.html must be a file whose name ends in .html"),
    "another suffix": ("page.txt", "page.txt must be a file whose name ends in .html"),
    "the video": ("in.mp4", "in.mp4 must be a file whose name ends in .html"),
    "the output": ("out.mp4", "out.mp4 must be a file whose name ends in .html"),
    "not to be written": ("/proc/page.html", "the folder /proc"),
    "a video of that name": ("video.html", "video.html is there, and is no report of adaflow's"),
    "an empty file": ("empty.html", "empty.html is there, and is no report"),
    "too long": ("x" * 300 + ".html", "is too long for a file"),
}


@pytest.mark.parametrize("words", [["edit", "in.mp4", "a car", "-o", "out.mp4"], ["inspect", "in.mp4"]])
@pytest.mark.parametrize("kind", WRONG)
def test_a_place_that_is_none_is_refused_before_any_work(
    kind: str, words: list[str], command: Command, tmp_path: Path
) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "empty.html").touch()
    shutil.copy(tmp_path / "in.mp4", tmp_path / "video.html")
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    place, said = WRONG[kind]
    code, out, err = command(*words, "--report", place)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("adaflow: ") and said in err
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


# -- what goes wrong after the edit -----------------------------------------------------------------------------------


def fail(error: BaseException) -> Callable[..., Any]:
    def failing(*_: object, **__: object) -> None:
        raise error

    return failing


BROKEN: dict[str, tuple[str, BaseException, int, str]] = {
    "drawing": ("reports.edit_report", ZeroDivisionError("a\nb"), 2, "could not be drawn (ZeroDivisionError: a b)"),
    "evidence": ("commands.evidence", KeyError("x"), 2, "could not be drawn (KeyError: 'x')"),
    "disk": ("report._write", OSError(28, "No space left on device"), 4, "cannot be written"),
    "rights": ("report._write", PermissionError(13, "Permission denied"), 2, "Permission denied"),
    "memory": ("reports.edit_report", MemoryError(), 4, "the memory ran out"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_no_figure_costs_an_edit(kind: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is saved and named; a page that was asked for and is not there is a failure, another one a note."""
    where, error, failed, words = BROKEN[kind]
    monkeypatch.setattr(f"adaflow.{where}", fail(error))
    code, out, err = command("edit", "in.mp4", "a car", "-o", "a.mp4")
    assert (code, out) == (0, "a.mp4\n") and (tmp_path / "a.mp4").stat().st_size > 0
    assert err.splitlines()[-1].startswith("note: the edit a.mp4 is done, but not its report: ") and words in err
    code, out, err = command("edit", "in.mp4", "a car", "-o", "b.mp4", "--report", "b.html", "--json")
    assert code == failed and (tmp_path / "b.mp4").read_bytes() == (tmp_path / "a.mp4").read_bytes()
    assert json.loads(out)["output"] == "b.mp4" and json.loads(out)["report"] is None
    assert err.splitlines()[-1].startswith("adaflow: the edit b.mp4 is done, but not its report: ") and words in err
    assert "Traceback" not in err and pages(tmp_path) == {}


def test_an_interrupt_while_figures_are_drawn_leaves_the_edit(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("adaflow.reports.edit_report", fail(KeyboardInterrupt()))
        code, _, err = command("edit", "in.mp4", "a car", "-o", "a.mp4")
    assert code == 130 and err.splitlines()[-1].startswith("adaflow: interrupted")
    assert (tmp_path / "a.mp4").is_file() and pages(tmp_path) == {}
    assert command("edit", "in.mp4", "a car", "-o", "a.mp4")[0] == 0 and pages(tmp_path) == {"a.report.html": "edit"}


# -- whose page it is -------------------------------------------------------------------------------------------------


def test_a_page_says_what_kind_it_is_and_nothing_in_it_says_another(tmp_path: Path) -> None:
    title = '</title><meta name="generator" content="AdaFlow, inspect">'
    for kind in ("edit", "inspect", "page"):
        assert kind_of(write_report(tmp_path / f"{kind}.html", title * 50, [], kind)) == kind  # type: ignore[arg-type]
    (tmp_path / "other.html").write_text(f"<html><p>{title.replace('<', '&lt;')}")
    assert kind_of(tmp_path / "other.html") is kind_of(tmp_path / "no.html") is kind_of(tmp_path) is None
