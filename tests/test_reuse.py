"""Deep features reused between steps, against whole passes of the UNet whose last decoder block is fed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_pipeline
from test_pipeline import PROMPT, N, final_latents, settings, stage_folders, video
from torch import Tensor

from adaflow import AdaFlowPipeline, EditConfig, InjectionConfig, SlimmingConfig
from adaflow.attention import KeyPass, MemoryRecord, attention_installed
from adaflow.backbone import Backbone, Branch
from adaflow.cards import ModelCard
from adaflow.config import resolve
from adaflow.diskarray import DiskArray
from adaflow.editing import edit_keyframes
from adaflow.editor import Editor
from adaflow.errors import Cancelled, ConfigError
from adaflow.injection import injected_within
from adaflow.inversion import guided, invert
from adaflow.progress import Progress
from adaflow.reuse import DiskDeepFeatures, MemoryDeepFeatures, deep_features, deep_features_only
from adaflow.steps import EDITED, edit_steps

ALL: tuple[Branch, ...] = ("source", *EDITED)
HALF = InjectionConfig(features=0.5, attention=0.75)


def make(**options: Any) -> Backbone:
    return Backbone(tiny_pipeline(**options), ModelCard(name="tiny"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hooks(unet: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


# -- the finest level ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(8, 12), (7, 11)])
@pytest.mark.parametrize("timestep", [1, 401, torch.tensor(981)])
@pytest.mark.parametrize("options", [{"levels": 2}, {"levels": 3, "layers": 2}, {"levels": 4}, {"channels": 32}])
def test_given_its_own_deep_features_it_is_the_whole_unet_bit_for_bit(
    options: dict[str, Any], timestep: Any, grid: tuple[int, int]
) -> None:
    backbone = make(**options)
    latents, text = noise(3, 4, *grid), backbone.conditioning("a", "b", "c").rows([0], *ALL)
    taken: list[Tensor] = []
    with deep_features(backbone.unet, taken.append):
        whole = backbone.predict(latents, timestep, text)
    assert taken[0].shape == (3, backbone.finest.channels, *grid)
    assert torch.equal(backbone.predict_finest(latents, timestep, taken[0], text), whole)
    with deep_features_only(backbone.unet, taken.append):
        backbone.predict(latents, timestep, text)
    assert torch.equal(taken[1], taken[0]) and hooks(backbone.unet) == 0


def test_the_embedded_model_too() -> None:
    backbone = AdaFlowPipeline.from_pretrained("miniature", device="cpu", torch_dtype=torch.float32).backbone
    latents = noise(2, backbone.unet.config.in_channels, 16, 28)
    text = backbone.conditioning("a red car", "", "a blue car").rows([0], *EDITED)
    taken: list[Tensor] = []
    with deep_features(backbone.unet, taken.append):
        whole = backbone.predict(latents, 501, text)
    assert torch.equal(backbone.predict_finest(latents, 501, taken[0], text), whole)


@pytest.mark.parametrize("sites", ["pnp", "wide"])
def test_with_processors_and_injection_installed_too(sites: Any) -> None:
    backbone = make(layers=2)
    latents, text = noise(6, 4, 8, 12), backbone.conditioning("a", "b", "c").rows(range(2), *ALL)
    queries = frozenset(site.name for site in backbone.injection_attention_sites())
    found = []
    taken: list[Tensor] = []
    for whole in (True, False):
        record = MemoryRecord(torch.device("cpu"))
        processor = KeyPass(ALL, 2, injected=queries, record=record).processor
        with (
            attention_installed(backbone.unet, backbone.attention_sites(), processor),
            injected_within(backbone.unet, backbone.injection_feature_sites(sites), 3),
        ):
            if whole:
                with deep_features(backbone.unet, taken.append):
                    out = backbone.predict(latents, 301, text)
            else:
                out = backbone.predict_finest(latents, 301, taken[0], text)
        found.append((out, record))
    assert torch.equal(found[0][0], found[1][0])
    for site in backbone.attention_sites():
        if backbone.in_finest_level(site):
            whole_record, finest = (record.get(site.name, 1, slice(0, 3)) for _, record in found)
            assert torch.equal(whole_record, finest)
        else:
            with pytest.raises(KeyError):
                found[1][1].get(site.name, 1, slice(0, 3))


def test_hooks_are_gone_after_an_exception() -> None:
    unet = make().unet
    for context in (deep_features, deep_features_only):
        with pytest.raises(KeyError), context(unet, lambda _: None):
            assert hooks(unet) > 0
            raise KeyError
        assert hooks(unet) == 0


def test_models_with_parts_that_are_not_known_are_refused() -> None:
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline())
    assert pipe.resolve(EditConfig(reuse=3)).reuse == 3
    pipe.backbone.unet.register_to_config(class_embed_type="timestep")
    with pytest.raises(ConfigError, match=r"reuse 3 is not known for this model \(class_embed_type\); use reuse 1"):
        pipe.resolve(EditConfig(reuse=3))
    with pytest.raises(ConfigError, match=r"^inversion_reuse 2 is not known .*; use inversion_reuse 1"):
        pipe.resolve(EditConfig(inversion_reuse=2))
    assert pipe.resolve(EditConfig()).reuse == 1


# -- the steps -------------------------------------------------------------------------------------------------------


@given(
    steps=st.integers(1, 30),
    reuse=st.integers(1, 8),
    start=st.floats(0, 1),
    length=st.floats(0, 1),
    share=st.floats(0, 1),
)
def test_a_step_is_whole_in_its_turn_or_where_a_branch_is_new(
    steps: int, reuse: int, start: float, length: float, share: float
) -> None:
    config = EditConfig(
        steps=steps,
        reuse=reuse,
        guidance_start=start,
        guidance_end=min(1.0, start + length),
        injection=InjectionConfig(features=share, attention=share),
    )
    found = edit_steps(resolve(config), range(steps))
    kept: set[Branch] = set()
    for s, step in enumerate(found):
        assert (step.number, step.timestep) == (s, s)
        assert step.whole == (s % reuse == 0 or not set(step.edited) <= kept)
        if step.whole:
            kept = set(step.edited)
        first, last = int(start * steps + 1e-9), int(min(1.0, start + length) * steps + 1e-9)
        assert step.guided == (first <= s < last)
        assert step.edited == (("negative", "prompt") if step.guided else ("prompt",))
        assert step.branches == (("source",) if s < int(share * steps + 1e-9) else ()) + step.edited


def test_by_default_every_step_is_whole_and_guided() -> None:
    assert all(step.whole and step.guided for step in edit_steps(resolve(EditConfig(steps=7)), range(7)))


# -- edits -----------------------------------------------------------------------------------------------------------


def keyframes_by_hand(backbone: Backbone, config: Any, text: Any, trajectory: dict[int, Tensor]) -> Tensor:
    """The joint edit of keyframes by whole passes; in steps between, the last decoder block is fed by a hook."""
    unet, scheduler = backbone.unet, backbone.scheduler(config.steps)
    queries = frozenset(site.name for site in backbone.injection_attention_sites())
    sites = backbone.injection_feature_sites(config.injection.sites)
    kept: Tensor | None = None
    x = trajectory[int(scheduler.timesteps[0])]
    m = len(x)
    for s, t in enumerate(scheduler.timesteps.tolist()):
        features = s < int(config.injection.features * config.steps)
        attention = s < int(config.injection.attention * config.steps)
        branches: tuple[Branch, ...] = ALL if features or attention else EDITED
        inputs = torch.cat([trajectory[t] if branch == "source" else x for branch in branches])

        def feed(_module: Any, _args: Any, kwargs: dict[str, Any], turn: bool = s % config.reuse == 0) -> Any:
            nonlocal kept
            deep = kwargs["hidden_states"]
            if turn:
                kept = deep[-2 * m :]
                return None
            return (), {**kwargs, "hidden_states": torch.cat([deep[: -2 * m], kept])}

        handle = unet.up_blocks[-1].register_forward_pre_hook(feed, with_kwargs=True)
        this = KeyPass(branches, m, injected=queries if attention else frozenset())
        with (
            attention_installed(unet, backbone.attention_sites(), this.processor),
            injected_within(unet, sites if features else [], len(branches)),
        ):
            out = backbone.predict(inputs, t, text.rows(range(m), *branches))
        handle.remove()
        x = scheduler.step(guided(out[-2 * m :], config.guidance_scale), t, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("reuse", "sites"), [(1, "pnp"), (2, "pnp"), (2, "wide"), (3, "pnp"), (9, "wide")])
def test_an_edit_of_keyframes_equals_whole_passes_fed_by_hand(kind: str, reuse: int, sites: Any) -> None:
    backbone = make(prediction_type=kind)
    text = backbone.conditioning("a photo", "bad", PROMPT)
    injection = InjectionConfig(features=0.5, attention=0.75, sites=sites)
    config = resolve(EditConfig(steps=5, reuse=reuse, guidance_scale=3.0, injection=injection))
    trajectory = invert(backbone, noise(3, 4, 8, 12), text, 5)
    found = edit_keyframes(Editor(backbone, config, text), trajectory, range(3), lambda _: torch.zeros(0))
    expected = keyframes_by_hand(backbone, config, text, trajectory)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    plain = edit_keyframes(
        Editor(backbone, resolve(EditConfig(steps=5, guidance_scale=3.0, injection=injection)), text),
        trajectory,
        range(3),
        lambda _: torch.zeros(0),
    )
    assert torch.equal(found, plain) if reuse == 1 else (found - plain).abs().max() > 1e-3


@pytest.mark.parametrize("sites", ["pnp", "wide"])
@pytest.mark.parametrize("reuse", [2, 5])
def test_in_a_still_video_every_frame_is_its_keyframe(
    pipe: AdaFlowPipeline, reuse: int, sites: Any, tmp_path: Path
) -> None:
    """Also where the frame that is the keyframe changes from step to step: all of them have the same deep features."""
    check_still(pipe, tmp_path / "w", reuse=reuse, injection=InjectionConfig(features=0.5, attention=0.75, sites=sites))


def check_still(pipe: AdaFlowPipeline, workspace: Path, **given: Any) -> None:
    """Edit a still video; what comes of every frame is what comes of one that is a keyframe at every step."""
    still = np.repeat(video(1), 4, axis=0)
    config = settings(steps=5, guidance_scale=3.0, negative_prompt="bad", source_prompt="a photo", **given)
    result = pipe(still, PROMPT, config=config, workspace=workspace)
    assert len(result.partition) == 1 and len(set(result.schedule[:, 0].tolist())) > 1
    found = final_latents(workspace, 4, 5)
    text = pipe.backbone.conditioning("a photo", "bad", PROMPT)
    image = torch.from_numpy(still[:1])
    trajectory = {t: z.half().float() for t, z in invert(pipe.backbone, pipe.backbone.encode(image), text, 5).items()}
    expected = keyframes_by_hand(pipe.backbone, resolve(config), text, trajectory)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("sites", ["pnp", "wide"])
def test_steps_between_call_only_what_they_need(
    pipe: AdaFlowPipeline, sites: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of whole passes and of the finest level, step by step, for clips of 4, 4 and 1 frames."""
    config = settings(steps=4, reuse=2, injection=InjectionConfig(features=1.0, attention=0.0, sites=sites))
    calls: list[tuple[str, int, int]] = []
    plain, finest = pipe.backbone.predict, pipe.backbone.predict_finest

    def predict(z: Tensor, t: int, *rest: Any) -> Tensor:
        calls.append(("whole", t, len(z)))
        return plain(z, t, *rest)

    def predict_finest(z: Tensor, t: int, *rest: Any) -> Tensor:
        calls.append(("finest", t, len(z)))
        return finest(z, t, *rest)

    pipe(video(), "something else", config=config, workspace=tmp_path / "w")
    monkeypatch.setattr(pipe.backbone, "predict", predict)
    monkeypatch.setattr(pipe.backbone, "predict_finest", predict_finest)
    pipe(video(), PROMPT, config=config, workspace=tmp_path / "w")

    def rows(kind: str, t: int) -> int:
        return sum(n for k, at, n in calls if (k, at) == (kind, t))

    for t in (751, 251):
        assert rows("whole", t) == 3 * 3 + N * (1 + 2) and rows("finest", t) == 0
    for t in (501, 1):
        source = N if sites == "wide" else 0  # what is injected in the last block is the source's own, exactly
        assert rows("whole", t) == 3 + source and rows("finest", t) == 3 * 3 + N * 2


