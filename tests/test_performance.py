"""The performance benchmark: what it counts is what a run does, to the last operation and byte; its cases run."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import performance
from models import tiny_pipeline
from performance_cases import NAMED, OPTIONS, TOGETHER, Case, settings
from performance_count import STAGES, Count, equal_clips, on_meta
from performance_measure import Generated, OutOfTime, PartClock, Watch, disk_by_stage, noise_film, still_film

from adaflow import AdaFlowPipeline, EditConfig
from adaflow.backbone import Backbone
from adaflow.cards import ModelCard
from adaflow.longv_eval.cost import CostMeter
from adaflow.presets import PRESETS
from adaflow.progress import Progress

CARD = ModelCard(name="tiny", size=(64, 96))


@pytest.fixture(scope="module")
def tiny() -> AdaFlowPipeline:
    return AdaFlowPipeline.from_pipe(tiny_pipeline(), CARD)


@pytest.fixture(scope="module")
def bare() -> Backbone:
    return on_meta(Backbone(tiny_pipeline(), CARD))


KINDS: dict[str, dict[str, Any]] = {
    "slimmed": {},
    "keyframes alone, wide sites, no queries": {
        "slimming.budget": 0,
        "injection.sites": "wide",
        "injection.attention": 0.0,
    },
    "not slimmed, coarse inversion, one keyframe a clip": {
        "slimming.budget": 4,
        "inversion_steps": 2,
        "keyframes.choice": "medoid",
    },
    "released": {"preset": "released", "inversion_steps": 8, "slimming.budget": 2},
    "inversion reused": {"inversion_reuse": 3},
    "coarse inversion reused": {"inversion_steps": 2, "inversion_reuse": 2},
    "deep features carried, later on": {"propagation.deep_from": 0.5, "propagation.blend": 2},
    "deep features carried, and reused": {"propagation.deep_from": 0.0, "reuse": 2, "injection.sites": "wide"},
    "changes carried, later not": {"propagation.changes": 0.5, "propagation.blend": 2},
    "changes carried, deep features too, and reused": {
        "propagation.changes": 1.0,
        "propagation.deep_from": 0.5,
        "reuse": 2,
        "injection.sites": "wide",
        "injection.features": 0.5,
    },
    "short features, one keyframe a clip": {"features.dimensions": 5, "keyframes.choice": "middle"},
    "reused, guidance in an interval, blended, distinct, two directions": {
        "reuse": 2,
        "guidance_start": 0.25,
        "guidance_end": 0.75,
        "propagation.blend": 2,
        "slimming.selection": "distinct",
        "keyframes.both_directions": True,
    },
}
KNOWN: dict[Any, Any] = {}
FOUND: dict[Any, int] = {}
"""What the meters and the counts of these tests have learnt of the tiny model."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_count_is_what_a_run_does(kind: str, tiny: AdaFlowPipeline, bare: Backbone, tmp_path: Path) -> None:
    """Operations by stage and bytes on disk, for the clips and keyframes that the run had: no difference at all."""
    fields = {
        "steps": 4,
        "slimming.budget": 2,
        "keyframes.mean_threshold": -1.0,
        "keyframes.window_threshold": -1.0,
        "keyframes.longest_clip": 3,
    } | KINDS[kind]
    config = EditConfig.from_fields(fields)
    with CostMeter(tiny.backbone, KNOWN) as meter:
        result = tiny(noise_film(8, (64, 96)), "a red car", config=config, workspace=tmp_path, on_progress=meter)  # type: ignore[arg-type]
    count = Count(bare, tiny.resolve(config), result.partition, (16, 24), result.schedule, found=FOUND)
    counted = count.flops()
    assert {stage: spent.flops for stage, spent in meter.stages.items()} == {s: counted[s] for s in STAGES}
    assert counted["edit"] == sum(value for name, value in counted.items() if name.startswith("edit."))
    stages = {"latents": "encode", "trajectory": "invert", "matches": "match", "decoded": "decode"}
    there = {stages.get(name, name): size for name, size in disk_by_stage(tmp_path).items() if name != "borders"}
    assert there == count.stored()


