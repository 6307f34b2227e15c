"""Plug-and-Play injection: the cut source branch, the hooks, and where the sites lie in Stable Diffusion's UNet."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from models import tiny_pipeline
from torch import Tensor

from adaflow.attention import KeyPass, MemoryRecord, attention_installed
from adaflow.backbone import Backbone, Branch
from adaflow.cards import ModelCard
from adaflow.injection import injected_from, injected_steps, injected_within, source_features
from adaflow.propagation import PropagationPass
from adaflow.steps import EDITED

ALL: tuple[Branch, ...] = ("source", *EDITED)
LATENT = (8, 12)
SHAPES = [(levels, layers) for levels in (2, 3, 4) for layers in (1, 2)]


def make(levels: int = 3, layers: int = 1) -> Backbone:
    return Backbone(tiny_pipeline(levels=levels, layers=layers), ModelCard(name="tiny"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def texts(backbone: Backbone) -> object:
    return backbone.conditioning("a red square", "", "a blue circle")


def hooks(module: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.parametrize("sites", ["pnp", "wide"])
@pytest.mark.parametrize(("levels", "layers"), SHAPES)
def test_the_cut_source_branch_equals_the_whole_one(sites: str, levels: int, layers: int) -> None:
    """Frames propagated in one batch of three branches, against the source cut short and the edit rows alone."""
    backbone = make(levels, layers)
    unet, attention, features = backbone.unet, backbone.attention_sites(), backbone.injection_feature_sites(sites)
    text, frames = texts(backbone), range(3)
    record = MemoryRecord(torch.device("cpu"))
    with attention_installed(unet, attention, KeyPass(ALL, 2, record=record).processor):
        backbone.predict(noise(6, 4, *LATENT), 301, text.rows(range(2), *ALL))
    generator = torch.Generator().manual_seed(1)
    phi = {s.level: math.prod(backbone.grid(LATENT, s.level)) for s in attention}
    phi = {level: torch.randint(n, (3, n), generator=generator) for level, n in phi.items()}
    latents, source = noise(3, 4, *LATENT, seed=2), noise(3, 4, *LATENT, seed=3)

    whole = PropagationPass(record, ALL, ALL, [1] * 3, phi)
    with attention_installed(unet, attention, whole.processor), injected_within(unet, features, 3):
        expected = backbone.predict(torch.cat([source, latents, latents]), 301, text.rows(frames, *ALL))[3:]
    cut = PropagationPass(record, ALL, ("source",), [1] * 3, phi)
    with attention_installed(unet, attention, cut.processor), source_features(unet, features) as taken:
        backbone.predict(source, 301, text.rows(frames, "source"))
    assert list(taken) == [site.name for site in features]
    edit = PropagationPass(record, ALL, EDITED, [1] * 3, phi)
    with attention_installed(unet, attention, edit.processor), injected_from(unet, taken, 2):
        found = backbone.predict(torch.cat([latents, latents]), 301, text.rows(frames, *EDITED))
    assert (found - expected).abs().max() < 1e-4
    assert expected.abs().max() > 0.1
    with attention_installed(unet, attention, edit.processor):
        without = backbone.predict(torch.cat([latents, latents]), 301, text.rows(frames, *EDITED))
    assert (without - expected).abs().max() > 1e-3  # the injection does something


@pytest.mark.parametrize("sites", ["pnp", "wide"])
@pytest.mark.parametrize(("levels", "layers"), SHAPES)
def test_source_features_are_those_of_a_whole_forward_pass(sites: str, levels: int, layers: int) -> None:
    backbone = make(levels, layers)
    chosen = backbone.injection_feature_sites(sites)
    latents, rows = noise(2, 4, *LATENT), texts(backbone).rows(range(2), "source")
    seen: dict[str, Tensor] = {}
    order: list[str] = []

    def look(name: str) -> object:
        return lambda _m, _a, out: (seen.update({name: out}), order.append(name), None)[-1]

    handles = [backbone.unet.get_submodule(s.name).register_forward_hook(look(s.name)) for s in chosen]
    backbone.predict(latents, 301, rows)
    for handle in handles:
        handle.remove()
    assert order == [s.name for s in chosen]  # in the order of the forward pass, so that the last ends it
    reached = []
    handle = backbone.unet.conv_norm_out.register_forward_hook(lambda *_: reached.append(1))
    with source_features(backbone.unet, chosen) as taken:
        backbone.predict(latents, 301, rows)
    handle.remove()
    assert not reached
    assert taken.keys() == seen.keys()
    for name, feature in taken.items():
        assert torch.equal(feature, seen[name])
    assert hooks(backbone.unet) == 0


def test_hooks_are_gone_after_an_exception() -> None:
    backbone = make()
    sites = backbone.injection_feature_sites("wide")
    for context in (
        source_features(backbone.unet, sites),
        injected_within(backbone.unet, sites, 3),
        injected_from(backbone.unet, {sites[0].name: noise(1)}, 2),
    ):
        with pytest.raises(KeyError), context:
            assert hooks(backbone.unet) > 0
            raise KeyError
        assert hooks(backbone.unet) == 0


@pytest.mark.parametrize("sites", ["pnp", "wide"])
def test_injected_within_equals_replacing_by_hand(sites: str) -> None:
    backbone = make()
    unet, chosen, text = backbone.unet, backbone.injection_feature_sites(sites), texts(backbone)
    latents = noise(3, 2, 4, *LATENT)
    with injected_within(unet, chosen, 3):
        found = backbone.predict(latents.flatten(0, 1), 301, text.rows(range(2), *ALL)).unflatten(0, (3, 2))
    assert hooks(unet) == 0

    class Recorded(torch.nn.Module):
        """Gives what its module gives, or what it is told to."""

        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner, self.given = inner, None

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.inner(x) if self.given is None else self.given
            return self.last

    replaced = []
    for site in chosen:
        parent = unet.get_submodule(site.name.removesuffix(".conv2"))
        parent.conv2 = Recorded(parent.conv2)
        replaced.append(parent)
    try:
        for frame in range(2):
            for branch, name in enumerate(ALL):
                for resnet in replaced:
                    resnet.conv2.given = None if branch == 0 else resnet.conv2.last
                out = backbone.predict(latents[branch, frame : frame + 1], 301, text.rows([0], name))
                assert (out[0] - found[branch, frame]).abs().max() < 1e-5
    finally:
        for resnet in replaced:
            resnet.conv2 = resnet.conv2.inner


@pytest.mark.parametrize(
    ("fraction", "steps", "count"), [(0.8, 50, 40), (0.5, 25, 12), (0.0, 50, 0), (1.0, 7, 7), (0.29, 100, 29)]
)
def test_the_count_of_injected_steps_is_rounded_down(fraction: float, steps: int, count: int) -> None:
    assert injected_steps(fraction, steps) == count


# -- sites -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd21() -> Backbone:
    """Stable Diffusion 2.1's UNet, without weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )
    tiny = tiny_pipeline()
    parts = {"vae": tiny.vae, "text_encoder": tiny.text_encoder, "scheduler": tiny.scheduler}
    return Backbone(SimpleNamespace(unet=unet, **parts), ModelCard(name="sd21"))


