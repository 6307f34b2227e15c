"""`adaflow eval`: what an edit is said to cost, methods by name, and runs that go on where they were stopped."""

from __future__ import annotations

import fcntl
import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillAtWork
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_pipeline
from rich.console import Console
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from adaflow import AdaFlowPipeline, Cancelled, EditConfig, Progress
from adaflow.cards import cards
from adaflow.cli import main
from adaflow.colour import resized
from adaflow.config import resolve
from adaflow.errors import InputError
from adaflow.longv_eval.calls import CallCounter, FlopCounter
from adaflow.longv_eval.cost import CostMeter, PeakMemory, Spent
from adaflow.longv_eval.methods import MOST_JOINT_FRAMES, choose, groups, methods, variants
from adaflow.longv_eval.runner import Evaluation
from adaflow.longv_eval.suites import Case, Edit, Suite
from adaflow.longv_eval.watch import Bar, Watch, Work
from adaflow.miniature.world import video

N, T = 8, 2  # frames and steps
FEATURES = N + 1  # UNet rows of the diffusion features: one frame more, to see their shape
BY_LENGTH = {"keyframes.mean_threshold": -1.0, "keyframes.window_threshold": -1.0, "keyframes.longest_clip": 3}
SETTINGS = {"steps": T, "slimming.budget": 2, **BY_LENGTH, "injection.features": 0.5, "injection.attention": 0.5}
USUAL = {**SETTINGS, "kind": "colour", "run.rows": 8, "source_prompt": "a red car", "mask.find": ""}
METHODS = "source,vae,frame1,pnp,uniform,no-propagation,adaflow"
METHODS_AGAIN = "pnp,uniform,adaflow"
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def tiny_pipe(size: tuple[int, int] = (32, 48)) -> AdaFlowPipeline:
    """A small random model under the miniature's card."""
    return AdaFlowPipeline.from_pipe(tiny_pipeline(), replace(cards()["miniature"], size=size))


def case(name: str, changes: dict[str, dict[str, str]]) -> Case:
    """A film of `N` frames with edits of the names and changes given."""
    film = video(name, N)
    kinds = {"foreground": "colour", "style": "style"}
    targets = {edit: film.edit(**change) for edit, change in changes.items()}
    edits = tuple(Edit(e, kinds[e], changes[e], target.caption, target) for e, target in targets.items())  # type: ignore[arg-type]
    return Case(name, name.split("-")[0], film, edits, film.caption, 3)


def tiny_suite(**settings: object) -> Suite:
    edits = {"foreground": {"colour": "blue"}}
    cases = case("pan-1", {**edits, "style": {"style": "pencil"}}), case("cuts-4", edits)
    return Suite("tiny", cases, T, {**SETTINGS, **settings})


class Recorder(Watch):
    """Remembers what was begun, and stops the run at a point of it."""

    def __init__(self, stop: tuple[str, str, str, str] | None = None) -> None:
        self.begun: list[tuple[str, str, str]] = []
        self.stop = stop

    def begin(self, work: Work) -> None:
        self.begun.append((work.method, work.case, work.edit))

    def __call__(self, progress: Progress) -> None:
        if self.stop == (*self.begun[-1], progress.stage):
            raise Cancelled("stopped")


def results(out: Path) -> dict[str, dict[str, Any]]:
    return {f"{p.parent.name}/{p.name}": json.loads(p.read_text()) for p in sorted(out.glob("results/*/*.json"))}


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    return tiny_pipe()