@pytest.mark.parametrize("record", ["memory", "disk"])
def test_stopped_at_any_step_the_bytes_are_the_same(pipe: AdaFlowPipeline, record: Any, tmp_path: Path) -> None:
    from adaflow.config import RunConfig

    config = settings(
        steps=4, reuse=3, injection=HALF, slimming=SlimmingConfig(budget=1), run=RunConfig(rows=4, record=record)
    )
    check_stopped(pipe, config, tmp_path)


def check_stopped(pipe: AdaFlowPipeline, config: EditConfig, folder: Path) -> None:
    """Stop an edit of four steps in one after the other, whole ones and those between, and go on: the same bytes."""
    expected = np.asarray(pipe(video(), PROMPT, config=config, workspace=folder / "a").frames).tobytes()

    def edit(at: int) -> Any:
        def on_progress(progress: Progress) -> None:
            if progress.stage == "edit" and progress.done == at:
                raise Cancelled("enough")

        return pipe(video(), PROMPT, config=config, workspace=folder / "b", on_progress=on_progress)

    for at in (4, N, N + 4, 2 * N + 8, 3 * N + 4):
        with pytest.raises(Cancelled):
            edit(at)
    assert np.asarray(edit(-1).frames).tobytes() == expected


def test_reuse_changes_the_edit_and_nothing_before_it(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    plain = np.asarray(pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w").frames)
    before = stage_folders(tmp_path / "w")
    found = np.asarray(pipe(video(), PROMPT, config=settings(reuse=2), workspace=tmp_path / "w").frames)
    after = stage_folders(tmp_path / "w")
    assert sorted(name.split("-")[0] for name in after.keys() - before.keys()) == ["decoded", "edit"]
    assert all(after[name] == content for name, content in before.items())
    assert not np.array_equal(found, plain)
    found = pipe.inspect(video(), config=settings(reuse=2), workspace=tmp_path / "w").estimate
    usual = pipe.inspect(video(), config=settings(), workspace=tmp_path / "w").estimate
    assert found.disk_bytes - usual.disk_bytes == N * 2 * pipe.backbone.finest.channels * 8 * 12 * 4
    assert min(found.seconds["edit"], usual.seconds["edit"]) > 0


def test_inversion_reuse_is_a_trajectory_of_its_own(
    pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(steps=4, inversion_reuse=3)
    pipe(video(), PROMPT, config=settings(steps=4), workspace=tmp_path / "w")
    before = stage_folders(tmp_path / "w")
    rows: list[int] = []
    finest = pipe.backbone.predict_finest

    def predict_finest(z: Tensor, *rest: Any) -> Tensor:
        rows.append(len(z))
        return finest(z, *rest)

    seconds = pipe.inspect(video(), config=config, workspace=tmp_path / "w").estimate.seconds
    assert seconds["invert"] > 0 == seconds["match"]
    monkeypatch.setattr(pipe.backbone, "predict_finest", predict_finest)
    pipe(video(), PROMPT, config=config, workspace=tmp_path / "w")
    assert sum(rows) == 2 * N  # of four steps the second and the third
    new = sorted(name.split("-")[0] for name in stage_folders(tmp_path / "w").keys() - before.keys())
    assert new == ["decoded", "edit", "trajectory"]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_deep_features_are_those_put_last(where: str, tmp_path: Path) -> None:
    array = DiskArray.create(tmp_path / "deep.bin", (2, 9, 3, 2, 2), torch.float32)
    store = MemoryDeepFeatures() if where == "memory" else DiskDeepFeatures(array)
    rows = noise(4, 3, 2, 2)
    store.put([7, 2], EDITED, rows)
    assert torch.equal(store.get([2], ("prompt",)), rows[3:])
    assert torch.equal(store.get([2, 7], EDITED), rows[[1, 0, 3, 2]])
    store.put([2], ("prompt",), rows[:1])
    assert torch.equal(store.get([2], ("prompt",)), rows[:1])
    with pytest.raises((KeyError, IndexError)):
        store.get([9], EDITED)
