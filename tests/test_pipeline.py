"""Whole edits of small videos by tiny random models, against an edit of one image written out by hand."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, StableDiffusionPipeline
from models import save_tiny, tiny_pipeline
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from adaflow import AdaFlowPipeline, EditConfig
from adaflow import editing as editing_module
from adaflow import editor as editor_module
from adaflow import estimate as estimate_module
from adaflow.backbone import Backbone
from adaflow.cards import ModelCard
from adaflow.config import (
    FeatureConfig,
    InjectionConfig,
    KeyframeConfig,
    OutputConfig,
    RunConfig,
    SlimmingConfig,
    resolve,
)
from adaflow.directions import energy, leading_directions
from adaflow.errors import Cancelled, ConfigError, InputError, ResourceError
from adaflow.inversion import invert
from adaflow.progress import STAGES, Progress
from adaflow.run import Geometry
from adaflow.slimming import kept_tokens

PROMPT, SIZE, STEPS = "a red square", (32, 48), 3
N, LONGEST = 9, 4
MADE = [stage for stage in STAGES if stage not in ("mask", "locate")]  # by an edit of everything


def settings(**given: Any) -> EditConfig:
    """Three clips of 4, 4 and 1 frames, whatever a random model makes of them; two frames a run."""
    usual = {
        "steps": STEPS,
        "keyframes": KeyframeConfig(longest_clip=LONGEST, mean_threshold=-1.0, window_threshold=-1.0),
        "run": RunConfig(rows=4),
    }
    return EditConfig(**(usual | given))


def video(n: int = N, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """Coloured blobs that wander."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((size[1] + n, size[0]), Image.Resampling.BICUBIC))
    return np.stack([image[:, i : i + size[1]] for i in range(n)])


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)  # what is made once per module is made before each test's own fixtures
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