def test_extended_attention_grows_with_the_square_of_the_keyframes(bare: Backbone) -> None:
    """By hand: each of the two edited branches has M^2 * 4 N^2 C operations in every layer, beyond what is linear."""
    count = made(bare, {"slimming.budget": 20, "injection.features": 0.0, "injection.attention": 0.0})
    step = next(iter(count.kinds))
    by_keys = [count.key(step, keys) for keys in (4, 5, 6)]
    widths = {s.name: bare.unet.get_submodule(s.name).to_q.in_features for s in bare.attention_sites()}
    square = sum(4 * math.prod(count.grids[s.level]) ** 2 * widths[s.name] for s in bare.attention_sites())
    assert by_keys[0] - 2 * by_keys[1] + by_keys[2] == 2 * 2 * square


def test_slimmed_keyframes_cost_alike(bare: Backbone) -> None:
    count = made(bare, {"slimming.budget": 2})
    step = next(iter(count.kinds))
    assert count.key(step, 300) == 100 * count.key(step, 3)


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """The released settings, counted."""
    return performance.counted(Case(kind="count", settings="released"))


def test_moved_bytes_by_hand(bare: Backbone) -> None:
    """Five clips of four frames; ten steps, whole or not in turn, the first five injected, the last five without
    guidance."""
    fields = {"steps": 10, "reuse": 2, "guidance_end": 0.5, "injection.features": 0.5, "injection.attention": 0.5}
    count = made(bare, fields)
    one, deep = count.record_bytes // 3, 20 * bare.finest.channels * 16 * 24 * 4
    assert count.moved(2) == {
        "record_from_device": 5 * one * (5 * 3 + 5 * 1),
        # two runs a clip; the source's rows are run in whole steps alone, three of the five injected ones
        "record_to_device": 10 * one * (5 * 2 + 3 * 1 + 5 * 1),
        "deep_written": deep * (2 + 2 + 2 + 1 + 1),
        "deep_read": deep * (2 + 2 + 1 + 1 + 1),
    }


def test_moved_bytes_of_carried_deep_features_by_hand(bare: Backbone) -> None:
    """Five clips of four frames; four steps with injection, of which the last two carry deep features."""
    count = made(bare, {"steps": 4, "propagation.deep_from": 0.5, "injection.features": 1.0, "injection.sites": "pnp"})
    one, deep = count.record_bytes // 3, bare.finest.channels * 16 * 24 * 4
    finest = [site for site in bare.attention_sites() if bare.in_finest_level(site)]
    few = sum(bare.unet.get_submodule(site.name).to_q.in_features for site in finest) * 16 * 24 * 4
    assert few < one
    assert count.moved(2) == {
        "record_from_device": 5 * (2 * 3 * one + 2 * (3 * few + 2 * deep)),
        "record_to_device": 10 * (2 * 3 * one + 2 * (2 * few + 2 * deep)),
        "deep_written": 0,
        "deep_read": 0,
    }


def test_stable_diffusion_as_the_notes_have_it(one: dict[str, Any]) -> None:
    """The analytic figures of the paper's model at 384x672, which were worked out apart from this program."""
    tera = {name: round(value / 1e12, 3) for name, value in one["flops_of_one"].items()}
    assert (tera["unet_row"], tera["vae_encode"], tera["vae_decode"]) == (0.792, 1.099, 2.475)
    assert tera["features"] == pytest.approx(0.598, abs=0.001)
    assert one["record_bytes"] == 60 * 2 * 3 * 11_374_080
    published = {name: value / 1e15 for name, value in one["published_script_flops"].items()}
    noted = {"invert": 79, "features": 13.6, "match": 0.4, "edit.choose": 4.0, "edit.key": 21, "edit.propagate": 93}
    assert published == pytest.approx(published | noted, rel=0.08)
    assert one["published_script_total"] / 1e15 == pytest.approx(221, rel=0.01)


