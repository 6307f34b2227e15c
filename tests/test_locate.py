"""What words name, found in videos by the model itself: against the rendered world's own masks, and by hand."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as checks
from hypothesis import strategies as st
from models import tiny_pipeline
from test_masks import PROMPT, SIZE, STEPS, N, moving, settings, stored, video

from adaflow import AdaFlowPipeline, EditConfig, stages
from adaflow.cards import find_card
from adaflow.config import MaskConfig
from adaflow.errors import Cancelled, ConfigError, InputError
from adaflow.estimate import UnitCosts, disk_bytes, estimate
from adaflow.locate import NOISE, asked_timesteps, found, locate, respond, scales
from adaflow.masks import softened
from adaflow.miniature import world
from adaflow.progress import Progress
from adaflow.video import ArraySource


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


WORDS = "a green circle"


def seeking(words: str = WORDS, **given: Any) -> EditConfig:
    return settings(mask=MaskConfig(**({"find": words, "feather": 0} | given)))


# -- from responses to a mask ----------------------------------------------------------------------------------------


def test_the_timesteps_asked_are_nearest_to_the_noise_wanted() -> None:
    grid = list(range(951, 0, -50))
    assert asked_timesteps(grid, 1000) == [651, 501, 351, 201]
    assert asked_timesteps([501, 1], 1000) == [501, 1]
    assert asked_timesteps([1], 1000) == [1]
    assert len(NOISE) == len(asked_timesteps(range(999, 0, -20), 1000))


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4))
@checks(deadline=None, max_examples=30)
def test_what_is_found_is_as_cell_by_cell(seed: int, timesteps: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    responses = rng.random((timesteps, frames, 4, 6)) ** 3 + 1e-3
    means, strongest = scales(torch.from_numpy(responses).float())
    together = (responses / responses.mean(axis=(1, 2, 3), keepdims=True)).mean(axis=0)
    wide = np.pad(together, ((0, 0), (1, 1), (1, 1)), mode="edge")
    blurred = np.stack([wide[:, y : y + 4, x : x + 6] for y in range(3) for x in range(3)]).mean(axis=0)
    assert strongest == pytest.approx(np.sort(blurred.ravel())[max(1, round(0.999 * blurred.size)) - 1], rel=1e-5)
    mask = found(torch.from_numpy(responses).float(), means, strongest, 0.5, (4, 6)).numpy()
    clear = np.abs(blurred / strongest - 0.5) > 1e-4
    assert np.array_equal(mask[clear] == 1, (blurred / strongest > 0.5)[clear])
    scaled = torch.from_numpy(responses * rng.uniform(0.1, 10, (timesteps, 1, 1, 1))).float()
    again = found(scaled, *scales(scaled), 0.5, (4, 6)).numpy()  # how loud a timestep is does not matter
    assert np.array_equal(again[clear], mask[clear])
    lower = found(torch.from_numpy(responses).float(), means, strongest, 0.3, (4, 6)).numpy()
    assert (lower >= mask).all() and found(scaled, *scales(scaled), 0.5, (16, 24)).shape == (frames, 16, 24)


def test_what_has_left_the_picture_has_left_the_mask() -> None:
    responses = torch.full((2, 3, 8, 8), 0.1)
    responses[:, :2, 2:5, 2:5] = 4.0
    mask = found(responses, *scales(responses), 0.3, (8, 8))
    assert mask[0, 3, 3] == mask[1, 3, 3] == 1 and not mask[2].any()
    silent = torch.zeros(1, 2, 4, 4)
    assert not found(silent, *scales(silent), 0.3, (4, 4)).any()


def test_a_response_is_the_difference_that_words_make(pipe: AdaFlowPipeline) -> None:
    backbone = pipe.backbone
    latents = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    texts = backbone.conditioning("", "a blue circle", PROMPT)
    alone = [
        backbone.predict(latents[i : i + 1], 101, texts.rows([0], b)) for i in range(2) for b in ("negative", "prompt")
    ]  # type: ignore[arg-type]
    wanted = torch.cat([((alone[2 * i + 1] - alone[2 * i]) ** 2).sum(dim=1).sqrt() for i in range(2)])
    assert torch.allclose(respond(backbone, latents, 101, texts), wanted, atol=1e-5)
    same = backbone.conditioning("", PROMPT, PROMPT)
    assert respond(backbone, latents, 101, same).abs().max() < 1e-5


# -- in videos -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["static-7001", "pan-7020", "still-7220"])
def test_the_miniature_finds_a_things_name(name: str, tmp_path: Path) -> None:
    """Against the rendered world's own masks, in films of which none chose a setting."""
    pipe = AdaFlowPipeline.from_pretrained("miniature")
    film = world.video(name, 9)
    thing = film.shots[0].scene.objects[0]
    config = EditConfig(
        steps=10, kind="colour", source_prompt=film.caption, mask=MaskConfig(find=f"a {thing.kind}", grow=0, feather=0)
    )
    frames = film.frames()[::4]
    with pipe.opened(ArraySource(frames), pipe.resolve(config), tmp_path / "w") as run:
        trajectory = stages.invert(run, stages.encode(run), film.caption)
        mask = locate(run, trajectory, "").existing("mask").read().numpy() > 127
    truth = np.stack([film.masks(i)[0] for i in range(0, 9, 4)]) > 0.5
    assert (mask & truth).sum() / truth.sum() > 0.85  # of the thing, this much is found
    assert mask.mean() < 0.15 + 2 * truth.mean()  # and not much else