@pytest.fixture(scope="module")
def usual(pipe: AdaFlowPipeline, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The undisturbed edit."""
    return np.asarray(pipe(video(), PROMPT, config=settings(), workspace=tmp_path_factory.mktemp("usual") / "w").frames)


def final_latents(workspace: Path, n: int, steps: int) -> Tensor:
    """[n, 4, h, w] as the edit left them on disk."""
    (folder,) = (workspace / "stages").glob("edit-*")
    data = np.fromfile(folder / f"{('even', 'odd')[(steps - 1) % 2]}.bin", np.float32)
    return torch.from_numpy(data).view(n, 4, SIZE[0] // 4, SIZE[1] // 4)


# -- the whole -------------------------------------------------------------------------------------------------------


def test_an_edit_gives_a_video_and_says_how(pipe: AdaFlowPipeline, tmp_path: Path, usual: np.ndarray) -> None:
    seen: list[Progress] = []
    result = pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w", on_progress=seen.append)
    assert result.frames.shape == (N, *SIZE, 3) and len(result.frames) == N
    assert [(c.start, c.stop) for c in result.partition.clips] == [(0, 4), (4, 8), (8, 9)]
    assert result.schedule.shape == (STEPS, 3)
    assert all(
        c.start <= k < c.stop
        for row in result.schedule.tolist()
        for c, k in zip(result.partition.clips, row, strict=True)
    )
    assert result.record["prompt"] == PROMPT and result.record["settings"]["steps"] == STEPS
    assert result.record["plan"] == {"rows": 4, "threads": 1, "shrunk": 0}
    assert list(dict.fromkeys(p.stage for p in seen)) == [stage for stage in MADE if stage != "write"]
    for stage in set(MADE) - {"write"}:
        done = [p.done for p in seen if p.stage == stage]
        assert done == sorted(done) and done[-1] == next(p.total for p in seen if p.stage == stage)
    assert np.asarray(result.frames).tobytes() == usual.tobytes()  # and two runs give the same bytes
    assert usual.dtype == np.uint8 and not np.array_equal(usual, video())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("levels", [2, 3, 4])
def test_models_of_both_predictions_and_of_several_depths(kind: str, levels: int, tmp_path: Path) -> None:
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline(levels=levels, prediction_type=kind))
    result = pipe(video(5), PROMPT, config=settings(), workspace=tmp_path / "w")
    assert np.asarray(result.frames).shape == (5, *SIZE, 3)
    assert final_latents(tmp_path / "w", 5, STEPS).isfinite().all()


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_presets(pipe: AdaFlowPipeline, preset: str, tmp_path: Path, usual: np.ndarray) -> None:
    config = settings(preset=preset, inversion_steps=STEPS, slimming=SlimmingConfig(budget=2))
    result = pipe(video(), PROMPT, config=config, workspace=tmp_path / "w")
    found = result.record["settings"]
    assert found["slimming.own_tokens"] is False
    assert found["features.ensemble"] == (8 if preset == "released" else 1)
    assert found["inversion_steps"] == STEPS
    frames = np.asarray(result.frames)
    assert frames.shape == usual.shape and not np.array_equal(frames, usual)


def stored_features(workspace: Path, n: int, depth: int) -> Tensor:
    """[n, tokens, d] of the one analysis in a workspace."""
    (folder,) = (workspace / "stages").glob("features-*")
    return torch.from_numpy(np.fromfile(folder / "features.bin", np.float16)).view(n, -1, depth).float()


def test_short_features_are_the_whole_ones_projected(pipe: AdaFlowPipeline, tmp_path: Path, usual: np.ndarray) -> None:
    whole = pipe.backbone.feature_channels(-2)
    short = {"features": FeatureConfig(dimensions=6)}
    result = pipe(video(), PROMPT, config=settings(**short), workspace=tmp_path / "short")
    pipe.inspect(video(), config=settings(), workspace=tmp_path / "whole")
    full = stored_features(tmp_path / "whole", N, whole)
    directions = leading_directions(sum(energy(frame) for frame in full), 6)
    assert (stored_features(tmp_path / "short", N, 6) - full @ directions).abs().max() < 0.02 * full.abs().max()
    assert result.frames.shape == usual.shape

    same = {"features": FeatureConfig(dimensions=10 * whole)}  # more than there are: all
    result = pipe(video(), PROMPT, config=settings(**same), workspace=tmp_path / "all")
    assert np.asarray(result.frames).tobytes() == usual.tobytes()


@pytest.mark.parametrize("other", [{"ensemble": 2}, {"input_range": "unit"}])
def test_short_features_are_of_latents(pipe: AdaFlowPipeline, other: dict[str, Any], tmp_path: Path) -> None:
    config = settings(features=FeatureConfig(dimensions=6, **other))
    with pytest.raises(ConfigError, match=r"features\.dimensions goes with features of the stored latents alone"):
        pipe(video(), PROMPT, config=config, workspace=tmp_path / "w")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_short_videos(pipe: AdaFlowPipeline, n: int, tmp_path: Path) -> None:
    result = pipe(video(n), PROMPT, config=settings(run=RunConfig(rows=1)), workspace=tmp_path / "w")
    assert result.frames.shape == (n, *SIZE, 3) and len(result.partition) == 1


def test_inspect_and_preview(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    for rows in (1, 4):
        found = pipe.inspect(video(), config=settings(run=RunConfig(rows=rows)), workspace=tmp_path / "w")
        assert len(found.partition) == 3 and min(found.estimate.seconds.values()) > 0
    pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w")
    for kept in (tmp_path / "w").rglob("costs-*.json"):
        kept.write_text('{"row": 1.0, "of another version": 2.0}')
    again = pipe.inspect(video(), config=settings(), workspace=tmp_path / "w").estimate.seconds
    assert again["invert"] == again["match"] == 0 < again["edit"]  # what is in the workspace is not counted again
    told: list[Progress] = []
    shown = pipe.preview(
        video(), PROMPT, keyframes=2, config=settings(), workspace=tmp_path / "w", on_progress=told.append
    )
    assert shown.keys == [2, 8] and shown.clips == 3
    for stage, units in {"invert": STEPS, "edit": STEPS, "decode": 2}.items():
        assert [(p.done, p.total) for p in told if p.stage == stage] == [(i + 1, units) for i in range(units)]
    assert np.array_equal(shown.source[0], video()[2]) and shown.edited[0].shape == (*SIZE, 3)


# -- one image, by hand ----------------------------------------------------------------------------------------------


class OwnAttention:
    """Self-attention in which later rows may take the first row's queries and keys."""

    def __init__(self, inject: bool) -> None:
        self.inject = inject

    def __call__(self, attn: Any, x: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None) -> Tensor:
        asked = x[:1].expand_as(x) if self.inject else x
        q, k, v = attn.to_q(asked), attn.to_k(asked), attn.to_v(x)
        q, k, v = (y.view(len(x), -1, attn.heads, y.shape[-1] // attn.heads).transpose(1, 2) for y in (q, k, v))
        return attn.to_out[0](scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


class FirstRowOnly(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.on = inner, False

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        return out[:1].expand_as(out) if self.on else out


def plug_and_play(pipe: StableDiffusionPipeline, image: np.ndarray, config: EditConfig, kind: str) -> Tensor:
    """PnP on one image [H, W, 3] with a model of three levels: clean latents. No hooks, nothing of AdaFlow's."""
    unet, steps = copy.deepcopy(pipe.unet), config.steps
    unet.set_attn_processor(
        {name: OwnAttention(False) if "attn1" in name else p for name, p in unet.attn_processors.items()}
    )
    queries = [name for name in unet.attn_processors if "up_blocks" in name and "attn1" in name]
    queries = [name for name in queries if not name.startswith("up_blocks.1.attentions.0")]
    resnet = unet.up_blocks[1].resnets[1]
    resnet.conv2 = FirstRowOnly(resnet.conv2)
    text = torch.cat([pipe.encode_prompt(t, "cpu", 1, False)[0] for t in ("a photo", "bad", PROMPT)])
    with torch.no_grad():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        z = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
        inverse = DDIMInverseScheduler.from_config(pipe.scheduler.config, timestep_spacing="leading")
        inverse.set_timesteps(steps)
        source = {}
        for t in inverse.timesteps:
            z = inverse.step(unet(z, t, text[:1]).sample, t, z).prev_sample
            source[int(t)] = z.half().float()  # kept on disk in half precision
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alphas = (1 - betas).cumprod(0)
        times = sorted(source, reverse=True)
        x = source[times[0]]
        for number, t in enumerate(times):
            inject_features = number < int(config.injection.features * steps)
            inject_queries = number < int(config.injection.attention * steps)
            resnet.conv2.on = inject_features
            for name in queries:
                unet.get_submodule(name.removesuffix(".processor")).processor.inject = inject_queries
            out = unet(torch.cat([source[t], x, x]), t, text).sample
            start, end = (int(share * steps) for share in (config.guidance_start or 0.0, config.guidance_end or 1.0))
            scale = config.guidance_scale if start <= number < end else 1.0  # no guidance: the prompt's own prediction
            out = (out[1:2] + scale * (out[2:] - out[1:2])).double()
            a, b = alphas[t], alphas[times[number + 1]] if number + 1 < steps else alphas[0]
            if kind == "epsilon":
                epsilon, clean = out, (x - (1 - a).sqrt() * out) / a.sqrt()
            else:
                epsilon, clean = a.sqrt() * out + (1 - a).sqrt() * x, a.sqrt() * x - (1 - a).sqrt() * out
            x = (b.sqrt() * clean + (1 - b).sqrt() * epsilon).float()
    return x


def by_hand_settings(**given: Any) -> EditConfig:
    injection = InjectionConfig(features=0.75, attention=0.5)
    return settings(
        steps=4, guidance_scale=3.0, negative_prompt="bad", source_prompt="a photo", injection=injection, **given
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_one_frame_is_plug_and_play_on_an_image(kind: str, tmp_path: Path) -> None:
    made = tiny_pipeline(prediction_type=kind)
    config, image = by_hand_settings(), video(1)
    result = AdaFlowPipeline.from_pipe(made)(image, PROMPT, config=config, workspace=tmp_path / "w")
    expected = plug_and_play(made, image[0], config, kind)
    found = final_latents(tmp_path / "w", 1, 4)
    print(f"n = 1 against PnP by hand, {kind}: {(found - expected).abs().max():.2e} of {expected.abs().max():.2f}")
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    with torch.no_grad():
        pixels = made.vae.decode(found / made.vae.config.scaling_factor).sample[0].permute(1, 2, 0)
    shown = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().numpy().astype(int)
    assert np.abs(shown - result.frames[0].astype(int)).max() <= 1


@pytest.mark.parametrize(("start", "end"), [(0.25, 0.75), (0.5, 1.0), (0.0, 0.5), (0.5, 0.5)])
def test_guidance_in_an_interval_is_plug_and_play_with_it(start: float, end: float, tmp_path: Path) -> None:
    made, image = tiny_pipeline(), video(1)
    config = by_hand_settings(guidance_start=start, guidance_end=end)
    AdaFlowPipeline.from_pipe(made)(image, PROMPT, config=config, workspace=tmp_path / "w")
    expected, found = plug_and_play(made, image[0], config, "epsilon"), final_latents(tmp_path / "w", 1, 4)
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    always = plug_and_play(made, image[0], by_hand_settings(), "epsilon")
    assert (expected - always).abs().max() > 1e-2 * expected.abs().max()


def test_without_guidance_no_negative_row_is_run(
    pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(video(), "something else", config=settings(), workspace=tmp_path / "w")
    before = stage_folders(tmp_path / "w")
    rows: Counter[int] = Counter()
    predict = pipe.backbone.predict

    def counted(latents: Tensor, timestep: int, *rest: Any) -> Tensor:
        rows[timestep] += len(latents)
        return predict(latents, timestep, *rest)

    monkeypatch.setattr(pipe.backbone, "predict", counted)
    config = settings(guidance_start=0.4, guidance_end=0.7)  # the second of three steps
    pipe(video(), PROMPT, config=config, workspace=tmp_path / "w")
    # source and prompt; source, negative and prompt; prompt: of 3 keyframes, and of all frames
    assert rows == {667: (3 + N) * 2, 334: (3 + N) * 3, 1: (3 + N) * 1}
    after = stage_folders(tmp_path / "w")
    assert sorted(name.split("-")[0] for name in after.keys() - before.keys()) == ["decoded", "edit"]
    # not by the clock: a second is a row
    monkeypatch.setattr(estimate_module, "measure_key", lambda run, clips, edited, *_: 1.0 + len(edited))
    monkeypatch.setattr(
        estimate_module, "measure_propagation", lambda run, clips, costs, edited, *_: (1.0, float(len(edited)))
    )
    estimates = [
        pipe.inspect(video(), config=settings(**given), workspace=tmp_path / "w").estimate.seconds["edit"]
        for given in ({}, {"guidance_end": 0.0})
    ]
    assert 0 < estimates[1] < estimates[0]


def test_the_inversion_may_have_fewer_steps(pipe: AdaFlowPipeline, tmp_path: Path, usual: np.ndarray) -> None:
    seen: list[Progress] = []
    result = pipe(
        video(), PROMPT, config=settings(inversion_steps=2), workspace=tmp_path / "w", on_progress=seen.append
    )
    assert result.record["settings"]["inversion_steps"] == 2
    assert np.asarray(result.frames).shape == usual.shape and not np.array_equal(result.frames, usual)
    done = [p.done for p in seen if p.stage == "invert"]
    assert done == sorted(done) and done[-1] == seen_total(seen, "invert") == N * STEPS
    trajectory = read(tmp_path / "w", "trajectory", "trajectory", np.float16, (STEPS, N, 4, 8, 12))
    latents = read(tmp_path / "w", "latents", "latents", np.float32, (N, 4, 8, 12))
    expected = invert(pipe.backbone, latents, pipe.backbone.conditioning("", "", ""), 2, sampling_steps=STEPS)
    for row, t in zip(trajectory, sorted(expected, reverse=True), strict=True):
        assert (row.float() - expected[t]).abs().max() < 1e-2
    shown = pipe.preview(video(), PROMPT, keyframes=2, config=settings(inversion_steps=1), workspace=tmp_path / "w")
    assert len(shown.edited) == 2


def test_keyframes_without_a_budget_are_edited_each_alone(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """Every frame a keyframe that sees only itself: Plug-and-Play, frame by frame."""
    config = by_hand_settings(keyframes=KeyframeConfig(longest_clip=1), slimming=SlimmingConfig(budget=0))
    result = pipe(video(3), PROMPT, config=config, workspace=tmp_path / "w")
    assert len(result.partition) == 3
    latents = final_latents(tmp_path / "w", 3, 4)
    for frame, found in zip(video(3), latents, strict=True):
        expected = plug_and_play(pipe.backbone.pipe, frame, config, "epsilon")[0]
        assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_in_a_still_video_every_frame_is_its_keyframe(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """All frames are the keyframe, so each must come out as the edit of that one image alone."""
    still = np.repeat(video(1), 4, axis=0)
    config = by_hand_settings()
    result = pipe(still, PROMPT, config=config, workspace=tmp_path / "w")
    assert len(result.partition) == 1
    latents = final_latents(tmp_path / "w", 4, 4)
    expected = plug_and_play(pipe.backbone.pipe, still[0], config, "epsilon")
    assert (latents - latents[:1]).abs().max() < 1e-3
    assert (latents - expected).abs().max() < 1e-3 * expected.abs().max()


def test_each_run_is_given_its_frames_matches_and_source(
    pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the propagation, against features and trajectory on disk and cosines in float64."""
    given: list[tuple[Any, ...]] = []
    propagate = editing_module.Editor.propagate

    def noted(self: Any, *rest: Any) -> Tensor:
        given.append(rest[:6])
        return propagate(self, *rest)

    monkeypatch.setattr(editing_module.Editor, "propagate", noted)
    result = pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w")
    features = read(tmp_path / "w", "features", "features", np.float16, (N, 8, 12, -1)).double()
    trajectory = read(tmp_path / "w", "trajectory", "trajectory", np.float16, (STEPS, N, 4, 8, 12)).float()
    covered = []
    for step, _, source, frames, clips, matches in given:
        assert torch.equal(source, trajectory[step.number, frames.start : frames.stop])
        covered += [(step.number, frame) for frame in frames]
        assert list(clips) == [result.partition.clip_of(frame) for frame in frames]
        assert set(matches) == {0, 1, 2}
        for level, phi in matches.items():
            unit = torch.nn.functional.interpolate(
                features.permute(0, 3, 1, 2), pipe.backbone.grid((8, 12), level), mode="bilinear"
            )
            unit = torch.nn.functional.normalize(unit.flatten(2), dim=1)  # [n, d, N]
            for row, frame, clip in zip(phi.long(), frames, clips, strict=True):
                key = int(result.schedule[step.number, clip])
                cosine = unit[frame].T @ unit[key]
                assert (cosine.gather(1, row[:, None])[:, 0] > cosine.amax(1) - 1e-5).all()
                assert frame != key or torch.equal(row, torch.arange(len(row)))
    assert sorted(covered) == [(step, frame) for step in range(STEPS) for frame in range(N)]


@pytest.mark.parametrize("choice", ["uniform", "middle", "medoid"])
def test_kept_tokens_are_found_once_for_the_same_keyframes(
    pipe: AdaFlowPipeline, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Tensor] = []

    def counted(features: Tensor, *given: Any) -> Tensor:
        found.append(features)
        return kept_tokens(features, *given)

    monkeypatch.setattr(editor_module, "kept_tokens", counted)
    config = settings(slimming=SlimmingConfig(budget=2))
    config = replace(config, keyframes=replace(config.keyframes, choice=choice))
    once = pipe(video(), PROMPT, config=config, workspace=tmp_path / "once")
    levels = len({site.level for site in pipe.backbone.attention_sites()})
    drawn = once.schedule.tolist()
    times = 1 + sum(a != b for a, b in itertools.pairwise(drawn))
    assert len(found) == times * levels and (times == 1) == (choice != "uniform")

    kept = editor_module.Editor.kept
    monkeypatch.setattr(editor_module.Editor, "kept", lambda *given: kept(*given[:4]))  # whatever is known
    anew = pipe(video(), PROMPT, config=config, workspace=tmp_path / "anew")
    assert len(found) == (times + STEPS) * levels
    assert np.asarray(once.frames).tobytes() == np.asarray(anew.frames).tobytes()


def test_keyframes_are_slimmed_above_the_budget(pipe: AdaFlowPipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    features = {level: torch.randn(5, n, 6, generator=generator) for level, n in ((0, 96), (1, 24), (2, 6))}

    def kept(**slimming: Any) -> dict[int, Tensor]:
        config = resolve(EditConfig(steps=2, slimming=SlimmingConfig(**slimming)))
        editor = editing_module.Editor(pipe.backbone, config, pipe.backbone.conditioning("", "", ""))
        return editor.kept(features.__getitem__, 5)

    assert kept(budget=5) == kept(budget=14) == {}
    for own in (True, False):
        found = kept(budget=2, own_tokens=own)
        assert {level: tuple(k.shape) for level, k in found.items()} == {0: (5, 192), 1: (5, 48), 2: (5, 12)}
        for level, chosen in found.items():
            expected = kept_tokens(features[level], 2, SlimmingConfig(own_tokens=own))
            assert torch.equal(chosen, expected)
    found = kept(budget=2, selection="quota")
    assert torch.equal(found[1], kept_tokens(features[1], 2, SlimmingConfig(selection="quota")))
    assert kept(budget=3, count="released")[0].shape == (5, 3 * 96 - 1)  # as the published script rounds


def read(workspace: Path, stage: str, name: str, dtype: Any, shape: tuple[int, ...]) -> Tensor:
    (folder,) = (workspace / "stages").glob(f"{stage}-*")
    return torch.from_numpy(np.fromfile(folder / f"{name}.bin", dtype)).view(*shape)


# -- determinism -----------------------------------------------------------------------------------------------------


def test_the_order_of_propagation_runs_does_not_matter(
    pipe: AdaFlowPipeline, tmp_path: Path, usual: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []

    runs = editing_module.propagation_runs
    monkeypatch.setattr(editing_module, "propagation_runs", lambda *a: runs(*a)[::-1])
    propagate = editing_module.Editor.propagate

    def noted(self: Any, step: Any, z: Tensor, source: Tensor, frames: range, *rest: Any) -> Tensor:
        order.append(frames.start)
        return propagate(self, step, z, source, frames, *rest)

    monkeypatch.setattr(editing_module.Editor, "propagate", noted)
    result = pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w")
    assert order == STEPS * [8, 6, 4, 2, 0]
    assert np.asarray(result.frames).tobytes() == usual.tobytes()


def test_out_of_memory_halves_the_plan_for_good(
    pipe: AdaFlowPipeline, tmp_path: Path, usual: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    propagate, tried = editing_module.Editor.propagate, []

    def fails(self: Any, step: Any, z: Tensor, source: Tensor, frames: range, *rest: Any) -> Tensor:
        tried.append((step.number, len(frames)))
        if len(frames) > 1 and step.number == 1:
            raise torch.OutOfMemoryError("no room")
        return propagate(self, step, z, source, frames, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(editing_module.Editor, "propagate", fails)
        result = pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w")
    assert result.record["plan"] == {"rows": 2, "threads": 1, "shrunk": 1}
    assert [length for _, length in tried] == [2, 2, 2, 2, 1, 2] + 2 * N * [1]
    assert np.abs(np.asarray(result.frames).astype(int) - usual).max() <= 2
    again = pipe(video(), "a blue circle", config=settings(), workspace=tmp_path / "w")
    assert again.record["plan"] == result.record["plan"]
    monkeypatch.setattr(editing_module.Editor, "propagate", fails)
    monkeypatch.setattr(editing_module.Editor, "edit_keys", lambda *_: fails(None, Step1(), None, None, range(2)))
    with pytest.raises(ResourceError, match="lower --height"):
        pipe(video(), "a green circle", config=settings(), workspace=tmp_path / "w")


class Step1:
    number = 1


def test_the_generators_seed_is_used(pipe: AdaFlowPipeline, tmp_path: Path, usual: np.ndarray) -> None:
    def run(seed: int | None, config: EditConfig, name: str) -> Any:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return pipe(video(), PROMPT, config=config, generator=generator, workspace=tmp_path / name)

    by_generator, by_config = run(5, settings(), "a"), run(None, settings(seed=5), "b")
    assert np.array_equal(by_generator.frames, by_config.frames)
    assert torch.equal(by_generator.schedule, by_config.schedule)
    assert by_generator.record["settings"]["seed"] == 5
    again = run(0, settings(seed=7), "a")  # the argument goes before the config; the stages are found
    assert np.asarray(again.frames).tobytes() == usual.tobytes()
    assert not torch.equal(by_generator.schedule, again.schedule)


def stage_folders(workspace: Path) -> dict[str, bytes]:
    return {p.name: b"".join(f.read_bytes() for f in sorted(p.glob("*.bin"))) for p in (workspace / "stages").iterdir()}


def test_another_prompt_reuses_everything_done_once(
    pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w")
    before = stage_folders(tmp_path / "w")
    calls: Counter[int] = Counter()
    predict = pipe.backbone.predict

    def counted(latents: Tensor, *rest: Any) -> Tensor:
        calls[len(latents)] += 1
        return predict(latents, *rest)

    monkeypatch.setattr(pipe.backbone, "predict", counted)
    seen: list[Progress] = []
    second = pipe(video(), "a blue circle", config=settings(), workspace=tmp_path / "w", on_progress=seen.append)
    after = stage_folders(tmp_path / "w")
    assert sorted(name.split("-")[0] for name in after.keys() - before.keys()) == ["decoded", "edit"]
    assert all(after[name] == content for name, content in before.items())
    for stage in ("encode", "features", "partition", "invert", "match"):
        assert [(p.done, p.total) for p in seen if p.stage == stage] == 1 * [(seen_total(seen, stage),) * 2]
    # 3 steps, the first 2 with the source: key passes of 9 and 6 rows; 5 runs, of 2, 2, 2, 2 and 1 frames
    assert calls == {9: 2, 6: 1, 4: 4 * 3, 2: 1 * 3 + 4 * 2, 1: 1 * 2}
    calls.clear()
    third = pipe(video(), "a blue circle", config=settings(), workspace=tmp_path / "w")
    assert not calls
    assert np.array_equal(second.frames, third.frames)


def seen_total(seen: list[Progress], stage: str) -> int:
    return next(p.total for p in seen if p.stage == stage)


@pytest.mark.parametrize("stage", [stage for stage in MADE if stage != "write"])
def test_cancelled_twice_in_any_stage_it_resumes_to_the_same_bytes(
    pipe: AdaFlowPipeline, stage: str, tmp_path: Path, usual: np.ndarray
) -> None:
    def edit(stop_at: float, seen: list[Progress]) -> Any:
        def stop(progress: Progress) -> None:
            seen.append(progress)
            if progress.stage == stage and progress.done > stop_at * progress.total:
                raise Cancelled("enough")

        return pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w", on_progress=stop)

    threads = torch.get_num_threads()
    for stop_at in (0.0, 0.5):
        with pytest.raises(Cancelled, match="enough"):
            edit(stop_at, [])
        assert torch.get_num_threads() == threads
        assert all(not m._forward_hooks for m in pipe.backbone.unet.modules())
    seen: list[Progress] = []
    assert np.asarray(edit(2.0, seen).frames).tobytes() == usual.tobytes()
    before = MADE[: MADE.index(stage)]
    assert all(p.done == p.total for p in seen if p.stage in before)  # found, not made again
    if stage in ("encode", "features", "edit", "decode"):  # units before the last cancellation are not done again
        assert next(p for p in seen if p.stage == stage).done > 1 + (stage != "encode")


# -- callbacks -------------------------------------------------------------------------------------------------------


def test_the_callback_is_called_after_each_step(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    calls: list[tuple[Any, int, int, dict[str, Any]]] = []

    def callback(*given: Any) -> dict[str, Any]:
        calls.append(given)
        return {}

    pipe(video(3), PROMPT, config=settings(), workspace=tmp_path / "w", callback_on_step_end=callback)
    assert calls == [(pipe, 0, 667, {}), (pipe, 1, 334, {}), (pipe, 2, 1, {})]


def test_latents_that_a_callback_returns_are_refused(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="returned latents"):
        pipe(
            video(3),
            PROMPT,
            config=settings(),
            workspace=tmp_path / "w",
            callback_on_step_end=lambda *_: {"latents": torch.zeros(3, 4, 8, 12)},
        )


def test_prompts_and_workspaces_that_cannot_be_used_are_refused(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prompt is empty"):
        pipe(video(3), "  ", workspace=tmp_path / "w")
    pipe(video(1), PROMPT, config=settings(), workspace=tmp_path / "w")
    with pytest.raises(InputError, match="belongs to something else"):
        pipe(video(1, seed=1), PROMPT, config=settings(), workspace=tmp_path / "w")


# -- models ----------------------------------------------------------------------------------------------------------


def test_a_saved_folder(tmp_path: Path, usual: np.ndarray) -> None:
    """Each load gives the same bytes. A model in memory may differ in the last bit: a file's tensors are aligned
    otherwise, and the processor then takes other paths through the same sums."""
    folder = save_tiny(tmp_path / "model")
    frames = []
    for name in ("a", "b"):
        pipe = AdaFlowPipeline.from_pretrained(folder, device="cpu", torch_dtype=torch.float32)
        frames.append(np.asarray(pipe(video(), PROMPT, config=settings(), workspace=tmp_path / name).frames))
    assert frames[0].tobytes() == frames[1].tobytes()
    difference = np.abs(frames[0].astype(int) - usual)
    assert difference.max() <= 2 and (difference > 0).mean() < 0.01


def test_a_pipeline_with_a_lora_is_used_as_it_is(tmp_path: Path, usual: np.ndarray) -> None:
    peft = pytest.importorskip("peft", reason="LoRA needs the optional package peft")
    made = tiny_pipeline()
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v", "to_out.0"], init_lora_weights=False)
    made.unet.add_adapter(lora)
    pipe = AdaFlowPipeline.from_pipe(made)
    config = by_hand_settings()
    image = video(1)
    pipe(image, PROMPT, config=config, workspace=tmp_path / "one")
    expected = plug_and_play(made, image[0], config, "epsilon")
    assert (final_latents(tmp_path / "one", 1, 4) - expected).abs().max() < 1e-3 * expected.abs().max()

    first = np.asarray(pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w").frames)
    assert not np.array_equal(first, usual)
    made.unet.disable_adapters()
    without = AdaFlowPipeline.from_pipe(made)  # another model, so nothing of the first is found in the workspace
    again = np.asarray(without(video(), PROMPT, config=settings(), workspace=tmp_path / "w").frames)
    assert again.tobytes() == usual.tobytes()


def test_what_makes_two_models_two(tmp_path: Path) -> None:
    """The fingerprint under which results are kept: weights with order and sign, settings, the strength of a LoRA."""
    made = tiny_pipeline()
    first = Backbone(made, ModelCard(name="a"))
    print_of = first.fingerprint()
    assert Backbone.load(str(save_tiny(tmp_path / "m")), device="cpu", dtype=torch.float32).fingerprint() == print_of
    weight = made.unet.conv_in.weight.data
    for changed in (-weight, weight.flip(0), weight.flatten().roll(1).view_as(weight), weight.half()):
        made.unet.conv_in.weight.data = changed
        assert first.fingerprint() != print_of
    made.unet.conv_in.weight.data = weight
    assert first.fingerprint() == print_of
    for module, setting in ((made.unet, {"attention_head_dim": 8}), (made.vae, {"scaling_factor": 0.25})):
        before = {name: module.config[name] for name in setting}
        module.register_to_config(**setting)
        assert first.fingerprint() != print_of
        module.register_to_config(**before)
    assert first.fingerprint() == print_of
    peft = pytest.importorskip("peft", reason="LoRA needs the optional package peft")
    made.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    prints = {print_of, first.fingerprint()}
    made.unet.set_adapters(["default"], weights=[0.5])
    prints.add(first.fingerprint())
    made.unet.disable_adapters()
    assert len(prints | {first.fingerprint()}) == 4


def test_a_model_of_another_kind_is_refused() -> None:
    made = tiny_pipeline()
    wider = nn.Conv2d(9, 16, 3, padding=1)
    made.unet.conv_in = wider
    made.unet.register_to_config(in_channels=9)
    with pytest.raises(InputError, match="inpainting"):
        AdaFlowPipeline.from_pipe(made)


# -- frames and geometry ---------------------------------------------------------------------------------------------


def test_frames_are_read_as_they_are_asked_for(
    pipe: AdaFlowPipeline, tmp_path: Path, usual: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w").frames
    assert np.array_equal(frames[0], usual[0]) and np.array_equal(frames[-1], usual[-1])
    assert np.array_equal(frames[np.int64(3)], usual[3])
    for part in (slice(2, 5), slice(None, None, 2), slice(5, 2, -1), slice(3, 3), slice(-2, 100)):
        assert np.array_equal(frames[part], usual[part])
    assert [np.array_equal(a, b) for a, b in zip(frames, usual, strict=True)] == N * [True]
    assert np.asarray(frames).shape == usual.shape and np.asarray(frames, dtype=np.float32).dtype == np.float32
    for outside in (N, -N - 1):
        with pytest.raises(IndexError):
            frames[outside]
    reads: list[int] = []
    read = frames._array.read
    monkeypatch.setattr(frames._array, "read", lambda start, stop: (reads.append(stop - start), read(start, stop))[1])
    next(iter(frames))
    assert reads == [1]


@pytest.mark.parametrize(
    ("keep", "left"), [("none", set()), ("edit", {"edit", "decoded"}), ("all", {"edit", "decoded", "latents", "plan"})]
)
def test_what_is_kept(pipe: AdaFlowPipeline, tmp_path: Path, usual: np.ndarray, keep: str, left: set[str]) -> None:
    result = pipe(video(), PROMPT, config=settings(output=OutputConfig(keep=keep)), workspace=tmp_path / "w")
    names = {name.split("-")[0] for name in stage_folders(tmp_path / "w")}
    assert names == left if keep != "all" else names > left
    assert np.array_equal(result.frames, usual)  # also where the file is gone
    result.save(tmp_path / "out.mp4")
    again = pipe(video(), PROMPT, config=settings(output=OutputConfig(keep=keep)), workspace=tmp_path / "w")
    assert np.array_equal(again.frames, usual)


@pytest.mark.parametrize(
    ("size", "given", "content"),
    [
        ((37, 53), {}, (32, 46)),
        ((53, 37), {}, (46, 32)),
        ((37, 53), {"height": 21}, (20, 30)),
        ((37, 53), {"width": 30}, (20, 30)),
        ((37, 53), {"height": 26, "width": 34}, (26, 34)),
    ],
)
def test_odd_sizes_come_back_with_their_content(
    pipe: AdaFlowPipeline, tmp_path: Path, size: tuple[int, int], given: dict[str, int], content: tuple[int, int]
) -> None:
    result = pipe(video(2, size), PROMPT, config=settings(steps=1), workspace=tmp_path / "w", **given)
    assert result.frames.shape == (2, *content, 3) and result.frames[0].shape == (*content, 3)
    from adaflow.video import probe

    for output, expected in (("model", content), ("source", tuple(side + side % 2 for side in size))):
        config = settings(steps=1, output=OutputConfig(size=output))
        out = pipe(video(2, size), PROMPT, config=config, workspace=tmp_path / "w", **given).save(tmp_path / "out.mp4")
        info = probe(out)
        assert (info.height, info.width) == expected and info.frames == 2


def test_padding_repeats_the_border() -> None:
    geometry = Geometry(content=(3, 4), padded=(5, 8))
    frames = torch.arange(2 * 3 * 4 * 3).view(2, 3, 4, 3)
    padded = geometry.pad(frames)
    expected = np.pad(frames.numpy(), ((0, 0), (0, 2), (0, 4), (0, 0)), mode="edge")
    assert np.array_equal(padded.numpy(), expected)
    assert torch.equal(Geometry((3, 4), (3, 4)).pad(frames), frames)


def test_the_saved_video_says_how_it_was_made(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    from adaflow.video import read_metadata

    result = pipe(video(2), PROMPT, config=settings(steps=1), workspace=tmp_path / "w")
    written: list[Progress] = []
    found = read_metadata(result.save(tmp_path / "out.mp4", on_progress=written.append))["adaflow"]
    assert found["prompt"] == PROMPT and found["settings"]["steps"] == 1 and "torch" in found["versions"]
    assert [(p.stage, p.done, p.total) for p in written] == [("write", 1, 2), ("write", 2, 2)]
    config = settings(steps=1, output=OutputConfig(metadata=False))
    silent = pipe(video(2), PROMPT, config=config, workspace=tmp_path / "w").save(tmp_path / "silent.mp4")
    assert read_metadata(silent) == {}


def test_images_and_arrays_are_the_same_video(pipe: AdaFlowPipeline, tmp_path: Path, usual: np.ndarray) -> None:
    images = [Image.fromarray(frame) for frame in video()]
    assert np.array_equal(pipe(images, PROMPT, config=settings(), workspace=tmp_path / "w").frames, usual)


def test_the_costs_of_a_long_edit_are_measured_again_once_the_process_is_warm(
    pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rows that take a second, then half of one: the estimate has the second, and it is measured once."""
    measured: list[float] = []

    def measure(run: Any) -> Any:
        measured.append(1.0 / (1 + len(measured)))
        return estimate_module.UnitCosts(row=measured[-1], finest=0.0, match=0.0, encode=0.0, decode=0.0)

    monkeypatch.setattr(estimate_module, "measure", measure)
    config = settings(steps=4)
    for _ in range(2):
        found = pipe.inspect(video(), config=config, workspace=tmp_path / "w").estimate.seconds
        assert found["invert"] == N * 4 * 0.5 and measured == [1.0, 0.5]
    monkeypatch.setattr(estimate_module, "LONG_SECONDS", 10**6)
    measured.clear()
    assert pipe.inspect(video(), config=config, workspace=tmp_path / "v").estimate.seconds["invert"] == N * 4
    assert measured == [1.0]