def test_presets_cost_what_is_said_of_them(one: dict[str, Any]) -> None:
    """`exact` at most 0.64 of what the published script does, `fast` at most 0.35, `draft` at most 0.16."""
    released, most = one["published_script_total"], {"exact": 0.64, "fast": 0.35, "draft": 0.16}
    cost = {name: performance.counted(Case(kind="count", settings=name))["total_flops"] for name in most}
    assert all(cost[name] <= share * released for name, share in most.items())


def made(backbone: Backbone, fields: dict[str, Any]) -> Count:
    config = performance.resolved(Case(kind="count"), backbone)
    config = type(config).from_fields(config.set_fields() | fields)
    return Count(backbone, config, equal_clips(20, 5), (16, 24), found=FOUND)


# -- cases -----------------------------------------------------------------------------------------------------------


def test_every_name_of_settings_is_one() -> None:
    for name in ("exact", *PRESETS, *OPTIONS, *TOGETHER):
        EditConfig.from_fields(settings(name))
    with pytest.raises(KeyError):
        settings("no such")


def test_cases_have_names_of_their_own() -> None:
    for cases in NAMED.values():
        assert len({case.name for case in cases}) == len(cases)


@pytest.mark.parametrize(
    ("name", "model", "steps", "inversion"),
    [
        ("released", "sd21", 10, 20),
        ("exact", "sd21", 10, 10),
        ("inversion-10", "sd21", 25, 5),
        ("released", "sd21", 0, 100),
    ],
)
def test_fewer_steps_keep_the_proportion_of_inversion(name: str, model: Any, steps: int, inversion: int) -> None:
    case = Case(kind="count", model=model, settings=name, steps=steps)
    assert performance.resolved(case, performance.bare("sd21")).inversion_steps == inversion


def test_equal_clips_are_equal() -> None:
    lengths = [len(clip) for clip in equal_clips(1000, 60).clips]
    assert (len(lengths), sum(lengths)) == (60, 1000)
    assert max(lengths) - min(lengths) <= 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny: AdaFlowPipeline, bare: Backbone) -> None:
    """The tiny model in the place of both."""
    monkeypatch.setattr(performance, "pipeline", lambda _: tiny)
    monkeypatch.setattr(performance, "bare", lambda _: bare)
    monkeypatch.setattr(performance, "met", lambda _: FOUND)


SMALL = {"size": (64, 96), "frames": 12, "clips": 4}


@pytest.mark.usefixtures("small")
def test_an_edit_leaves_seconds_bytes_and_operations(tmp_path: Path) -> None:
    case = Case(kind="edit", settings="budget-4", steps=3, **SMALL)
    found = performance.run(case, performance.Bench(tmp_path, note="for a test"))
    assert found == json.loads(next(tmp_path.iterdir()).read_text())
    assert (found["state"], found["clips"], found["note"]) == ("done", 4, "for a test")
    assert set(found["stages"]) == set(STAGES)
    assert found["total_flops"] == sum(stage["flops"] for stage in found["stages"].values())
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"].values()))
    invert = found["stages"]["invert"]
    assert invert["written_bytes"] >= invert["stored_bytes"] > 0
    assert found["parts"]["edit.propagate"]["rows"] == 2 * 12 * 3
    assert found["parts"]["vae.decode"]["flops"] == found["stages"]["decode"]["flops"]
    assert found["parts"]["edit.key"]["rows"] == (3 * 2 + 2) * 4  # the source's are in the first two steps of three
    assert found["machine"]["versions"]["torch"] == torch.__version__


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "steps"), [("exact", 2), ("reuse-5", 2), ("released", 3)])
def test_steps_at_true_n_and_m_are_extrapolated(name: str, steps: int, tmp_path: Path) -> None:
    channels = 0 if name == "released" else 8
    case = Case(kind="steps", settings=name, edit_steps=steps, channels=channels, **SMALL)
    found = performance.run(case, performance.Bench(tmp_path))
    assert found["state"] == "done"
    assert len(found["steps"]) == steps
    assert [step["whole"] for step in found["steps"]][:2] == [True, name != "reuse-5"]
    assert set(found["stages"]) == {"match", "edit"}
    whole = found["extrapolated"]
    assert whole["total"] == pytest.approx(sum(v for k, v in whole.items() if k != "total"), abs=0.5)
    assert {"edit.key", "edit.propagate"} <= set(found["parts"])
    assert found["parts"]["edit.key"]["flops"] > 0 and found["parts"]["edit.propagate"]["flops"] > 0
    count = performance.count_of(case)
    assert found["disk_bytes_by_stage"]["features"] == 12 * count.depth * 2 * math.prod(count.feature_grid)
    assert channels in (0, count.depth)


