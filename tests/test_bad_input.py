"""What users get wrong, and what a machine lacks: one sentence, its exit code, and nothing half-written."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from models import save_tiny, tiny_pipeline
from video_files import Sound, make

from adaflow import AdaFlowPipeline, Cancelled, EditConfig, Progress
from adaflow.cli import main
from adaflow.errors import AdaFlowError
from adaflow.meter import Meter

SMALL = ["--steps", "2", "--height", "32"]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("videos") / "good.mp4", n=6)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The output, in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "edited.mp4"


Adaflow = Callable[..., Outcome]
_kept: dict[str, AdaFlowPipeline] = {}


def _loaded(load: Callable[[str], AdaFlowPipeline], name: str) -> AdaFlowPipeline:
    """The good models once, the others as often as they are asked for."""
    if name.endswith("/tiny") or name == "miniature":
        return _kept[name] if name in _kept else _kept.setdefault(name, load(name))
    return load(name)


@pytest.fixture
def adaflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Adaflow:
    """The command line, in this process."""
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path / "cache"))
    load = AdaFlowPipeline.from_pretrained
    monkeypatch.setattr(AdaFlowPipeline, "from_pretrained", lambda name: _loaded(load, name))

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def edit(adaflow: Adaflow, model: Path, good: Path, out: Path) -> Adaflow:
    """`adaflow edit` with what a test leaves open filled in."""

    def run(
        *more: object, video: Path = good, prompt: str = "a blue car", to: Path = out, by: Path | str = model
    ) -> Outcome:
        figures = [] if "--report" in more else ["--no-report"]
        return adaflow("edit", "-o", to, "--model", by, *figures, *SMALL, *more, "--", video, prompt)

    return run


def files(*folders: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for folder in folders for p in folder.rglob("*") if p.is_file()}


def assert_refused(outcome: Outcome, code: int, *words: str) -> None:
    """The exit code, and one sentence as the last line on stderr, which holds these words."""
    lines = outcome.err.splitlines()
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert [line for line in lines if line.startswith("adaflow: ")] == lines[-1:]
    assert "Traceback" not in outcome.err and "Error:" not in outcome.err
    assert 20 < len(lines[-1]) < 600 and not lines[-1].endswith((".", " "))
    for word in words:
        assert word in lines[-1]


def assert_done(outcome: Outcome, out: Path, frames: int = 6) -> None:
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"{out}\n"
    assert "adaflow: " not in outcome.err and "Traceback" not in outcome.err
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames
    assert [p.name for p in out.parent.iterdir()] == [out.name]


# -- videos -----------------------------------------------------------------------------------------------------------


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100 * 2), np.int16), format="s16", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _no_frames(path: Path) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        container.start_encoding()


def _truncated(path: Path) -> None:
    data = make(path, muxer={"movflags": "+faststart"}).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def _headless(path: Path) -> None:
    data = make(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _garbled(path: Path) -> None:
    data = bytearray(make(path, muxer={"movflags": "+faststart"}).read_bytes())
    data[len(data) // 2 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) // 2)
    path.write_bytes(data)


VIDEOS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, "there is no file"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.touch(), "is empty"),
    "text": (lambda path: path.write_text("not a video\n" * 99), "is not a video"),
    "a playlist": (lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), "is not a video"),
    "cut off": (_truncated, "is cut off"),
    "cut off before its index": (_headless, "is not a video"),
    "damaged": (_garbled, "export or download it again"),
    "sound only": (_sound_only, "holds no picture"),
    "without frames": (_no_frames, "is not a video"),
    "a text file for another": (lambda path: path.write_bytes(bytes(5000)), "is not a video"),
}


@pytest.mark.parametrize("command", ["edit", "inspect"])
@pytest.mark.parametrize("kind", VIDEOS)
def test_what_is_no_video_is_refused(
    kind: str, command: str, adaflow: Adaflow, model: Path, tmp_path: Path, out: Path
) -> None:
    write, words = VIDEOS[kind]
    video = tmp_path / "bad.mp4"
    write(video)
    before = files(tmp_path)
    arguments = ["a blue car", "-o", out] if command == "edit" else []
    outcome = adaflow(command, video, *arguments, "--model", model, *SMALL)
    assert_refused(outcome, 2, "bad.mp4", words)
    assert files(tmp_path) == before


@pytest.mark.parametrize("n", [1, 2])
def test_a_video_of_one_frame_is_edited(n: int, edit: Adaflow, tmp_path: Path, out: Path) -> None:
    assert_done(edit(video=make(tmp_path / "short.mp4", n=n)), out, frames=n)


def test_a_video_of_one_pixel_is_edited(edit: Adaflow, tmp_path: Path, out: Path) -> None:
    assert_done(edit(video=make(tmp_path / "tiny.mkv", codec="ffv1", size=(1, 1))), out, frames=12)


def test_a_name_with_spaces_marks_and_a_leading_dash_is_a_name(edit: Adaflow, tmp_path: Path, out: Path) -> None:
    odd = out.with_name("-o [bold] :car: ünï 视频.mp4")
    assert_done(edit(video=make(tmp_path / "-v [red] :x: 视频.mp4", n=2), to=odd), odd, frames=2)


def test_sound_that_the_format_cannot_hold_is_refused_before_any_work(edit: Adaflow, tmp_path: Path, out: Path) -> None:
    video = make(tmp_path / "pcm.mkv", sounds=[Sound(codec="pcm_s16le")], n=6)
    assert_refused(edit(video=video), 2, "pcm_s16le", ".mp4", "audio")
    assert not (tmp_path / "cache").exists()
    assert_done(edit("--output.audio", "none", video=video), out)
    out.unlink()
    assert_done(edit("--output.audio", "aac", video=video), out)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (["--height", "100000"], "height is 100000; it must be between 0 and 8192"),
        (["--height", "-8"], "height is -8; it must be between"),
        (["--height", "8192"], "too large to edit"),
        (["--height", "4", "--width", "8192"], "too large to edit"),
    ],
)
def test_absurd_sizes_are_refused(size: list[str], words: str, edit: Adaflow, out: Path) -> None:
    assert_refused(edit(*size), 2, words)
    assert not out.exists()


def test_more_memory_than_there_is_is_refused_before_any_work(
    edit: Adaflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaflow.estimate.memory_bytes", lambda run, clips: (10**15, 0))
    assert_refused(edit(), 4, "of memory", "are free", "lower --height")
    assert not list((tmp_path / "out").iterdir())


# -- models -----------------------------------------------------------------------------------------------------------


def _without(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


def _file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def _no_weights(folder: Path) -> None:
    next((folder / "unet").glob("*.safetensors")).unlink()


def _pickled(folder: Path) -> None:
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))


def _corrupted(folder: Path) -> None:
    weights = next((folder / "unet").glob("*.safetensors"))
    weights.write_bytes(b"\x10" + bytes(7) + b"not json at all!" + bytes(999))


def _cut_weights(folder: Path) -> None:
    weights = next((folder / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])


def _index(**changes: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        index = folder / "model_index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | changes))

    return change


def _zero_snr(folder: Path) -> None:
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rescale_betas_zero_snr": True}))


MODELS: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "no model": (lambda folder: (folder / "model_index.json").unlink(), 2, "it has no model_index.json"),
    "an index that is no JSON": (lambda folder: (folder / "model_index.json").write_text("{"), 2, "cannot be read"),
    "an index that is a list": (lambda folder: (folder / "model_index.json").write_text("[]"), 2, "model_index.json"),
    "another kind of model": (_index(_class_name="FluxPipeline"), 2, "holds a FluxPipeline"),
    "SDXL": (_index(_class_name="StableDiffusionXLPipeline"), 2, "StableDiffusionXLPipeline"),
    "no weights": (_no_weights, 3, "unet has no weights"),
    "no UNet": (_without("unet"), 3, "unet has no weights"),
    "no tokenizer": (_without("tokenizer"), 3, "its tokenizer is missing"),
    "no scheduler": (_without("scheduler"), 3, "its scheduler is missing"),
    "pickled weights": (_pickled, 3, "only pickled weights"),
    "corrupted weights": (_corrupted, 3, "could not be loaded"),
    "weights cut off": (_cut_weights, 3, "could not be loaded"),
    "a broken config": (lambda folder: (folder / "unet" / "config.json").write_text("{"), 3, "could not be loaded"),
    "zero terminal SNR": (_zero_snr, 2, "zero terminal SNR"),
    "a file": (_file, 2, "is a file"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_folder_that_is_no_such_model_is_refused(
    kind: str, edit: Adaflow, model: Path, tmp_path: Path, out: Path
) -> None:
    change, code, words = MODELS[kind]
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    change(folder)
    assert_refused(edit(by=folder), code, str(folder), words)
    assert not files(out.parent)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sd99", ["there is no model 'sd99'", "miniature, sd21, sd15"]),
        ("sd21", ["could not be loaded", "adaflow models get sd21"]),
        ("nobody/nothing", ["could not be loaded", "adaflow models get nobody/nothing"]),
        ("./no/such/folder", ["there is no folder ./no/such/folder"]),
        ("/no/such/folder", ["there is no folder /no/such/folder"]),
        ("bad name!/x", ["bad name!/x"]),
    ],
)
def test_a_model_that_is_not_here_is_named_with_the_way_to_it(name: str, words: list[str], edit: Adaflow) -> None:
    assert_refused(edit(by=name), 3, *words)


def test_a_model_that_cannot_be_fetched_is_named(adaflow: Adaflow) -> None:
    assert_refused(adaflow("models", "get", "nobody/nothing"), 3, "nobody/nothing could not be fetched")
    assert_refused(adaflow("models", "get", "sd99"), 3, "there is no model 'sd99'", "adaflow models list")


# -- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
@pytest.mark.parametrize("command", ["edit", "preview"])
def test_an_empty_prompt_is_refused_before_any_work(
    prompt: str, command: str, adaflow: Adaflow, model: Path, good: Path, tmp_path: Path
) -> None:
    to = tmp_path / ("x.mp4" if command == "edit" else "x.png")
    assert_refused(adaflow(command, good, prompt, "-o", to, "--model", model, *SMALL), 2, "the prompt is empty; say")
    assert not files(tmp_path)


def test_a_prompt_may_start_with_a_dash_behind_two_dashes(
    edit: Adaflow, adaflow: Adaflow, good: Path, out: Path
) -> None:
    assert_done(edit(prompt="-- -blue car"), out)
    assert_refused(adaflow("edit", good, "-blue car"), 2, "needs PROMPT", "goes last, after --")


def test_what_is_cut_from_a_long_prompt_is_said(edit: Adaflow, out: Path) -> None:
    outcome = edit(prompt="a blue car " * 40 + "on the snow")
    assert_done(outcome, out)
    notes = [line for line in outcome.err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert "the prompt is longer than the model reads" in notes[0] and notes[0].endswith("on the snow'")


def test_the_miniature_refuses_a_prompt_of_which_it_knows_no_word(edit: Adaflow, tmp_path: Path) -> None:
    assert_refused(edit(by="miniature", prompt="quixotic zeppelins"), 2, "knows no word of this prompt; it knows: ")
    assert not (tmp_path / "cache").exists()


def test_the_miniature_names_an_unknown_word_and_the_nearest_that_it_knows(edit: Adaflow, out: Path) -> None:
    outcome = edit("--steps", "1", by="miniature", prompt="a bluee car")
    assert_done(outcome, out)
    assert "note: the miniature does not know the word 'bluee' (did you mean blue" in outcome.err


# -- the output -------------------------------------------------------------------------------------------------------


def _not_a_folder(path: Path) -> Path:
    path.write_text("a file")
    return path / "edited.mp4"


OUTPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "in no folder": (lambda place: place / "nowhere" / "edited.mp4", "there is no folder"),
    "under a file": (lambda place: _not_a_folder(place / "file"), "there is no folder"),
    "where nothing can be written": (lambda place: Path("/proc/edited.mp4"), "/proc"),
    "of an unknown format": (lambda place: place / "edited.xyz", "choose one of .mp4"),
    "of no format": (lambda place: place / "edited", "choose one of .mp4"),
    "a folder": (lambda place: place, "is a folder"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_that_cannot_be_is_refused_before_any_work(
    kind: str, edit: Adaflow, out: Path, tmp_path: Path
) -> None:
    choose, words = OUTPUTS[kind]
    to = choose(out.parent)
    before = files(tmp_path)
    assert_refused(edit(to=to), 2, words)
    assert files(tmp_path) == before


def test_the_source_is_never_overwritten(edit: Adaflow, good: Path, tmp_path: Path) -> None:
    video = Path(shutil.copy(good, tmp_path))
    link = tmp_path / "link.mp4"
    link.symlink_to(video)
    for to in (video, link, tmp_path / "out" / ".." / video.name):
        assert_refused(edit(video=video, to=to), 2, "is the source itself")
    assert video.read_bytes() == good.read_bytes()


def test_an_older_output_stays_until_the_new_one_is_whole(
    edit: Adaflow, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.write_bytes(b"older")
    interrupt(monkeypatch, "write")
    assert_refused(edit(), 130, "interrupted")
    assert files(out.parent) == {out: b"older"}
    assert_done(edit(), out)


@pytest.mark.parametrize("page", ["x.txt", "/nowhere/x.html", "/proc"])
def test_a_report_that_cannot_be_written_is_refused_before_any_work(page: str, edit: Adaflow, tmp_path: Path) -> None:
    assert_refused(edit("--report", page), 2, page.removesuffix("/x.html"))
    assert not files(tmp_path)


def test_a_preview_is_one_picture(adaflow: Adaflow, good: Path, model: Path, tmp_path: Path) -> None:
    for to in ("x.mp4", "nowhere/x.png"):
        assert_refused(
            adaflow("preview", good, "a car", "-o", tmp_path / to, "--model", model, *SMALL), 2, str(tmp_path)
        )
    assert not files(tmp_path)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does to those who write."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_full_disk_ends_the_work_and_the_same_command_resumes_it(edit: Adaflow, out: Path, tmp_path: Path) -> None:
    with largest_file(3000):
        assert_refused(edit(), 4, "the same command")
    assert not files(out.parent)
    assert_done(edit(), out)


def test_a_disk_that_is_full_at_the_last_leaves_no_half_video(edit: Adaflow, out: Path, tmp_path: Path) -> None:
    assert_done(edit("--output.metadata"), out)
    whole = out.read_bytes()
    out.unlink()
    with largest_file(len(whole) - 1):
        assert_refused(edit(), 4, "the disk is full", "nothing of it is left")
    assert not files(out.parent)
    assert_done(edit(), out)
    assert out.read_bytes() == whole


# -- settings ---------------------------------------------------------------------------------------------------------

FILES = {
    "an unknown name": ("stepz: 3", "there is no setting 'stepz'; did you mean 'steps'?"),
    "a bad value": ("steps: many", "steps is 'many'; it must be of type int"),
    "a value out of bounds": ("guidance_scale: 0", "guidance_scale is 0.0; it must be between 1.0 and 50"),
    "a bad choice": ("output: {audio: mp3}", "output.audio is 'mp3'; it must be one of copy, aac, none"),
    "no YAML": ("steps: [", "is not valid YAML"),
    "a list": ("- steps", "must hold 'name: value' lines"),
    "contradictions": ("steps: 4\ninversion_steps: 6", "not a multiple of steps"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_settings_file_that_cannot_be_used_is_refused(
    kind: str, adaflow: Adaflow, good: Path, model: Path, tmp_path: Path
) -> None:
    text, words = FILES[kind]
    file = tmp_path / "edit.yaml"
    file.write_text(text)
    assert_refused(adaflow("edit", good, "a car", "--model", model, "--config", file), 2, words)
    assert files(tmp_path) == {file: text.encode()}


def test_a_settings_file_that_is_missing_is_named(edit: Adaflow, tmp_path: Path) -> None:
    assert_refused(edit("--config", tmp_path / "none.yaml"), 2, str(tmp_path / "none.yaml"), "cannot be read")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "colour"], "no settings for kind 'colour'"),
        (["--kind", "color"], "kind is 'color'; it must be one of colour, object, background, style"),
        (["--inversion-steps", "3"], "inversion_steps 3 is not a multiple of steps 2; use "),
        (["--steps", "many"], "--steps is 'many'; it must be a whole number"),
        (["--steps", "1.5"], "--steps is '1.5'; it must be a whole number"),
        (["--guidance-scale", "nan"], "guidance_scale is nan; it must be between"),
        (["--guidance-scale", "strong"], "--guidance-scale is 'strong'; it must be a number"),
        (["--stepps", "3"], "there is no '--stepps'; did you mean '--steps'?"),
        (["--keyframes.windw", "3"], "there is no '--keyframes.windw'; did you mean '--keyframes.window'?"),
        (["--features.block", "7"], "features.block is 7, and this model has 3 decoder blocks"),
        (["--seed"], "--seed"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(options: list[str], words: str, edit: Adaflow, out: Path) -> None:
    assert_refused(edit(*options), 2, words)
    assert not out.exists()


# -- workspaces -------------------------------------------------------------------------------------------------------


@pytest.fixture
def used(edit: Adaflow, tmp_path: Path, out: Path) -> Path:
    """A workspace in which the good video was edited."""
    assert_done(edit("--workspace", tmp_path / "ws"), out)
    out.unlink()
    return tmp_path / "ws"


def test_a_workspace_in_use_is_refused_with_the_process(edit: Adaflow, used: Path, out: Path) -> None:
    hold = "import fcntl, sys, os, socket; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)\n"
    hold += "print(os.getpid(), socket.gethostname(), file=f, flush=True); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(used / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        assert_refused(edit("--workspace", used), 2, str(used), f"in use by another process (PID {other.pid})")
        assert not files(out.parent)
        other.communicate(b"\n")
    assert_done(edit("--workspace", used), out)


def test_a_workspace_of_another_video_is_refused_with_the_difference(
    edit: Adaflow, used: Path, tmp_path: Path, out: Path
) -> None:
    before = files(used / "stages")
    outcome = edit("--workspace", used, video=make(tmp_path / "other.mp4", n=3))
    assert_refused(outcome, 2, "belongs to something else", "frames is 6 there and 3 here", "use another workspace")
    assert files(used / "stages") == before and not files(out.parent)


def test_a_folder_with_other_things_is_no_workspace(edit: Adaflow, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("dear")
    assert_refused(edit("--workspace", folder), 2, "is not empty and is no workspace")
    assert files(folder) == {folder / "thesis.tex": b"dear"}
    assert_refused(edit("--workspace", folder / "thesis.tex"), 2, "is a file")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1}'])
def test_a_workspace_with_a_damaged_manifest_is_refused(text: str, edit: Adaflow, tmp_path: Path, out: Path) -> None:
    root = tmp_path / "ws"
    root.mkdir()
    (root / "manifest.json").write_text(text)
    assert_refused(edit("--workspace", root), 2, str(root), "delete the folder")
    assert (root / "manifest.json").read_text() == text and not files(out.parent)


def test_a_stage_that_lost_a_file_is_begun_anew(edit: Adaflow, used: Path, out: Path) -> None:
    for array in used.glob("stages/*/*.bin"):
        array.unlink()
    assert_done(edit("--workspace", used), out)


# -- interruptions ----------------------------------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Press Ctrl-C once, in the middle of a stage."""
    show = Meter.__call__

    def pressed(self: Meter, progress: Progress) -> None:
        show(self, progress)
        if progress.stage == stage:
            monkeypatch.setattr(Meter, "__call__", show)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Meter, "__call__", pressed)


