"""The compared systems by name and setting, from the command line, and in the benchmark."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_pipeline
from peer_edits import KEYED, PROMPT, SIZE, Edits, asked, controlnet, video
from video_files import make

from adaflow import AdaFlowPipeline, EditConfig
from adaflow.cards import cards
from adaflow.cli import main
from adaflow.config import KeyframeConfig, PeerConfig, resolve
from adaflow.errors import Cancelled, ConfigError
from adaflow.longv_eval.methods import choose
from adaflow.longv_eval.runner import Evaluation
from adaflow.longv_eval.suites import Case, Edit, Suite
from adaflow.miniature.world import video as film
from adaflow.peers import PEERS, find, published
from adaflow.progress import Progress


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


@pytest.fixture
def edit(pipe: AdaFlowPipeline, tmp_path: Path) -> Edits:
    return Edits(pipe, tmp_path)


# -- names and settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("tokenflw", "tokenflow"),
        ("TokenFlow", "tokenflow"),
        ("raev", "rave"),
        ("fresco", "fresco-lite"),
        ("vid2me", "vidtome"),
    ],
)
def test_a_name_that_is_none_gets_the_nearest(pipe: AdaFlowPipeline, name: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"there is no method '{name}'; did you mean '{near}'"):
        pipe(video(2), PROMPT, method=name, config=asked(None), workspace=tmp_path / "w")
    assert not (tmp_path / "w").exists()
    assert find(near) is PEERS[near] and find(None) is None and find("adaflow") is None


def test_adaflow_by_name_is_adaflow(edit: Edits) -> None:
    clips = KeyframeConfig(longest_clip=4)
    assert np.array_equal(edit(video(), "adaflow", keyframes=clips), edit(video(), None, keyframes=clips))


def test_inspect_and_preview_are_adaflows(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inspect shows AdaFlow's keyframes, and pnp has none"):
        pipe.inspect(video(2), config=asked("pnp"), workspace=tmp_path / "w")
    with pytest.raises(ConfigError, match="preview shows"):
        pipe.preview(video(2), PROMPT, config=asked("pnp"), workspace=tmp_path / "w")


def test_what_is_not_set_is_as_published_under_the_models_card() -> None:
    def settled(config: EditConfig, card: dict[str, Any]) -> dict[str, Any]:
        return resolve(config, {**published(config, card), **card}).set_fields()

    found = settled(EditConfig(method="tokenflow"), {})
    assert (found["steps"], found["inversion_steps"], found["injection.attention"]) == (50, 500, 0.5)
    assert (found["peers.chunk"], found["peers.clip"], found["guidance_scale"]) == (128, 8, 7.5)
    assert settled(EditConfig(method="flatten"), {})["guidance_scale"] == 10.0
    card = settled(EditConfig(method="flatten"), {"steps": 25, "guidance_scale": 2.0, "negative_prompt": "ugly"})
    assert (card["steps"], card["inversion_steps"], card["guidance_scale"]) == (25, 25, 2.0)
    assert settled(EditConfig(method="flatten", steps=10), {})["inversion_steps"] == 10
    own = settled(EditConfig(method="rave-pnp", peers=PeerConfig(grid=3, chunk=18), guidance_scale=4.0), {})
    assert (own["peers.grid"], own["peers.chunk"], own["guidance_scale"]) == (3, 18, 4.0)
    assert not {name for name in settled(EditConfig(), {}) if name.startswith(("peers", "method"))}
    assert published(EditConfig(), {}) == {}
    for name in PEERS:
        assert name in EditConfig.__dataclass_fields__["method"].metadata["help"]


# -- the command line and the benchmark -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def miniature() -> AdaFlowPipeline:
    """The embedded model; in fp32, whatever this processor prefers."""
    return AdaFlowPipeline.from_pretrained("miniature", torch_dtype=torch.float32)


@pytest.mark.parametrize("method", PEERS)
def test_the_command(
    miniature: AdaFlowPipeline, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The embedded model and the command line, on a few small frames."""
    monkeypatch.setattr(AdaFlowPipeline, "from_pretrained", lambda name: miniature)
    source = make(tmp_path / "in.mp4", n=5, size=SIZE)
    words = ["edit", str(source), "a red car", "--method", method, "--steps", "2", "--workspace", str(tmp_path / "w")]
    words += ["--height", str(SIZE[0]), "--width", str(SIZE[1])]
    if method == "rave":
        words += ["--peers.controlnet", controlnet(miniature.backbone, tmp_path), "--peers.control", "canny"]
    main([*words, "--out", str(tmp_path / "out.mp4"), "--report", str(tmp_path / "page.html"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["settings"]["method"] == method and document["clips"] == [[0, 5]]
    assert (tmp_path / "out.mp4").stat().st_size > 0 and "1 chunk" in (tmp_path / "page.html").read_text()
    with pytest.raises(SystemExit) as end:
        main([*words[:3], "--method", "tokenfow", "--out", str(tmp_path / "out.mp4")])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("adaflow: there is no method 'tokenfow'; did you mean 'tokenflow'?")


@pytest.mark.usefixtures("plain_figures")
def test_the_benchmark_takes_them_with_their_chunks_as_borders(tmp_path: Path) -> None:
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline(), replace(cards()["miniature"], size=SIZE))
    pan = film("pan-1", 8)
    target = pan.edit(colour="blue")
    case = Case("pan-1", "pan", pan, (Edit("foreground", "colour", {"colour": "blue"}, target.caption, target),), "", 3)
    suite = Suite("tiny", (case,), 2, {"steps": 2, "peers.chunk": 4, "run.rows": 12})
    names = "tokenflow,rave-pnp,flatten,rerender-lite,fresco-lite"
    Evaluation(suite, choose(names), tmp_path / "out", pipe).run()
    rows = {p.parent.name: json.loads(p.read_text()) for p in (tmp_path / "out/results").glob("*/*.json")}
    assert set(rows) == set(names.split(","))
    for name, row in rows.items():
        chunks = 1 if name in KEYED else 2
        assert row["settings"]["method"] == name and row["method_facts"] == {"chunks": chunks, "at_once": 8 // chunks}
        assert (row["measures"]["seam"] is not None) == (chunks == 2) and row["partition"] is None
        assert ("match" in row["cost"]["seconds"]) == (name == "flatten")
        assert (
            ("partition" in row["cost"]["seconds"])
            == ("invert" not in row["cost"]["seconds"])
            == (name == "fresco-lite")
        )
        assert {"encode", "edit", "decode"} <= set(row["cost"]["seconds"])
    inversion = 2 * 8  # and kind colour injects in the first of two steps
    assert rows["rave-pnp"]["cost"]["unet_rows"] == inversion + 2 * (3 + 2)  # two pictures, with the source and without
    assert rows["tokenflow"]["cost"]["unet_rows"] == inversion + 2 * (2 * 3 + 8 * 3)
    assert [method.name for method in choose("compared")] == [*PEERS, "adaflow"]


def test_nothing_is_left_on_the_model(pipe: AdaFlowPipeline, edit: Edits) -> None:
    """Neither processors nor hooks, after edits (above) and after one that was stopped."""
    unet: Any = pipe.backbone.unet
    before = {name: type(p) for name, p in unet.attn_processors.items()}

    def stop(progress: Progress) -> None:
        if progress.stage == "edit":
            raise Cancelled("stopped")

    for method in PEERS:
        with pytest.raises(Cancelled):
            edit.result(video(3), method, on_progress=stop)
    assert {name: type(p) for name, p in unet.attn_processors.items()} == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
