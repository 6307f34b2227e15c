"""What the figures show beyond an edit's results is what the edit decided; and the pages of a whole run."""

import re
import shlex
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_pipeline
from test_report import Page
from torch import Tensor

from adaflow import AdaFlowPipeline, EditConfig, stages
from adaflow.cards import cards
from adaflow.cli import main
from adaflow.config import KeyframeConfig
from adaflow.evidence import chosen_frames, compare_features, evidence, lowest_window
from adaflow.findings import verdict
from adaflow.keyframes import Partition, partition_with_scores
from adaflow.progress import Progress
from adaflow.spent import OTHER, StageClock
from adaflow.video import open_source, probe, write_video

DOCS = Path(__file__).parents[1] / "docs"
FRAMES = 10
SETTINGS = {
    "steps": 2,
    "height": 32,
    "keyframes.longest_clip": 2,
    "keyframes.mean_threshold": -1.0,
    "keyframes.window_threshold": -1.0,
    "slimming.budget": 2,
}


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    card = cards()["miniature"]
    return AdaFlowPipeline.from_pipe(tiny_pipeline(), replace(card, size=(32, 48), settings={"steps": 2}))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright square that moves over noise."""
    path = tmp_path_factory.mktemp("video") / "in.mp4"
    ground = np.random.default_rng(0).integers(0, 200, (32, 48, 3), dtype=np.uint8)
    frames = [ground.copy() for _ in range(FRAMES)]
    for i, frame in enumerate(frames):
        frame[8:20, 3 * i : 3 * i + 12] = 255
    write_video(path, frames, fps=10)
    return path


def cosines(a: Tensor, b: Tensor) -> np.ndarray:
    """Of all places `[h, w, d]` of one frame with all of another, in float64."""
    one, other = (x.double().flatten(0, 1).numpy() for x in (a, b))
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    return one @ other.T


def stored(pipe: AdaFlowPipeline, video: Path, folder: Path) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Features of all frames, the keyframes drawn, and the finest grid with attention, as the workspace has them."""
    with pipe.opened(open_source(video), pipe.resolve(EditConfig.from_fields(SETTINGS)), folder) as run:
        features = stages.extract_features(run, stages.encode(run))
        clips, _, partitioned = stages.partition(run, features)
        drawn, _ = stages.draw_keyframes(run, clips, features, partitioned)
        return features.existing("features").read(0, FRAMES), drawn, stages.attention_grids(run)[0]


def test_kept_tokens_are_those_of_a_brute_force(pipe: AdaFlowPipeline, video: Path, tmp_path: Path) -> None:
    """Each keyframe keeps its own tokens, and of the others those with the most similar match in it."""
    found = evidence(pipe, video, config=EditConfig.from_fields(SETTINGS), workspace=tmp_path / "ws")
    kept = found.kept
    assert kept is not None and kept.budget == 2 and kept.step == 0
    features, drawn, grid = stored(pipe, video, tmp_path / "ws")
    assert list(kept.keys) == drawn[0].tolist() and kept.grid == grid
    keys, tokens = list(kept.keys), grid[0] * grid[1]
    assert kept.kept.shape == (5, 2 * tokens)
    small = torch.nn.functional.interpolate(
        features[keys].float().permute(0, 3, 1, 2), grid, mode="bilinear", align_corners=False, antialias=True
    ).permute(0, 2, 3, 1) if features.shape[1:3] != grid else features[keys]  # fmt: skip
    for i in range(5):
        heat = np.stack([cosines(small[j], small[i]).max(axis=1) for j in range(5)])
        heat[i] = np.inf
        mine = set(kept.kept[i].tolist())
        last = np.sort(heat.flatten())[::-1][2 * tokens - 1]
        surely = {t for t, h in enumerate(heat.flatten()) if h > last + 1e-5}
        possibly = {t for t, h in enumerate(heat.flatten()) if h >= last - 1e-5}
        assert surely <= mine <= possibly
        assert set(range(i * tokens, (i + 1) * tokens)) <= mine


def test_another_step_has_its_own_keyframes(pipe: AdaFlowPipeline, video: Path, tmp_path: Path) -> None:
    config = EditConfig.from_fields(SETTINGS)
    second = evidence(pipe, video, config=config, workspace=tmp_path / "ws", step=1)
    _, drawn, _ = stored(pipe, video, tmp_path / "ws")
    assert second.kept is not None and list(second.kept.keys) == drawn[1].tolist()