@pytest.mark.usefixtures("small")
def test_the_hour_goes_through_every_stage_but_decoding(tmp_path: Path) -> None:
    case = Case(kind="hour", steps=2, frames=12, clips=0, size=(64, 96))
    found = performance.run(case, performance.Bench(tmp_path))
    assert found["state"] == "done"
    assert set(found["stages"]) == set(STAGES) - {"decode"}
    for stage in ("encode", "features", "invert", "match", "edit"):
        name = {"encode": "latents", "invert": "trajectory", "match": "matches"}.get(stage, stage)
        assert found["disk_bytes_by_stage"][name] == found["stages"][stage]["stored_bytes"]


@pytest.mark.usefixtures("small")
def test_a_case_goes_on_where_its_limit_stopped_it(tmp_path: Path) -> None:
    case = Case(kind="edit", settings="exact", steps=3, **SMALL)
    first = performance.run(case, performance.Bench(tmp_path / "out", tmp_path / "w", stop=0.0))
    assert first["state"].startswith("stopped at the limit: encode")
    second = performance.run(case, performance.Bench(tmp_path / "out", tmp_path / "w"))
    assert second["state"] == "done"
    assert second["stages"]["encode"]["seconds"] > first["stages"]["encode"]["seconds"] > 0


@pytest.mark.usefixtures("small")
def test_a_failure_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> dict[str, Any]:
        raise torch.OutOfMemoryError("no room\nat all")

    monkeypatch.setitem(performance.RUNS, "edit", full)
    monkeypatch.setitem(NAMED, "one", [Case(kind="edit", **SMALL)])
    assert performance.main(["one", "--out", str(tmp_path)]) == 1
    assert json.loads(next(tmp_path.iterdir()).read_text())["state"] == "failed: no room at all"


@pytest.mark.usefixtures("small")
def test_what_would_not_fit_is_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--kind", "edit", "--frames", "12", "--clips", "4", "--size", "64", "96", "--steps", "2"]
    assert performance.main([*arguments, "--limit", "1", "--out", str(tmp_path)]) == 0
    assert "not begun: about " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small")
def test_further_fields_are_settings_and_named(tmp_path: Path) -> None:
    arguments = ["--kind", "edit", "--frames", "6", "--clips", "2", "--size", "64", "96", "--steps", "1"]
    assert performance.main([*arguments, "--set", "run.record=disk", "run.rows=4", "--out", str(tmp_path)]) == 0
    path = next(tmp_path.iterdir())
    found = json.loads(path.read_text())
    assert (found["settings"]["run.record"], found["plan"]["rows"]) == ("disk", 4)
    assert "run.record=disk-run.rows=4" in path.name


def test_lists_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert performance.main(["--list"]) == 0
    assert all(f"{name}: " in capsys.readouterr().out for name in ("count",))
    assert performance.main([]) == 1