@pytest.fixture(scope="module")
def finished(pipe: AdaFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny suite that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    Evaluation(tiny_suite(), choose(METHODS), out, pipe).run()
    return out


# -- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", [False, True])
def test_operations_are_those_of_a_count_by_hand(inference: bool) -> None:
    """Two per multiply-add; composite operations come whole in inference mode, and in parts elsewhere."""
    x, image = torch.randn(2, 5, 8), torch.randn(3, 4, 6, 6)
    q, k = torch.randn(2, 3, 10, 4), torch.randn(2, 3, 7, 4)
    with torch.inference_mode(inference), torch.no_grad(), FlopCounter() as counter:
        F.linear(x, torch.randn(16, 8), torch.randn(16))
        linear, counter.flops = counter.flops, 0
        F.conv2d(image, torch.randn(8, 4, 3, 3), padding=1)
        convolution, counter.flops = counter.flops, 0
        F.scaled_dot_product_attention(q, k, k)
        attention, counter.flops = counter.flops, 0
        (x.sin() + 1).softmax(-1)
    assert linear == 2 * (2 * 5) * 8 * 16
    assert convolution == 2 * (3 * 8 * 6 * 6) * (4 * 3 * 3)
    assert attention == 2 * (2 * 3) * (10 * 7 * 4) * 2
    assert counter.flops == 0


def rows_by_hand(clips: int) -> int:
    """UNet rows of an edit of N frames with so many clips, injected in the first of two steps; 0: all are keyframes."""
    inversion = N * T
    if not clips:  # three branches with injection, two without
        return inversion + N * 3 + N * 2
    return (
        FEATURES + inversion + (clips + N) * 3 * T
    )  # changes are carried: the source in every step, and both edit branches


def attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


@pytest.mark.parametrize("budget", [0, 1, 4])
def test_a_meter_counts_what_torch_counts_and_changes_nothing(
    pipe: AdaFlowPipeline, budget: int, tmp_path: Path
) -> None:
    """Also of calls that are ended early, and of kinds of calls that it has met; rows are those counted by hand."""
    frames = video("cuts-4", N).frames()
    config = EditConfig.from_fields({**USUAL, "slimming.budget": budget})
    with FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: attention_flops}) as counter:
        plain = pipe(frames, "a blue car", config=config, workspace=tmp_path / "plain")
    known: dict[Any, Fraction] = {}
    for attempt in ("first", "again"):
        with CostMeter(pipe.backbone, known) as meter:
            result = pipe(frames, "a blue car", config=config, workspace=tmp_path / attempt, on_progress=meter)
        total = sum(meter.stages.values(), Spent())
        assert total.flops == counter.get_total_flops()
        assert total.unet_rows == rows_by_hand(clips=3)
        assert meter.stages["edit"].flops > 0 and meter.stages["match"].flops > 0
        assert np.array_equal(np.asarray(result.frames), np.asarray(plain.frames))
    hooks = [h for m in pipe.backbone.unet.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert not hooks and len(plain.partition.clips) == 3


@pytest.fixture(scope="module")
def usual(pipe: AdaFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Any, Fraction], Spent]:
    """The kinds of calls that an edit with the usual settings makes, and what it costs."""
    known: dict[Any, Fraction] = {}
    config = EditConfig.from_fields(USUAL)
    with CostMeter(pipe.backbone, known) as meter:
        pipe(
            video("cuts-4", N).frames(),
            "a blue car",
            config=config,
            workspace=tmp_path_factory.mktemp("usual"),
            on_progress=meter,
        )
    return known, sum(meter.stages.values(), Spent())


@pytest.mark.parametrize(
    "changed",
    [
        {"guidance_start": 0.5},
        {"guidance_end": 0.0},
        {"reuse": 2},
        {"reuse": 2, "injection.sites": "pnp"},
        {"propagation.blend": 2},
        {"inversion_steps": 1},
        {"slimming.selection": "quota"},
        {"slimming.selection": "distinct"},
    ],
    ids=str,
)
def test_what_saves_work_is_counted_as_torch_counts_it(
    pipe: AdaFlowPipeline, usual: tuple[dict[Any, Fraction], Spent], changed: dict[str, Any], tmp_path: Path
) -> None:
    """Rows by hand; operations by torch's counter, also of calls whose kind was met in another setting."""
    frames = video("cuts-4", N).frames()
    config = EditConfig.from_fields({**USUAL, **changed})
    with FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: attention_flops}) as counter:
        pipe(frames, "a blue car", config=config, workspace=tmp_path / "plain")
    known, before = dict(usual[0]), usual[1]
    spent = []
    for name in ("first", "again"):
        with CostMeter(pipe.backbone, known) as meter:
            pipe(frames, "a blue car", config=config, workspace=tmp_path / name, on_progress=meter)
        spent.append(sum(meter.stages.values(), Spent()))
    first, again = spent
    assert first.flops == again.flops == counter.get_total_flops()
    saved = {
        "guidance_start": 3 + N,  # the negative rows of the first step
        "guidance_end": 2 * (3 + N),
        "inversion_steps": N,
        # in the second step as many rows, but of the finest level; and the keyframes' source down to there
        "reuse": -3,
        "propagation.blend": 0,
        "slimming.selection": 0,
    }[next(iter(changed))]
    assert before.unet_rows - first.unet_rows == saved
    if saved or "reuse" in changed:
        assert first.flops < before.flops


