"""Diffusion features against whole UNet calls with a hook of the test's own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_pipeline
from torch import Tensor

from adaflow.backbone import Backbone
from adaflow.cards import ModelCard
from adaflow.config import FeatureConfig
from adaflow.directions import energy, leading_directions, sampled_frames
from adaflow.errors import InputError
from adaflow.features import FeatureExtractor

LATENT = (4, 8, 12)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(tiny_pipeline(), ModelCard(name="tiny"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def extractor(backbone: Backbone, **settings: object) -> FeatureExtractor:
    return FeatureExtractor(backbone, FeatureConfig(**settings).completed(), LATENT)


def by_hand(backbone: Backbone, noisy: Tensor, timestep: int, block: int) -> Tensor:
    """[b, h, w, d] of noised latents, by a forward pass that runs to its end."""
    taken: list[Tensor] = []
    handle = backbone.unet.up_blocks[block].register_forward_hook(lambda _m, _a, out: taken.append(out))
    empty = backbone.pipe.encode_prompt("", "cpu", 1, False)[0].expand(len(noisy), -1, -1)
    with torch.no_grad():
        backbone.unet(noisy, timestep, empty)
    handle.remove()
    return taken[0].permute(0, 2, 3, 1)


def noised(clean: Tensor, timestep: int, epsilon: Tensor) -> Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha = (1 - betas).cumprod(0)[timestep]
    return (alpha.sqrt() * clean + (1 - alpha).sqrt() * epsilon).float()


@pytest.mark.parametrize(("block", "timestep"), [(-2, 0), (-1, 0), (0, 0), (1, 1), (-2, 261), (-3, 999)])
def test_features_are_the_blocks_output_in_a_whole_forward_pass(backbone: Backbone, block: int, timestep: int) -> None:
    clean = noise(2, *LATENT, seed=1)
    found = extractor(backbone, block=block, timestep=timestep, noise_seed=7)(clean)
    epsilon = noise(1, *LATENT, seed=7)
    assert (found - by_hand(backbone, noised(clean, timestep, epsilon), timestep, block)).abs().max() < 1e-4
    assert found.dtype == torch.float32 and found.is_contiguous()


def test_the_forward_pass_ends_at_the_block(backbone: Backbone) -> None:
    reached: list[int] = []
    handles = [
        module.register_forward_hook(lambda *_, i=i: reached.append(i))
        for i, module in enumerate((backbone.unet.up_blocks[1], backbone.unet.up_blocks[2], backbone.unet.conv_out))
    ]
    extractor(backbone, block=-2)(noise(1, *LATENT))
    for handle in handles:
        handle.remove()
    assert 1 not in reached and 2 not in reached
    assert sum(len(m._forward_hooks) for m in backbone.unet.modules()) == 0


def test_all_frames_get_the_same_noise(backbone: Backbone) -> None:
    clean = noise(3, *LATENT, seed=1)
    extract = extractor(backbone, timestep=261)
    together = extract(clean)
    for frame in range(3):
        assert (extract(clean[frame : frame + 1])[0] - together[frame]).abs().max() < 1e-5
    still = extract(clean[:1].expand(3, -1, -1, -1))
    assert (still - still[:1]).abs().max() < 1e-5


def test_the_noise_is_the_noise_seeds_and_nobody_elses(backbone: Backbone) -> None:
    clean = noise(1, *LATENT, seed=1)
    first = extractor(backbone, timestep=261)(clean)
    torch.manual_seed(99)
    assert torch.equal(extractor(backbone, timestep=261)(clean), first)
    assert not torch.equal(extractor(backbone, timestep=261, noise_seed=1)(clean), first)


def test_copies_are_averaged(backbone: Backbone) -> None:
    clean, epsilons = noise(2, *LATENT, seed=1), noise(3, *LATENT, seed=0)
    found = extractor(backbone, timestep=261, ensemble=3)(clean)
    copies = [by_hand(backbone, noised(clean, 261, e), 261, -2) for e in epsilons]
    assert (found - torch.stack(copies).mean(0)).abs().max() < 1e-4
    assert (copies[0] - copies[1]).abs().max() > 1e-2


def test_each_copy_may_have_latents_of_its_own(backbone: Backbone) -> None:
    clean, epsilons = noise(2, 3, *LATENT, seed=1), noise(2, *LATENT, seed=0)
    found = extractor(backbone, timestep=261, ensemble=2)(clean)
    copies = [by_hand(backbone, noised(c, 261, e), 261, -2) for c, e in zip(clean, epsilons, strict=True)]
    assert (found - torch.stack(copies).mean(0)).abs().max() < 1e-4


def test_draws_from_the_posterior_do_not_depend_on_the_batch(backbone: Backbone) -> None:
    frames = torch.randint(0, 256, (3, 32, 48, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    seeded = [torch.Generator().manual_seed(5) for _ in range(2)]
    together, alone = backbone.encode(frames, generator=seeded[0]), backbone.encode(frames[2:], generator=seeded[1])
    assert (together[2:] - alone).abs().max() < 1e-5
    assert (together - backbone.encode(frames)).abs().max() > 1e-3


def test_a_block_the_model_does_not_have_is_refused(backbone: Backbone) -> None:
    for block in (3, -4):
        with pytest.raises(InputError, match="3 decoder blocks"):
            extractor(backbone, block=block)


# -- fewer numbers a token --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [1, 5, 24])
def test_the_leading_directions_are_those_of_a_singular_value_decomposition(dimensions: int) -> None:
    frames = noise(3, 4, 5, 24) * torch.linspace(3, 0.1, 24)
    found = leading_directions(energy(frames[:2]) + energy(frames[2]), dimensions).double().numpy()
    tokens = frames.reshape(-1, 24).double().numpy()
    units = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    leading = np.linalg.svd(units, full_matrices=False)[2][:dimensions]
    np.testing.assert_allclose(np.abs(leading @ found), np.eye(dimensions), atol=1e-5)
    assert (found[np.abs(found).argmax(axis=0), np.arange(dimensions)] > 0).all()


def test_features_that_lie_in_few_directions_keep_their_cosines() -> None:
    tokens = noise(40, 6) @ noise(6, 32, seed=1)
    short = tokens @ leading_directions(energy(tokens), 6)
    before, after = (torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1) for x in (tokens, short))
    assert (before - after).abs().max() < 1e-5


def test_as_many_directions_as_numbers_only_turn_the_features() -> None:
    tokens = noise(50, 16)
    turned = tokens @ leading_directions(energy(tokens), 16)
    assert (tokens @ tokens.T - turned @ turned.T).abs().max() < 1e-4


def test_what_is_not_finite_has_no_directions() -> None:
    with pytest.raises(ValueError, match="not finite"):
        energy(torch.full((2, 3), torch.nan))


@given(st.integers(1, 5000))
def test_sampled_frames_are_spread_from_the_first_to_the_last(frames: int) -> None:
    chosen = sampled_frames(frames)
    assert chosen[0] == 0 and chosen[-1] == frames - 1 and len(chosen) == min(frames, 64)
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1