@pytest.mark.parametrize("stage", ["encode", "features", "invert", "edit", "decode", "write"])
def test_an_interrupted_run_is_resumed_to_the_same_bytes(
    stage: str, edit: Adaflow, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["--run.rows", "2"]
    if "whole" not in _edited:
        assert_done(edit(*rows, "--workspace", tmp_path / "whole"), out)
        _edited["whole"] = out.read_bytes()
        out.unlink()
    interrupt(monkeypatch, stage)
    assert_refused(edit(*rows), 130, "interrupted; the same command goes on where this one stopped")
    assert not files(out.parent)
    assert_done(edit(*rows), out)
    assert out.read_bytes() == _edited["whole"]


_edited: dict[str, bytes] = {}  # by the uninterrupted run


def test_memory_that_runs_out_is_said(edit: Adaflow, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("adaflow.stages.encode", fail)
    assert_refused(edit(), 4, "the memory ran out; lower --height")


# -- the API ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pipe() -> AdaFlowPipeline:
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


def _frames(*sizes: tuple[int, int]) -> list[np.ndarray]:
    return [np.zeros((*size, 3), np.uint8) for size in sizes]


ARRAYS: dict[str, tuple[Any, str]] = {
    "nothing": ([], "empty list of frames"),
    "no frames": (np.zeros((0, 8, 8, 3), np.uint8), "empty list of frames"),
    "several sizes": (_frames((8, 8), (8, 12)), "several shapes"),
    "grey": (np.zeros((2, 8, 8), np.uint8), "frame 0 has shape"),
    "with alpha": (np.zeros((2, 8, 8, 4), np.uint8), "frame 0 has shape"),
    "floats beyond one": (np.full((2, 8, 8, 3), 2.0), "outside [0, 1]"),
    "undefined floats": (np.full((2, 8, 8, 3), np.nan), "outside [0, 1]"),
    "long integers": (np.zeros((2, 8, 8, 3), np.int64), "frame 0 is int64"),
    "no pixels": (np.zeros((2, 0, 8, 3), np.uint8), "frame 0 has shape"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_are_no_video_are_refused(kind: str, pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    video, words = ARRAYS[kind]
    with pytest.raises(AdaFlowError) as raised:
        pipe(video, "a blue car", config=EditConfig(steps=1, height=32), workspace=tmp_path / "ws")
    assert words in str(raised.value) and raised.value.exit_code == 2
    assert not files(tmp_path)


def test_floats_are_the_same_video_as_bytes(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    settings = EditConfig(steps=1, height=32)
    one = pipe(video, "a blue car", config=settings, workspace=tmp_path / "a")
    two = pipe(video.astype(np.float32) / 255, "a blue car", config=settings, workspace=tmp_path / "a")
    assert np.array_equal(np.asarray(one.frames), np.asarray(two.frames))


def test_a_cancelled_run_gives_the_workspace_back(pipe: AdaFlowPipeline, good: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "edit":
            raise Cancelled("stopped")

    settings = EditConfig(steps=2, height=32)
    with pytest.raises(Cancelled):
        pipe(good, "a blue car", config=settings, workspace=tmp_path, on_progress=stop)
    assert len(pipe(good, "a blue car", config=settings, workspace=tmp_path).frames) == 6


@pytest.mark.parametrize("words", [["edit", "IN", "a car"], ["inspect", "IN"], ["preview", "IN", "a car"]])
def test_what_is_no_video_is_said_before_torch_is_loaded(words: list[str], tmp_path: Path) -> None:
    """At once, therefore: loading torch and a model takes seconds."""
    words = [str(tmp_path / "missing.mp4") if word == "IN" else word for word in words]
    program = f"""
import sys
from adaflow.cli import main
try:
    main({words})
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == f"adaflow: there is no file {words[1]}; check the path\n"
    assert (done.returncode, done.stdout) == (2, "False\n")