def test_only_what_is_found_is_edited(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = pipe(video(), PROMPT, config=seeking(), workspace=tmp_path / "w", on_progress=seen.append)
    mask = stored(tmp_path / "w", "mask", "mask", np.uint8, N, *SIZE).numpy()
    assert 0 < (mask > 0).mean() < 1 and set(np.unique(mask)) == {0, 255}
    edited = np.asarray(result.frames)
    assert np.array_equal(edited[mask == 0], video()[mask == 0])
    assert not np.array_equal(edited[mask == 255], video()[mask == 255])
    assert [(p.done, p.total) for p in seen if p.stage == "locate"][-1] == (N, N)
    # by hand, all frames at once
    trajectory = stored(tmp_path / "w", "trajectory", "trajectory", np.float16, STEPS, N, 4, SIZE[0] // 4, SIZE[1] // 4)
    grid = pipe.backbone.scheduler(STEPS).timesteps.tolist()
    texts = pipe.backbone.conditioning("", "", WORDS)
    rows = [respond(pipe.backbone, trajectory[grid.index(t)].float(), t, texts) for t in asked_timesteps(grid, 1000)]
    responses = torch.stack(rows)
    wanted = softened(found(responses, *scales(responses), 0.3, SIZE), MaskConfig(grow=0, feather=0, invert=False))
    assert (wanted.numpy() != mask).mean() < 0.01


def test_looking_again_costs_no_more_than_what_is_new(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    def made(**given: Any) -> set[str]:
        before = {p.name for p in (tmp_path / "w" / "stages").glob("*")}
        pipe(video(2), PROMPT, config=seeking(**given), workspace=tmp_path / "w")
        after = {p.name for p in (tmp_path / "w" / "stages").glob("*")}
        return {name.rpartition("-")[0] for name in after - before}

    assert {"located", "mask", "edit"} <= made()
    assert made() == set()
    assert made(threshold=0.5) == {"mask", "edit", "decoded"}
    assert made(words="a blue circle") == {"located", "mask", "edit", "decoded"}
    assert made(words="change") == {"located", "mask", "edit", "decoded"}


def test_a_search_that_was_stopped_goes_on(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    usual = pipe(video(), PROMPT, config=seeking(), workspace=tmp_path / "usual")

    def stop(progress: Progress) -> None:
        if progress.stage == "locate" and progress.done == 4:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        pipe(video(), PROMPT, config=seeking(), workspace=tmp_path / "w", on_progress=stop)
    seen: list[int] = []
    again = pipe(
        video(), PROMPT, config=seeking(), workspace=tmp_path / "w",
        on_progress=lambda p: seen.append(p.done) if p.stage == "locate" else None,
    )  # fmt: skip
    assert seen[0] > 4 and np.array_equal(again.frames, usual.frames)


def test_a_preview_looks_as_well(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    found_ = pipe.preview(video(), PROMPT, keyframes=3, config=seeking(threshold=0.8), workspace=tmp_path / "w")
    whole = pipe.preview(video(), PROMPT, keyframes=3, config=settings(), workspace=tmp_path / "w")
    kept = [(e == s).all(axis=2).mean() for e, s in zip(found_.edited, found_.source, strict=True)]
    assert 0.1 < np.mean(kept) < 1
    assert np.mean([(e == s).all(axis=2).mean() for e, s in zip(whole.edited, whole.source, strict=True)]) < 0.05


def test_what_contradicts_itself_is_refused(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    for ask in (pipe, pipe.preview):
        with pytest.raises(ConfigError, match="leave one of them away"):
            ask(video(), PROMPT, mask=moving(), config=seeking(), workspace=tmp_path / "w")
    with pytest.raises(ConfigError, match="not with tokenflow"):
        pipe(video(), PROMPT, method="tokenflow", config=seeking(), workspace=tmp_path / "w")
    with pytest.raises(InputError, match="the miniature knows no word"):
        AdaFlowPipeline.from_pretrained("miniature")(
            video(), "a red car", config=seeking("zeppelins"), workspace=tmp_path / "w"
        )
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_the_estimate_counts_the_timesteps_that_are_asked(pipe: AdaFlowPipeline, tmp_path: Path, steps: int) -> None:
    """With few steps there are fewer than `NOISE` names; rows by the calls made, bytes by the files written."""
    few = EditConfig(steps=steps)
    found, plain = few.over(seeking()), few.over(seeking(""))
    rows: list[int] = []
    with pipe.backbone.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0]))):
        seen: dict[str, int] = {}
        pipe(
            video(), PROMPT, config=found, workspace=tmp_path / "w",
            on_progress=lambda p: seen.__setitem__(p.stage, len(rows)),
        )  # fmt: skip
    made = sum(rows[seen["invert"] : seen["locate"]])
    files = [f for name in ("located", "mask") for f in (tmp_path / "w" / "stages").glob(f"{name}-*/*.bin")]
    costs = UnitCosts(**{field.name: 1.0 for field in fields(UnitCosts)})
    with pipe.opened(ArraySource(video()), pipe.resolve(found), tmp_path / "w") as run:
        assert estimate(run, 3, costs, times=1).seconds["locate"] == made
        needed = disk_bytes(run, 3)
    with pipe.opened(ArraySource(video()), pipe.resolve(plain), tmp_path / "w") as run:
        assert needed - disk_bytes(run, 3) == sum(file.stat().st_size for file in files)


# -- because a model's card says so ----------------------------------------------------------------------------------

KINDS = {"object": {"mask.find": "change", "mask.grow": 2, "steps": STEPS}}
SOURCE = "a blue circle on a beach"


def searching() -> AdaFlowPipeline:
    return AdaFlowPipeline.from_pipe(tiny_pipeline(), replace(find_card("miniature"), size=SIZE, kinds=KINDS))


def test_a_kind_looks_for_what_changes_where_there_is_something_to_compare() -> None:
    def found_by(masked: bool = False, **given: Any) -> tuple[str, int]:
        found = searching().resolve(EditConfig.from_fields({"kind": "object", **given}), masked=masked)
        assert found.steps == STEPS  # all else that the kind sets stays
        return found.mask.find, found.mask.grow

    known = {"source_prompt": SOURCE}
    assert found_by(**known) == ("change", 2)
    assert found_by() == ("", 0)  # nothing to compare the prompt with
    assert found_by(**known, masked=True) == ("", 0)  # a mask is taken as it is
    assert found_by(**known, method="tokenflow") == ("", 0)
    assert found_by(**known, **{"mask.find": ""}) == ("", 0)
    assert found_by(**{"mask.find": "a circle"}) == ("a circle", 2)
    assert found_by(**known, **{"mask.find": "a circle", "mask.grow": 5}) == ("a circle", 5)


def test_the_miniatures_card_edits_colours_and_objects_locally() -> None:
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline(), find_card("miniature"))
    for kind, local in {"colour": True, "object": True, "background": False, "style": False}.items():
        found = pipe.resolve(EditConfig(kind=kind, source_prompt=SOURCE))  # type: ignore[arg-type]
        assert found.mask.find == ("change" if local else "")


def test_a_kind_that_looks_edits_what_it_finds_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = seeking("change", grow=2).over(EditConfig(source_prompt=SOURCE))
    by_card = EditConfig.from_fields(
        {name: value for name, value in asked.set_fields().items() if name not in ("mask.find", "mask.grow", "steps")}
        | {"kind": "object"}
    )
    results = []
    for config in (asked, by_card):
        caplog.clear()
        results.append(searching()(video(), PROMPT, config=config, workspace=tmp_path / "w"))
        noted = [record.message for record in caplog.records if "mask.find ''" in record.message]
        assert len(noted) == (config is by_card)
    assert np.array_equal(np.asarray(results[0].frames), np.asarray(results[1].frames))
    caplog.clear()
    mask = np.full(SIZE, 255, np.uint8)
    searching()(video(), PROMPT, mask=mask, config=by_card, workspace=tmp_path / "w")
    assert not [record for record in caplog.records if "mask.find" in record.message]
