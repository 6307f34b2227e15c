"""Inversion and sampling against diffusers' own loops and against DDIM written out in float64."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_pipeline
from torch import Tensor

from adaflow import AdaFlowPipeline, EditConfig
from adaflow.backbone import Backbone, Conditioning
from adaflow.cards import ModelCard
from adaflow.config import InjectionConfig, resolve
from adaflow.editing import edit_keyframes
from adaflow.editor import Editor
from adaflow.errors import ConfigError, InputError
from adaflow.inversion import check_grids, coarse_grid, coarse_steps, guided, invert, invert_steps, sample

LATENT = (4, 8, 12)
KINDS = ["epsilon", "v_prediction"]
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS = (1 - BETAS).cumprod(0)


def make(kind: str = "epsilon") -> Backbone:
    return Backbone(tiny_pipeline(prediction_type=kind), ModelCard(name="tiny"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def texts(backbone: Backbone) -> Conditioning:
    return backbone.conditioning("a red square", "a grey field", "a blue circle")


def ddim(kind: str, out: Tensor, x: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """One deterministic step from signal level `here` to `there` (Song et al., Eq. 12 with sigma 0), in float64."""
    out, x = out.double(), x.double()
    if kind == "epsilon":
        epsilon, clean = out, (x - (1 - here).sqrt() * out) / here.sqrt()
    elif kind == "sample":
        epsilon, clean = (x - here.sqrt() * out) / (1 - here).sqrt(), out
    else:
        clean, epsilon = here.sqrt() * x - (1 - here).sqrt() * out, here.sqrt() * out + (1 - here).sqrt() * x
    return there.sqrt() * clean + (1 - there).sqrt() * epsilon


@pytest.mark.parametrize("kind", KINDS)
def test_invert_equals_a_loop_over_diffusers_scheduler(kind: str) -> None:
    backbone = make(kind)
    scheduler = DDIMInverseScheduler.from_config(
        backbone.pipe.scheduler.config, timestep_spacing="leading", steps_offset=1, clip_sample=False
    )
    scheduler.set_timesteps(5)
    x, clean = noise(2, *LATENT), noise(2, *LATENT)
    text = backbone.pipe.encode_prompt("a red square", "cpu", 1, False)[0].expand(2, -1, -1)
    found = invert(backbone, clean, texts(backbone), 5)
    assert list(found) == scheduler.timesteps.tolist() == [1, 201, 401, 601, 801]
    for t in scheduler.timesteps:
        with torch.no_grad():
            x = scheduler.step(backbone.unet(x, t, text).sample, t, x).prev_sample
        assert (found[int(t)] - x).abs().max() < 1e-5


@pytest.mark.parametrize("reuse", [1, 2, 3, 9])
@pytest.mark.parametrize("steps", [5, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_reused_inversion_equals_whole_calls_fed_by_hand(kind: str, steps: int, reuse: int) -> None:
    """Whole calls throughout, in which a hook hands the last decoder block what it got in the last call in its turn."""
    backbone, kept, turn = make(kind), torch.zeros(0), 0

    def feed(_module: object, _args: object, kwargs: dict[str, Tensor]) -> tuple[tuple[()], dict[str, Tensor]]:
        nonlocal kept, turn
        kept = kwargs["hidden_states"] if turn % reuse == 0 else kept
        turn += 1
        return (), {**kwargs, "hidden_states": kept}

    given = noise(2, *LATENT), texts(backbone), steps
    found = invert(backbone, *given, sampling_steps=5, reuse=reuse)
    handle = backbone.unet.up_blocks[-1].register_forward_pre_hook(feed, with_kwargs=True)
    expected = invert(backbone, *given, sampling_steps=5)
    handle.remove()
    assert list(found) == list(expected) and turn == steps
    assert all((found[t] - expected[t]).abs().max() < 1e-5 for t in found)
    plain = invert(backbone, *given, sampling_steps=5)
    assert all(torch.equal(found[t], plain[t]) for t in found) == (reuse == 1)


@pytest.mark.parametrize("kind", KINDS)
def test_invert_equals_ddim_written_out(kind: str) -> None:
    backbone = make(kind)
    text = texts(backbone)
    x, level = noise(1, *LATENT).double(), ALPHAS[0]
    for t, found in invert_steps(backbone, noise(1, *LATENT), text, 4):
        out = backbone.predict(x.float(), t, text.rows([0], "source"))
        x, level = ddim(kind, out, x, level, ALPHAS[t]), ALPHAS[t]
        assert (found - x).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_sample_equals_ddim_written_out(kind: str) -> None:
    backbone = make(kind)
    text, seen = texts(backbone), []
    x = noise(1, *LATENT).double()
    found = sample(backbone, noise(1, *LATENT), text, 4, guidance_scale=3.0, on_step=lambda t, z: seen.append((t, z)))
    for t, z in seen:
        negative, prompt = (backbone.predict(x.float(), t, text.rows([0], b)).double() for b in ("negative", "prompt"))
        there = ALPHAS[t - 250] if t >= 250 else ALPHAS[0]
        x = ddim(kind, negative + 3 * (prompt - negative), x, ALPHAS[t], there)
        assert (z - x).abs().max() < 1e-4
    assert [t for t, _ in seen] == [751, 501, 251, 1]
    assert torch.equal(found, seen[-1][1])


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_undoes_inversion_the_better_the_more_steps(kind: str) -> None:
    """A random network's prediction bends more than a trained one's: damped, so that the error is seen to fall."""
    backbone = make(kind)
    backbone.unet.conv_out.weight.mul_(0.2)
    clean, text, errors = noise(1, *LATENT), texts(backbone), []
    for steps in (20, 50, 100):
        last = list(invert(backbone, clean, text, steps).values())[-1]
        errors.append(float((sample(backbone, last, text, steps) - clean).abs().mean()))
    assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2]  # of first order in the step
    assert errors[2] < 0.03


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [7.5, 1.5])
def test_without_injection_the_edit_is_stable_diffusions_own(kind: str, guidance: float) -> None:
    """`sample`, and the editing loop for one keyframe, against `StableDiffusionPipeline.__call__`."""
    backbone = make(kind)
    backbone.pipe.scheduler = DDIMScheduler.from_config(backbone.pipe.scheduler.config, timestep_spacing="leading")
    start, text = noise(1, *LATENT), texts(backbone)
    expected = backbone.pipe(
        prompt_embeds=text.embeddings["prompt"],
        negative_prompt_embeds=text.embeddings["negative"],
        latents=start.clone(),
        num_inference_steps=4,
        guidance_scale=guidance,
        output_type="latent",
    ).images
    found = sample(backbone, start, text, 4, guidance_scale=guidance)
    assert (found - expected).abs().max() < 1e-4
    config = EditConfig(steps=4, guidance_scale=guidance, injection=InjectionConfig(features=0.0, attention=0.0))
    editor = Editor(backbone, resolve(config), text)
    trajectory = {step.timestep: start for step in editor.steps}
    edited = edit_keyframes(editor, trajectory, [0], lambda _: torch.zeros(0))
    assert (edited - expected).abs().max() < 1e-4


def test_guidance_is_linear_between_the_branches() -> None:
    both = noise(4, *LATENT)
    assert torch.equal(guided(both, 1.0), both[:2] + (both[2:] - both[:2]))
    assert torch.equal(guided(both, 0.0), both[:2])
    assert (guided(both, 3.0) - (3 * both[2:] - 2 * both[:2])).abs().max() < 1e-5


# -- fewer inversion steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "sample"])
@pytest.mark.parametrize(("steps", "sampling"), [(1, 4), (2, 5), (3, 7), (4, 4)])
def test_a_coarse_inversion_equals_ddim_written_out(kind: str, steps: int, sampling: int) -> None:
    """Each prediction serves all sampling timesteps up to its own, in float64; grid points are plain DDIM steps."""
    backbone = make(kind)
    text, clean = texts(backbone), noise(2, *LATENT)
    found = dict(coarse_steps(backbone, clean, text, steps, sampling))
    timesteps = sorted(backbone.scheduler(sampling).timesteps.tolist())
    assert list(found) == timesteps
    x, level, passed = clean.double(), ALPHAS[0], 0
    for i in range(steps):
        last = int((i + 1) * sampling / steps) - 1
        out = backbone.predict(x.float(), timesteps[last], text.rows([0, 1], "source"))
        for t in timesteps[passed : last + 1]:
            expected = ddim(kind, out, x, level, ALPHAS[t])
            assert (found[t] - expected).abs().max() < 1e-4 * expected.abs().max()
        x, level, passed = expected, ALPHAS[timesteps[last]], last + 1
    assert passed == sampling


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_coarse_steps_as_sampling_steps_are_diffusers_own(kind: str) -> None:
    backbone = make(kind)
    text, clean = texts(backbone), noise(1, *LATENT)
    plain = invert(backbone, clean, text, 5)
    for t, z in coarse_steps(backbone, clean, text, 5, 5):
        assert (z - plain[t]).abs().max() < 1e-5
    assert all(torch.equal(plain[t], z) for t, z in invert_steps(backbone, clean, text, 5, sampling_steps=5))


def test_where_steps_divide_the_grid_points_are_diffusers_own_with_a_later_start() -> None:
    backbone = make()
    config = {**backbone.pipe.scheduler.config, "timestep_spacing": "leading", "clip_sample": False}
    scheduler = DDIMInverseScheduler.from_config(config, steps_offset=251)
    scheduler.set_timesteps(2)
    text, x = texts(backbone), noise(1, *LATENT)
    found = invert(backbone, x, text, 2, sampling_steps=4)
    assert scheduler.timesteps.tolist() == [251, 751] and list(found) == [1, 251, 501, 751]
    for t in scheduler.timesteps:
        x = scheduler.step(backbone.predict(x, t, text.rows([0], "source")), t, x).prev_sample
        assert (found[int(t)] - x).abs().max() < 1e-5


def test_coarse_steps_predict_only_so_often() -> None:
    backbone, calls = make(), []
    handle = backbone.unet.register_forward_hook(lambda _m, args, _o: calls.append(int(args[1])))
    found = invert(backbone, noise(1, *LATENT), texts(backbone), 3, sampling_steps=10)
    handle.remove()
    assert calls == [list(found)[place] for place in (2, 5, 9)] and len(found) == 10


@given(sampling=st.integers(1, 200), share=st.floats(0, 1))
def test_the_coarse_grid_is_even_and_ends_where_sampling_starts(sampling: int, share: float) -> None:
    steps = 1 + int(share * (sampling - 1))
    grid = coarse_grid(sampling, steps)
    assert len(grid) == steps and grid[-1] == sampling - 1
    gaps = [b - a for a, b in zip([-1, *grid], grid, strict=False)]
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_coarser_the_inversion_the_further_from_the_fine_one(kind: str) -> None:
    backbone = make(kind)
    backbone.unet.conv_out.weight.mul_(0.2)
    clean, text = noise(1, *LATENT), texts(backbone)
    fine = invert(backbone, clean, text, 40)
    errors = []
    for steps in (20, 10, 5):
        coarse = invert(backbone, clean, text, steps, sampling_steps=40)
        errors.append(float(torch.stack([(coarse[t] - fine[t]).abs().mean() for t in fine]).mean()))
    assert 0 < 1.5 * errors[0] < errors[1] < errors[2] / 1.5


# -- grids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 25, 50, 100])
def test_sampling_timesteps_are_among_those_of_twice_the_inversion_steps(steps: int) -> None:
    backbone = make()
    there = backbone.inverse_scheduler(2 * steps).timesteps.tolist()
    wanted = backbone.scheduler(steps).timesteps.tolist()
    assert set(wanted) <= set(there)
    assert wanted[::-1] == backbone.inverse_scheduler(steps).timesteps.tolist()
    check_grids(backbone, steps, 2 * steps)


@pytest.mark.parametrize(("steps", "inversion"), [(30, 60), (3, 6), (40, 80), (1000, 1000), (500, 1000)])
def test_grids_that_do_not_meet_are_refused(steps: int, inversion: int) -> None:
    """30 steps lie at 1, 34, 67 ..., 60 at 1, 17, 33 ...: the trajectory would miss what the edit reads."""
    with pytest.raises(ConfigError, match="use"):
        check_grids(make(), steps, inversion)
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline())
    with pytest.raises(ConfigError, match="use"):
        pipe.resolve(EditConfig(steps=steps, inversion_steps=inversion))
    assert pipe.resolve(EditConfig(steps=30)).inversion_steps == 30


def test_the_models_own_spacing_and_offset_do_not_matter() -> None:
    pipe = tiny_pipeline()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing", steps_offset=0)
    backbone = Backbone(pipe, ModelCard(name="tiny"))
    assert backbone.scheduler(5).timesteps.tolist() == [801, 601, 401, 201, 1]


def test_a_zero_terminal_snr_model_is_refused() -> None:
    pipe = tiny_pipeline(prediction_type="v_prediction")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, rescale_betas_zero_snr=True)
    with pytest.raises(InputError, match="zero terminal SNR"):
        AdaFlowPipeline.from_pipe(pipe)