def test_some_steps_are_one_of_each_kind() -> None:
    case = Case(kind="count", settings="draft")
    steps = performance.count_of(case).editor.steps
    chosen = performance.some_steps(steps, 4)
    assert chosen[0].number == 0 and chosen[0].whole
    assert {(s.whole, s.deep) for s in chosen} == {(True, False), (False, False), (True, True)}
    assert [s.number for s in chosen] == sorted(s.number for s in chosen)
    assert performance.some_steps(steps, 50) == steps


@pytest.mark.usefixtures("small")
def test_extrapolation_by_hand() -> None:
    """Steps of both kinds that took 2 and 1 seconds: as often as there are such steps; units times what is needed."""
    case = Case(kind="count", settings="exact", steps=10, **SMALL)
    count = performance.count_of(case)
    chosen = performance.some_steps(count.editor.steps, 2)
    units = {"row": 0.01, "encode": 0.1, "decode": 0.2, "match": 9.0}
    found = performance.extrapolated(count, chosen, [2.0, 1.0], units, 0.5)
    assert (found["edit"], found["invert"], found["encode"], found["decode"]) == (8 * 2 + 2 * 1, 1.2, 1.2, 2.4)
    assert found["match"] == count.pairs_matched / 2


# -- measuring -------------------------------------------------------------------------------------------------------


def test_a_watch_books_by_stage_and_says_where_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved: list[list[str]] = []
    cpu = torch.device("cpu")
    with Watch(
        "case",
        cpu,
        save=lambda s: saved.append(list(s)),
        before={"a": {"seconds": 5.0, "read_bytes": 0, "written_bytes": 0}},
    ) as watch:
        (tmp_path / "x").write_bytes(bytes(1000))
        watch(Progress("a", 1, 2))
        watch(Progress("a", 2, 2))
        watch(Progress("b", 1, 1))
    assert 5.0 < watch.stages["a"]["seconds"] < 6.0
    assert watch.stages["a"]["written_bytes"] >= 1000
    assert watch.stages["a"]["host_peak_bytes"] > 1e6
    assert set(watch.stages["a"]["host_bytes_at"]) == {"5", "10"}
    assert saved == [["a"], ["a", "b"]]
    assert "case: a 1 of 2, host" in capsys.readouterr().out


def test_a_watch_ends_what_takes_too_long() -> None:
    with Watch("case", torch.device("cpu"), deadline=0.0) as watch, pytest.raises(OutOfTime, match="a 1 of 2"):
        watch(Progress("a", 1, 2))


def test_a_part_clock_leaves_no_hooks(tiny: AdaFlowPipeline) -> None:
    with PartClock(tiny.backbone) as clock:
        text = tiny.backbone.conditioning("", "", "").rows(range(3), "source")
        tiny.backbone.predict(torch.zeros(3, 4, 16, 24), 500, text)
    assert clock.parts()["plain"]["rows"] == 3
    assert not tiny.backbone.unet._forward_hooks and not tiny.backbone.unet._forward_pre_hooks


def test_generated_frames_begin_anywhere_and_fit_any_size() -> None:
    source = noise_film(5, (64, 96))
    whole = list(source.frames())
    assert [f.shape for f in whole] == [(64, 96, 3)] * 5
    np.testing.assert_array_equal(next(source.frames(start=3)), whole[3])
    assert next(source.frames((32, 48))).shape == (32, 48, 3)
    assert source.fingerprint() != noise_film(6, (64, 96)).fingerprint()


def test_still_frames_stand_nearly_still_until_the_next_shot() -> None:
    film: Generated = still_film(20, 10)
    frames = [f.astype(int) for f in film.frames()]
    within = max(np.abs(a - frames[0]).max() for a in frames[1:10])
    assert 0 < within <= 4 < np.abs(frames[10] - frames[0]).max()