@pytest.mark.parametrize("budget", [0, 5, 14])
def test_where_nothing_is_left_out_there_is_nothing_to_show(
    pipe: AdaFlowPipeline, video: Path, tmp_path: Path, budget: int
) -> None:
    config = EditConfig.from_fields(SETTINGS | {"slimming.budget": budget})
    assert evidence(pipe, video, config=config, workspace=tmp_path / "ws").kept is None


def test_heatmaps_are_those_of_a_float64_reference(pipe: AdaFlowPipeline, video: Path, tmp_path: Path) -> None:
    found = evidence(pipe, video, config=EditConfig.from_fields(SETTINGS), workspace=tmp_path / "ws")
    features, _, _ = stored(pipe, video, tmp_path / "ws")
    assert found.compared and not any(one.back for row in found.compared for one in row)
    for row in found.compared:
        for one in row:
            wanted = cosines(features[one.first], features[one.frame]).max(axis=1)
            assert np.abs(one.heatmap.numpy().flatten() - wanted).max() < 1e-5
            assert abs(one.mean - wanted.mean()) < 1e-5


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("rule", ["repaired", "released"])
def test_what_is_shown_is_what_decided(both: bool, rule: str) -> None:
    """Mean and lowest window are the scores that the partition was made with."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, 9, 11, 8, generator=generator)
    config = KeyframeConfig.from_fields(
        {"both_directions": both, "rule": rule, "mean_threshold": -1.0, "window_threshold": -1.0}
    )
    _, scores = partition_with_scores(features, config)
    for j in range(1, 6):
        one = compare_features(features[0], features[j], 0, j, config)
        assert one.lowest == pytest.approx(float(scores[j, 1]), abs=1e-12)
        if not both:
            assert one.mean == pytest.approx(float(scores[j, 0]), abs=1e-12)
        top, left, height, width = one.window
        inside = one.heatmap[top : top + height, left : left + width]
        assert inside.shape == (height, width) and float(inside.double().mean()) == pytest.approx(one.lowest, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "window", "stride"), [((7, 9), 0, 0), ((12, 20), 5, 2), ((2, 9), 3, 1), ((4, 4), 9, 3)]
)
def test_the_lowest_window_is_that_of_a_loop(size: tuple[int, int], window: int, stride: int) -> None:
    heat = torch.rand(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lowest, (top, left, height, width) = lowest_window(heat, window, stride)
    side = window or max(3, max(size) // 16)
    step = stride or max(1, max(size) // 32)
    assert (height, width) == (min(side, size[0]), min(side, size[1]))
    tops = sorted({*range(0, size[0] - height + 1, step), size[0] - height})
    lefts = sorted({*range(0, size[1] - width + 1, step), size[1] - width})
    means = {(y, x): float(heat[y : y + height, x : x + width].mean()) for y in tops for x in lefts}
    assert (top, left) == min(means, key=means.__getitem__) and lowest == pytest.approx(min(means.values()))


def test_the_longest_clip_is_shown_and_those_that_ended_most_clearly() -> None:
    clips = Partition.from_starts([0, 8, 28, 33, 34], 40)
    scores = torch.ones(40, 2)
    scores[8, 1], scores[28, 1], scores[33, 1], scores[34, 1] = 0.5, 0.9, 0.2, 0.1
    assert chosen_frames(clips, scores, 2) == [(8, [13, 18, 23, 28]), (28, [29, 30, 32, 33])]
    assert [first for first, _ in chosen_frames(clips, scores, 3)] == [0, 8, 28]
    assert chosen_frames(clips, scores, 9)[-1][0] == 28  # the last clip did not end; a clip of one has none to compare
    assert chosen_frames(Partition.from_starts([0], 1), torch.ones(1, 2), 2) == []
    assert chosen_frames(Partition.from_starts([0], 3), torch.ones(3, 2), 2) == [(0, [1, 2])]


@pytest.mark.parametrize(
    ("mean", "lowest", "frame", "words"),
    [(0.9, 0.9, 3, "same clip"), (0.7, 0.9, 3, "new clip: mean"), (0.9, 0.5, 3, "new clip: window"),
     (0.7, 0.5, 3, "new clip: mean, window"), (0.9, 0.9, 6, "new clip: longest"), (0.75, 0.6, 5, "same clip")],
)  # fmt: skip
def test_verdicts_are_those_of_the_thresholds(mean: float, lowest: float, frame: int, words: str) -> None:
    one = compare_features(torch.ones(3, 3, 1), torch.ones(3, 3, 1), 0, frame)
    config = KeyframeConfig(longest_clip=6)
    assert verdict(replace(one, mean=mean, lowest=lowest), config) == words


# -- what stages took -------------------------------------------------------------------------------------------------


def test_time_belongs_to_the_stage_that_got_on() -> None:
    told: list[Progress] = []
    with StageClock(told.append) as spent:
        for stage, done, pause in (("encode", 1, 0.06), ("encode", 2, 0.06), ("encode", 2, 0.03), ("edit", 1, 0.1)):
            time.sleep(pause)
            spent(Progress(stage, done, 2))
    assert len(told) == 4 and set(spent.seconds) == {"encode", OTHER, "edit"}
    assert 0.12 <= spent.seconds["encode"] < 0.4 and 0.1 <= spent.seconds["edit"] < 0.4
    assert 0.03 <= spent.seconds[OTHER] < 0.2
    assert all(peak > 10**7 for peak in spent.peak_bytes.values())


# -- whole runs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(pipe: AdaFlowPipeline, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command with the small model, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(AdaFlowPipeline, "from_pretrained", lambda name: pipe)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    return lambda *words: main([*map(str, words), *options])


def asked_of_others(page: Page) -> list[str]:
    return [url for url in page.asked if not url.startswith("data:")]


def test_an_edit_writes_a_page_with_all_figures_and_is_not_changed(command: Any, video: Path, tmp_path: Path) -> None:
    """Even where the workspace is to keep nothing."""
    command("edit", video, "a red square", "-o", "plain.mp4", "--workspace", "one", "--output.no-metadata")
    command(
        "edit", video, "a red square", "-o", "out.mp4", "--workspace", "two", "--output.no-metadata",
        "--report", "report.html", "--compare", "slider", "--output.keep", "none",
    )  # fmt: skip
    assert (tmp_path / "plain.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert asked_of_others(page) == [] and not re.search(r"https?://|url\(|@import", text)
    for heading in ("Before and after", "Clips", "Keyframes", "Temporal dynamics", "Tokens kept", "Time and memory"):
        assert heading in page.text, heading
    assert "data-middles" in text and page.tags.count("video") == 1
    assert "100 %, query" in page.text and "attends to 2 keyframes' worth" in page.text
    assert page.tags.count("picture") == 2 + 2 + 1 + 1  # slices and curves, dynamics, kept tokens, time
    info = probe(tmp_path / "out.slider.mp4")
    assert info.frames == FRAMES and (info.height, info.width) == (32, 48)


def test_inspect_writes_a_page(command: Any, video: Path, tmp_path: Path) -> None:
    command("inspect", video, "--report", "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert asked_of_others(page) == [] and "video" not in page.tags
    for words in ("Clips", "Keyframes", "Temporal dynamics", "Tokens kept", "Time and memory", "an edit will take"):
        assert words in page.text, words
    assert f"frame {FRAMES - 1} of" in page.text or f"-{FRAMES - 1}, 2 frames" in page.text


def test_the_commands_in_the_docs_run_as_written(
    pipe: AdaFlowPipeline, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a small model and fewer frames, in a folder that holds bikes.mp4."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(AdaFlowPipeline, "from_pretrained", lambda name: pipe)
    for kind in ("webp", "svg"):  # the figures themselves are drawn by the tests above
        monkeypatch.setattr(f"adaflow.findings.{kind}", lambda picture: b"<?xml")
    shutil.copy(video, tmp_path / "bikes.mp4")
    docs = (DOCS / "figures.md").read_text()
    commands = re.findall(r"^\$ (adaflow .+)$", docs, re.MULTILINE)
    assert [shlex.split(line)[1] for line in commands] == ["demo", "edit", "inspect"]
    for line in commands:
        main(shlex.split(re.sub("--frames [0-9]+", "--frames 12", line))[1:])
    written = ("report.html", "edit.html", "blue.mp4", "blue.slider.mp4", "slider.mp4", "side-by-side.mp4")
    assert all((tmp_path / "demo" / name).exists() for name in written) and (tmp_path / "bikes.html").exists()
    pictures = re.findall(r"\((images/[^)]*)\)", docs)
    assert len(pictures) >= 8 and all((DOCS / name).stat().st_size < 150_000 for name in pictures)


def test_a_comparison_of_no_known_kind_is_refused(
    command: Any, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        command("edit", video, "a red square", "--compare", "upside-down")
    assert end.value.code == 2 and "choose side or slider" in capsys.readouterr().err
    assert list(tmp_path.glob("*.mp4")) == []