def test_a_call_that_fails_is_not_learnt(pipe: AdaFlowPipeline) -> None:
    """Else every later call of its kind would count as the part that was done."""
    known: dict[Any, Fraction] = {}
    latents, backbone = torch.zeros(1, 4, 8, 12), pipe.backbone
    text = backbone.conditioning("", "", "")
    one, three = text.rows([0], "source"), text.rows(range(3), "source")

    def fail(*_: object) -> None:
        raise RuntimeError("no more memory")

    for place in ("conv_out", "conv_in"):
        handle = backbone.unet.get_submodule(place).register_forward_pre_hook(fail)
        with CallCounter(backbone, known) as counter, pytest.raises(RuntimeError, match="no more memory"):
            backbone.predict(latents, 1, one)
        handle.remove()
    assert not known
    with CallCounter(backbone, known) as counter:
        backbone.predict(latents, 1, one)
        once = counter.flops
        backbone.predict(latents.expand(3, -1, -1, -1), 1, three)
    assert counter.flops == once * 4 and counter.unet_rows == 4 and len(known) == 1


def test_seconds_go_to_the_stage_that_reports(pipe: AdaFlowPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("adaflow.longv_eval.cost.time.perf_counter", lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    with CostMeter(pipe.backbone, on_progress=lambda progress: spend(100)) as meter:
        for stage, seconds in (("encode", 1), ("encode", 2), ("edit", 4)):
            spend(seconds)
            meter(Progress(stage, 1, 1))
        spend(50)
        meter.skip()
        spend(8)
        meter(Progress("decode", 1, 1))
    assert {name: spent.seconds for name, spent in meter.stages.items()} == {"encode": 3, "edit": 4, "decode": 8}


def test_peak_memory_is_of_the_time_since_it_was_taken() -> None:
    with PeakMemory(0.001) as peak:
        before = peak.take()
        block = np.ones(200 * 2**20, np.uint8)
        high = peak.take()
        del block
        assert high - before > 150 * 2**20
        peak.take()
        assert peak.take() - before < 100 * 2**20


# -- methods ----------------------------------------------------------------------------------------------------------


def test_every_method_has_settings_that_exist_and_a_name_of_its_own() -> None:
    card = cards()["miniature"]
    for method in methods().values():
        config = EditConfig.from_fields({**method.settings, "kind": "colour"})
        resolve(config, {**card.settings, "steps": 20}, card.kinds)
        assert method.title and method.about.endswith("."), method.name
    titles = [method.title for method in methods().values()]
    assert len(set(titles)) == len(titles)
    assert all(method.settings for method in variants().values())
    assert not set(groups()) & set(methods())


def names(asked: str) -> list[str]:
    return [method.name for method in choose(asked)]


def test_methods_are_chosen_by_name_and_group_each_once_and_in_order() -> None:
    assert names("adaflow,source") == ["source", "adaflow"]
    assert names("uniform") == ["uniform", "adaflow"] == names("uniform, adaflow ,uniform")
    assert names("references")[-1] == "adaflow" and len(names("references")) == 11
    assert names("everything") == list(methods())
    assert names("all") == [name for name in methods() if name not in variants()]
    combined = choose("pnp+guidance-3+injection-0.4")[0]
    assert combined.name == "pnp+guidance-3+injection-0.4" and "PnP" in combined.title
    assert combined.settings == {
        "slimming.budget": 0,
        "guidance_scale": 3.0,
        "injection.features": 0.4,
        "injection.attention": 0.4,
    }


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("adaflw", "there is no method 'adaflw'; did you mean 'adaflow'"),
        ("pnp+guidence-3", "there is no method 'guidence-3'; did you mean 'guidance-3'"),
        ("pnp+source", "there is no method 'source'"),
        ("", "there is no method ''"),
        ("pnp+budget-4", "pnp\\+budget-4 is no method: pnp has a slimming.budget of its own"),
        ("source+guidance-3", "source\\+guidance-3 is no method"),
    ],
)
def test_methods_that_do_not_exist_are_refused(asked: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose(asked)


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_result_and_a_clip_for_every_row(finished: Path) -> None:
    found = results(finished)
    rows = [("pan-1", "foreground"), ("pan-1", "style"), ("cuts-4", "foreground")]
    assert set(found) == {f"{m}/{c}.{e}.json" for m in METHODS.split(",") for c, e in rows}
    clips = {path.name for path in (finished / "clips").iterdir()}
    assert clips == {
        *(f"{c}.{e}.{m}.mp4" for m in [*METHODS.split(","), "truth"] for c, e in rows),
        "pan-1.source.mp4",
        "cuts-4.source.mp4",
    }
    assert all((finished / name).is_file() for name in ("run.json", "table.csv", "table.md", "index.html"))
    assert not list((finished / "work").iterdir()), "the workspaces are removed"
    run = json.loads((finished / "run.json").read_text())
    assert [m["name"] for m in run["methods"]] == METHODS.split(",") and run["suite"] == "tiny"
    one = found["adaflow/pan-1.style.json"]
    assert one["kind"] == "style" and one["frames"] == N and "pencil" in one["prompt"]
    assert one["settings"]["guidance_scale"] == cards()["miniature"].kinds["style"]["guidance_scale"]
    assert (one["settings"]["slimming.budget"], one["settings"]["seed"]) == (2, 3)
    assert one["partition"]["keyframes_per_100"] == pytest.approx(100 * one["method_facts"]["clips"] / N)
    assert 0 < one["method_facts"]["kept_own"] <= 1
    assert one["method_facts"]["matches_right"] is None  # this model sees frames at another size


def test_references_are_what_they_say(finished: Path, pipe: AdaFlowPipeline) -> None:
    found, backbone = results(finished), pipe.backbone
    for case in tiny_suite().cases:
        name = f"{case.id}.foreground"
        rows = {method: found[f"{method}/{name}.json"] for method in METHODS.split(",")}
        assert rows["source"]["measures"]["gain"] == pytest.approx(0) and rows["source"]["cost"] is None
        target = list(case.edits[0].target)
        small = np.stack([np.pad(resized(f, (30, 52)), ((0, 2), (0, 4), (0, 0)), mode="edge") for f in target])
        decoded = backbone.decode(backbone.encode(torch.from_numpy(small))).numpy()[:, :30, :52]
        back = [resized(f, (128, 224)).astype(float) for f in decoded]
        errors = [10 * np.log10(255**2 / np.mean((a - b) ** 2)) for a, b in zip(back, target, strict=True)]
        assert rows["vae"]["measures"]["psnr"] == pytest.approx(np.mean(errors), abs=0.01)
        assert rows["frame1"]["measures"]["motion"] == 0
        assert rows["uniform"]["settings"]["keyframes.longest_clip"] == -(
            -N // rows["adaflow"]["method_facts"]["clips"]
        )
        assert rows["pnp"]["partition"] is None and rows["pnp"]["measures"]["seam"] is None
        assert rows["frame1"]["settings"] == rows["source"]["settings"] == {}


def test_every_row_costs_what_it_would_cost_alone(finished: Path, pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """Shared work is done once, and counted in every row that rests on it."""
    found = results(finished)
    for name, row in found.items():
        method, cost = row["method"], row["cost"]
        if method in ("source", "frame1"):
            continue
        clips = row["method_facts"].get("clips", 0)
        rows = 0 if method == "vae" else rows_by_hand(clips)
        assert cost["unet_rows"] == rows + (FEATURES if method == "no-propagation" else 0), name
        assert cost["total_seconds"] == pytest.approx(sum(cost["seconds"].values()), abs=1e-3)
        assert cost["flops"] > 0 and cost["peak_bytes"] > 50e6
    stages = {"encode", "features", "partition", "invert", "match", "edit", "decode"}
    first, second = (found[f"adaflow/pan-1.{edit}.json"]["cost"] for edit in ("foreground", "style"))
    assert set(first["seconds"]) == stages and set(second["shared"]) == stages - {"edit", "decode"}
    assert set(found["no-propagation/pan-1.style.json"]["cost"]["seconds"]) == stages - {"partition", "match"}
    assert set(found["pnp/pan-1.style.json"]["cost"]["seconds"]) == stages - {"features", "partition", "match"}
    shared = {name: (first["seconds"][name], second["seconds"][name]) for name in second["shared"]}
    assert all(a == b > 0 for a, b in shared.values())
    assert first["flops"] == second["flops"]

    alone = Evaluation(replace(tiny_suite(), cases=tiny_suite().cases[1:]), choose("adaflow"), tmp_path / "out", pipe)
    alone.run()
    name = "adaflow/cuts-4.foreground.json"
    cost, other = results(tmp_path / "out")[name]["cost"], found[name]["cost"]
    assert not cost["shared"] and cost["disk_bytes"] > N * 3 * 32 * 48
    assert {k: cost[k] for k in ("unet_rows", "flops", "disk_bytes")} == {
        k: other[k] for k in ("unet_rows", "flops", "disk_bytes")
    }


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what differs from run to run."""
    cost = row["cost"] and {k: v for k, v in row["cost"].items() if k in ("unet_rows", "flops", "disk_bytes")}
    return {k: v for k, v in row.items() if k != "date"} | {"cost": cost}


@pytest.mark.usefixtures("plain_figures")
def test_a_stopped_run_goes_on_where_it_was(finished: Path, pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """Stopped in the inversion of the first row and in the edit of a later one; only what is missing is made."""
    chosen, out = choose(METHODS_AGAIN), tmp_path / "out"
    run = Evaluation(tiny_suite(), chosen, out, pipe)
    order = [(m, c, e) for c, e in (("pan-1", "foreground"), ("pan-1", "style"), ("cuts-4", "foreground"))
             for m in ("pnp", "adaflow", "uniform")]  # fmt: skip
    made = 0
    for place, stage in ((0, "invert"), (4, "edit")):
        watch = Recorder((*order[place], stage))
        with pytest.raises(Cancelled):
            run.run(watch)
        assert watch.begun == order[made : place + 1]
        made = place
        assert len(results(out)) == made
    watch = Recorder()
    done = run.run(watch)
    assert watch.begun == order[4:] and (done.made, done.found) == (5, 4)
    expected = {
        name: lasting(row) for name, row in results(finished).items() if row["method"] in ("pnp", "uniform", "adaflow")
    }
    assert {name: lasting(row) for name, row in results(out).items()} == expected
    for clip in (out / "clips").iterdir():
        assert clip.read_bytes() == (finished / "clips" / clip.name).read_bytes(), clip.name

    times = {path: path.stat().st_mtime_ns for path in out.glob("results/*/*.json")}
    watch = Recorder()
    assert run.run(watch).made == 0 and not watch.begun
    assert times == {path: path.stat().st_mtime_ns for path in times}


@pytest.mark.usefixtures("plain_figures")
def test_parts_make_the_whole(finished: Path, pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """Of two processes each does every second video, into one folder; each adds to the tables what is there."""
    out, chosen = tmp_path / "out", choose("source,vae")
    parts = [Evaluation(tiny_suite(), chosen, out, pipe, part=(k, 2)) for k in (2, 1)]
    assert [part.run().made for part in parts] == [2, 4]
    rows = {name: lasting(row) for name, row in results(finished).items() if row["method"] in ("source", "vae")}
    assert {name: lasting(row) for name, row in results(out).items()} == rows
    assert len((out / "table.csv").read_text().splitlines()) == 1 + len(rows)
    with pytest.raises(InputError, match="tiny has 2 videos, too few for part 3"):
        Evaluation(tiny_suite(), chosen, tmp_path / "never", pipe, part=(3, 4)).run()
    assert not (tmp_path / "never").exists()


def test_one_process_at_a_time_writes_what_all_share(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    one = Evaluation(replace(tiny_suite(), cases=tiny_suite().cases[1:]), choose("source"), tmp_path / "out", pipe)
    one.run()
    with open(tmp_path / "out" / ".lock", "ab") as other, ThreadPoolExecutor() as threads:
        fcntl.flock(other, fcntl.LOCK_EX)
        (tmp_path / "out" / "table.csv").write_text("the other's")
        waiting = threads.submit(one.run)
        with pytest.raises(StillAtWork):
            waiting.result(timeout=1)
        assert (tmp_path / "out" / "table.csv").read_text() == "the other's"
        fcntl.flock(other, fcntl.LOCK_UN)
        assert waiting.result(timeout=60).found == 1
    assert (tmp_path / "out" / "table.csv").read_text().startswith("method,")


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", ""])
def test_a_part_that_is_none(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["eval", "run", "--suite", "ci", "-o", str(tmp_path / "out"), f"--part={part}"])
    assert end.value.code == 2 and "it must be K/N" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_one_suite_under_one_set_of_settings(
    finished: Path, pipe: AdaFlowPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for suite, words in (
        (replace(tiny_suite(), name="other"), "another suite"),
        (tiny_suite(guidance_scale=3.0), "another settings"),
    ):
        with pytest.raises(InputError, match=words):
            Evaluation(suite, choose("adaflow"), finished, pipe).run()
    card = pipe.backbone.card
    kinds = {**card.kinds, "colour": {**card.kinds["colour"], "guidance_scale": 9.0}}
    monkeypatch.setattr(pipe.backbone, "card", replace(card, kinds=kinds))
    with pytest.raises(InputError, match=r"made with guidance_scale 1\.5, and now adaflow has 9\.0"):
        Evaluation(tiny_suite(), choose("adaflow"), finished, pipe).run()


def test_a_setting_younger_than_a_row_counts_as_its_default(
    finished: Path, pipe: AdaFlowPipeline, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    file = out / "results" / "adaflow" / "cuts-4.foreground.json"
    for name, there in (("mask.find", True), ("guidance_scale", False)):  # the one at its default, the other not
        row = json.loads(file.read_text())
        del row["settings"][name]
        file.write_text(json.dumps(row))
        if there:
            assert Evaluation(tiny_suite(), choose("adaflow"), out, pipe).run().made == 0
        else:
            with pytest.raises(InputError, match=r"made with guidance_scale 7\.5, and now adaflow has 1\.5"):
                Evaluation(tiny_suite(), choose("adaflow"), out, pipe).run()


def test_films_too_long_for_a_method_are_left_out_with_the_reason(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    film = video("pan-1", MOST_JOINT_FRAMES + 1)
    long = replace(case("pan-1", {"foreground": {"colour": "blue"}}), id="long", film=film)
    suite = replace(tiny_suite(), cases=(tiny_suite().cases[1], long))
    out = tmp_path / "out"
    with pytest.raises(Cancelled):  # what follows would take long, and is of no interest
        Evaluation(suite, choose("full,adaflow"), out, pipe).run(Recorder(("adaflow", "long", "foreground", "encode")))
    assert set(results(out)) == {f"{m}/cuts-4.foreground.json" for m in ("full", "adaflow")}
    reason = json.loads((out / "run.json").read_text())["not_run"]
    assert list(reason) == ["full"] and "long (201 frames)" in reason["full"]
    assert methods()["pnp"].refuses(1000) is None


def test_a_log_gets_a_line_a_row_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """By each method's own pace, in seconds a frame, once it is known."""
    now, text = [0.0], io.StringIO()
    monkeypatch.setattr("adaflow.longv_eval.watch.time", SimpleNamespace(monotonic=lambda: now[0]))
    works = [Work(method, case, "style", 10) for case in ("a", "b") for method in ("slow", "fast")]
    with Bar(Console(file=text, width=100)) as bar:
        bar.plan(works)
        for work, seconds in zip(works, (90, 10, 90, 10), strict=True):
            bar.begin(work)
            now[0] += seconds
            bar(Progress("edit", 1, 2))
            bar.end(work)
    assert text.getvalue().splitlines() == [
        "slow · a · style: 1 min 30 s (1 of 4; about 4 min 30 s left)",
        "fast · a · style: 10 s (2 of 4; about 1 min 40 s left)",
        "slow · b · style: 1 min 30 s (3 of 4; about 10 s left)",
        "fast · b · style: 10 s (4 of 4)",
    ]


def test_a_terminal_gets_a_bar() -> None:
    text, work = io.StringIO(), Work("adaflow", "pan-7", "style", 10)
    with Bar(Console(file=text, force_terminal=True, width=120)) as bar:
        bar.plan([work])
        bar.begin(work)
        bar(Progress("edit", 1, 2))
    assert "1/1" in text.getvalue() and "adaflow · pan-7 · style" in text.getvalue() and "━" in text.getvalue()


# -- the commands -----------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    main([str(a) for a in arguments])
    return capsys.readouterr().out


def test_the_command_runs_a_suite_and_says_what_it_made(
    finished: Path, pipe: AdaFlowPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("adaflow.eval_commands.suite", lambda name: tiny_suite())
    monkeypatch.setattr(AdaFlowPipeline, "from_pretrained", lambda name: asked.append(name) or pipe)
    document = json.loads(run(capsys, "eval", "run", "--suite", "tiny", "--methods", METHODS, "-o", finished, "--json"))
    assert (document["made"], document["found"], document["page"]) == (0, 21, str(finished / "index.html"))
    assert asked == ["miniature"]


def test_two_methods_or_two_runs_are_compared(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = run(capsys, "eval", "compare", "vae", "adaflow", "--in", finished)
    assert words.startswith("target through the VAE less AdaFlow") and "too few videos to say" in words
    document = json.loads(run(capsys, "eval", "compare", finished / "results" / "pnp", finished, "--json"))
    assert document["non_inferior"] == "too few videos to say"
    assert {"measure", "relative", "verdict", "mean", "low", "high", "videos"} == set(document["differences"][0])
    for arguments, said in (
        (["vae", "adaflow"], "name its folder with --in"),
        (["vae", "full", "--in", str(finished)], "has no results of 'full'; it has source"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["eval", "compare", *arguments])
        assert end.value.code == 2 and said in capsys.readouterr().err


def test_suites_and_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "eval", "list")
    assert all(name in out for name in (*methods(), *groups(), "report", "ci"))
    document = json.loads(run(capsys, "eval", "list", "--json"))
    assert [m["method"] for m in document["methods"]] == list(methods())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "adaflow eval run needs --suite SUITE and --out FOLDER"),
        (["run", "--suite", "nothing", "--out", "x"], "'nothing' is not a suite"),
        (["run", "--suite", "ci", "--out", "x", "--methods", "nothing"], "there is no method 'nothing'"),
        (["compare", "a"], "adaflow eval compare needs B"),
    ],
)
def test_wrong_command_lines(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["eval", *arguments])
    assert end.value.code == 2 and words in capsys.readouterr().err
    assert not Path("x").exists()