def test_sd21_has_sixteen_self_attentions(sd21: Backbone) -> None:
    sites = sd21.attention_sites()
    expected = [(f"down_blocks.{b}.attentions.{j}", b) for b in range(3) for j in range(2)]
    expected += [("mid_block.attentions.0", 3)]
    expected += [(f"up_blocks.{b}.attentions.{j}", 3 - b) for b in (1, 2, 3) for j in range(3)]
    assert [(s.name, s.level) for s in sites] == [(f"{n}.transformer_blocks.0.attn1", level) for n, level in expected]
    assert len(sites) == 16
    assert {f"{s.name}.processor" for s in sites} == {n for n in sd21.unet.attn_processors if "attn1" in n}


def test_sd21s_injection_sites_are_plug_and_plays(sd21: Backbone) -> None:
    names = [s.name.removesuffix(".transformer_blocks.0.attn1") for s in sd21.injection_attention_sites()]
    assert names == [
        *("up_blocks.1.attentions.1", "up_blocks.1.attentions.2"),
        *(f"up_blocks.{b}.attentions.{j}" for b in (2, 3) for j in range(3)),
    ]
    (feature,) = sd21.injection_feature_sites("pnp")
    assert (feature.name, feature.level) == ("up_blocks.1.resnets.1.conv2", 2)
    assert feature.part == "up" and (feature.block, feature.layer) == (1, 1)
    wide = sd21.injection_feature_sites("wide")
    assert [(s.name, s.level) for s in wide] == [
        (f"up_blocks.{b}.resnets.{j}.conv2", 3 - b) for b in (1, 2, 3) for j in range(3)
    ]


def test_sd21s_grids(sd21: Backbone) -> None:
    assert [sd21.grid((48, 84), level) for level in range(4)] == [(48, 84), (24, 42), (12, 21), (6, 11)]


@pytest.mark.parametrize("latent", [(8, 12), (10, 14), (6, 10)])
def test_grids_are_those_the_layers_meet(latent: tuple[int, int]) -> None:
    backbone = make(levels=4)
    met: dict[str, int] = {}
    handles = [
        backbone.unet.get_submodule(s.name).register_forward_pre_hook(
            lambda _m, args, kwargs, name=s.name: met.update({name: args[0].shape[1]}), with_kwargs=True
        )
        for s in backbone.attention_sites()
    ]
    backbone.predict(noise(1, 4, *latent), 1, texts(backbone).rows([0], "source"))
    for handle in handles:
        handle.remove()
    assert list(met.items()) == [
        (s.name, math.prod(backbone.grid(latent, s.level))) for s in backbone.attention_sites()
    ]
