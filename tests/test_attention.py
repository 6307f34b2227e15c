"""Attention processors against stock ones, and against softmax written out in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_pipeline
from torch import Tensor

from adaflow.attention import KeyAttention, KeyPass, MemoryRecord, attention_installed, extended_attention
from adaflow.backbone import Backbone, Branch, Site
from adaflow.budget import CLIPS_A_RUN
from adaflow.cards import ModelCard
from adaflow.config import EditConfig, InjectionConfig, resolve
from adaflow.editing import propagation_runs
from adaflow.editor import Editor
from adaflow.keyframes import Partition
from adaflow.propagation import Blend, PropagatedAttention, PropagationPass
from adaflow.slimming import kept_tokens
from adaflow.steps import EDITED

ALL: tuple[Branch, ...] = ("source", *EDITED)
LATENT = (8, 12)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(tiny_pipeline(), ModelCard(name="tiny"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax64(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head: [N, d], [K, d], [K, d] -> [N, d], in float64."""
    q, k, v = q.double(), k.double(), v.double()
    return torch.softmax(q @ k.T / math.sqrt(q.shape[-1]), dim=-1) @ v


def module64(attn: torch.nn.Module, q_from: Tensor, k_from: Tensor, v_from: Tensor) -> Tensor:
    """A whole attention module for one frame in float64, from hidden states [N, C]; keys may be longer."""
    q, k, v = (
        x.double() @ layer.weight.double().T
        for x, layer in ((q_from, attn.to_q), (k_from, attn.to_k), (v_from, attn.to_v))
    )
    d = q.shape[-1] // attn.heads
    heads = [softmax64(*(x[:, h * d : (h + 1) * d] for x in (q, k, v))) for h in range(attn.heads)]
    return torch.cat(heads, dim=1) @ attn.to_out[0].weight.double().T + attn.to_out[0].bias.double()


def layer_of(backbone: Backbone, index: int = -1) -> tuple[Site, torch.nn.Module, int]:
    site = backbone.attention_sites()[index]
    h, w = backbone.grid(LATENT, site.level)
    return site, backbone.unet.get_submodule(site.name), h * w


def texts(backbone: Backbone) -> object:
    return backbone.conditioning("a red square", "", "a blue circle")


def predict_keys(backbone: Backbone, latents: Tensor, key_pass: KeyPass) -> Tensor:
    keys = range(key_pass.keys)
    with attention_installed(backbone.unet, backbone.attention_sites(), key_pass.processor):
        return backbone.predict(latents, 401, texts(backbone).rows(keys, *key_pass.branches))


# -- key passes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branches", [ALL, EDITED])
def test_without_extension_a_key_pass_equals_the_stock_processors_bit_for_bit(
    backbone: Backbone, branches: Sequence[Branch]
) -> None:
    latents = noise(3 * len(branches), 4, *LATENT)
    stock = backbone.predict(latents, 401, texts(backbone).rows(range(3), *branches))
    assert torch.equal(predict_keys(backbone, latents, KeyPass(branches, 3, extended=False)), stock)


def test_one_extended_keyframe_equals_the_stock_processors_bit_for_bit(backbone: Backbone) -> None:
    latents = noise(3, 4, *LATENT)
    stock = backbone.predict(latents, 401, texts(backbone).rows([0], *ALL))
    assert torch.equal(predict_keys(backbone, latents, KeyPass(ALL, 1)), stock)


@pytest.mark.parametrize("slimmed", [False, True])
def test_extended_attention_equals_a_softmax_over_concatenated_keys(slimmed: bool) -> None:
    frames, heads, tokens, d = 4, 3, 7, 5
    q, k, v = (noise(frames, heads, tokens, d, seed=s) for s in range(3))
    kept = None
    if slimmed:
        lists = [noise(frames * tokens, seed=10 + i).argsort()[:11].sort().values for i in range(frames)]
        kept = torch.stack(lists)
    out = extended_attention(q, k, v, kept)
    for i in range(frames):
        for h in range(heads):
            every_k, every_v = k[:, h].reshape(-1, d), v[:, h].reshape(-1, d)
            chosen = kept[i].tolist() if kept is not None else list(range(frames * tokens))
            expected = softmax64(q[i, h], every_k[chosen], every_v[chosen])
            assert (out[i, h] - expected).abs().max() < 2e-6


def test_a_budget_for_all_keyframes_equals_full_extended_attention(backbone: Backbone) -> None:
    frames = 3
    latents = noise(2 * frames, 4, *LATENT)
    kept = {}
    for level in {site.level for site in backbone.attention_sites()}:
        h, w = backbone.grid(LATENT, level)
        kept[level] = kept_tokens(noise(frames, h * w, 6, seed=level), budget=frames)
        assert kept[level].shape == (frames, frames * h * w)
    full = predict_keys(backbone, latents, KeyPass(EDITED, frames))
    assert (predict_keys(backbone, latents, KeyPass(EDITED, frames, kept=kept)) - full).abs().max() < 1e-5


def test_extended_attention_is_not_plain_attention(backbone: Backbone) -> None:
    latents = noise(6, 4, *LATENT)
    plain = predict_keys(backbone, latents, KeyPass(EDITED, 3, extended=False))
    assert (predict_keys(backbone, latents, KeyPass(EDITED, 3)) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("slimmed", [False, True])
def test_permuting_keyframes_permutes_their_outputs(backbone: Backbone, slimmed: bool) -> None:
    frames, order = 4, torch.tensor([2, 0, 3, 1])
    latents = noise(len(ALL), frames, 4, *LATENT)
    kept, permuted = {}, {}
    if slimmed:
        for level in {site.level for site in backbone.attention_sites()}:
            h, w = backbone.grid(LATENT, level)
            features = noise(frames, h * w, 6, seed=level)
            kept[level], permuted[level] = kept_tokens(features, 2), kept_tokens(features[order], 2)
    first = predict_keys(backbone, latents.flatten(0, 1), KeyPass(ALL, frames, kept=kept)).unflatten(0, (3, frames))
    second = predict_keys(backbone, latents[:, order].flatten(0, 1), KeyPass(ALL, frames, kept=permuted))
    assert (second.unflatten(0, (3, frames)) - first[:, order]).abs().max() < 1e-5


def test_the_source_sees_only_its_own_frame(backbone: Backbone) -> None:
    frames = 3
    latents = noise(3 * frames, 4, *LATENT)
    out = predict_keys(backbone, latents, KeyPass(ALL, frames))
    alone = backbone.predict(latents[:frames], 401, texts(backbone).rows(range(frames), "source"))
    assert (out[:frames] - alone).abs().max() < 1e-5


@pytest.mark.parametrize("slimmed", [False, True])
def test_injected_rows_use_the_sources_queries_and_keys(backbone: Backbone, slimmed: bool) -> None:
    frames = 3
    site, attn, tokens = layer_of(backbone)
    hidden = noise(3 * frames, tokens, attn.to_q.in_features)
    kept = kept_tokens(noise(frames, tokens, 6), 2) if slimmed else None
    key_pass = KeyPass(ALL, frames, kept={} if kept is None else {site.level: kept}, injected=frozenset([site.name]))
    out = KeyAttention(site, key_pass)(attn, hidden).unflatten(0, (3, frames))
    source, *edits = hidden.unflatten(0, (3, frames))
    for i in range(frames):
        assert (out[0, i] - module64(attn, source[i], source[i], source[i])).abs().max() < 2e-6
        chosen = slice(None) if kept is None else kept[i]
        for branch, edit in enumerate(edits, start=1):
            keys, values = (x.flatten(0, 1)[chosen] for x in (source, edit))
            assert (out[branch, i] - module64(attn, source[i], keys, values)).abs().max() < 2e-6


def test_injection_needs_the_source_and_the_layer(backbone: Backbone) -> None:
    site, attn, tokens = layer_of(backbone)
    hidden = noise(4, tokens, attn.to_q.in_features)
    without = KeyAttention(site, KeyPass(EDITED, 2))(attn, hidden)
    assert torch.equal(KeyAttention(site, KeyPass(EDITED, 2, injected=frozenset([site.name])))(attn, hidden), without)
    hidden = noise(6, tokens, attn.to_q.in_features)
    elsewhere = KeyPass(ALL, 2, injected=frozenset([backbone.attention_sites()[0].name]))
    assert torch.equal(KeyAttention(site, elsewhere)(attn, hidden), KeyAttention(site, KeyPass(ALL, 2))(attn, hidden))


def test_the_record_holds_what_the_layer_gave(backbone: Backbone) -> None:
    site, attn, tokens = layer_of(backbone)
    record = MemoryRecord(CPU)
    out = KeyAttention(site, KeyPass(ALL, 2, record=record))(attn, noise(6, tokens, attn.to_q.in_features))
    for clip in range(2):
        assert torch.equal(record.get(site.name, clip, slice(0, 3)), out[clip::2])
        assert torch.equal(record.get(site.name, clip, slice(1, 3)), out[clip::2][1:])


# -- propagation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("injection", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("sites", ["pnp", "wide"])
def test_a_keyframe_propagated_to_itself_is_itself(
    backbone: Backbone, injection: tuple[float, float], sites: str
) -> None:
    config = resolve(
        EditConfig(steps=2, injection=InjectionConfig(features=injection[0], attention=injection[1], sites=sites))
    )
    editor = Editor(backbone, config, texts(backbone))
    keys, record = [3, 8, 11], MemoryRecord(CPU)
    latents, source = noise(3, 4, *LATENT), noise(3, 4, *LATENT, seed=1)
    expected = editor.edit_keys(editor.steps[0], latents, source, keys, {}, record).unflatten(0, (2, 3))
    for clip, key in enumerate(keys):
        identity = {
            site.level: torch.arange(math.prod(backbone.grid(LATENT, site.level))).expand(2, -1)
            for site in backbone.attention_sites()
        }
        twice = [x[clip].expand(2, -1, -1, -1) for x in (latents, source)]
        out = editor.propagate(editor.steps[0], *twice, range(key, key + 2), [clip] * 2, identity, record)
        for row in out.unflatten(0, (2, 2)).unbind(1):
            assert (row - expected[:, clip]).abs().max() < 1e-5


def test_propagation_gathers_the_keyframes_outputs(backbone: Backbone) -> None:
    site, attn, tokens = layer_of(backbone)
    record, hidden = MemoryRecord(CPU), noise(6, tokens, attn.to_q.in_features)
    out = KeyAttention(site, KeyPass(ALL, 2, record=record))(attn, hidden).unflatten(0, (3, 2))
    phi = torch.randint(tokens, (4, tokens), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    for branches in (("source",), EDITED, ALL):
        this = PropagationPass(record, ALL, branches, [1] * len(phi), {site.level: phi})
        rows = noise(4 * len(branches), tokens, attn.to_q.in_features, seed=5)
        got = PropagatedAttention(site, this)(attn, rows).unflatten(0, (len(branches), 4))
        for b, branch in enumerate(branches):
            for i in range(4):
                for p in (0, 1, tokens - 1):
                    assert torch.equal(got[b, i, p], out[ALL.index(branch), 1, int(phi[i, p])])


def test_gathering_before_and_after_the_output_matrix_agree(backbone: Backbone) -> None:
    """Eq. 9 gathers Softmax(..)V; the record holds what the output matrix made of it."""
    site, attn, tokens = layer_of(backbone)
    record, hidden = MemoryRecord(CPU), noise(1, tokens, attn.to_q.in_features)
    KeyAttention(site, KeyPass(("prompt",), 1, record=record))(attn, hidden)
    phi = torch.randint(tokens, (1, tokens), generator=torch.Generator().manual_seed(0))
    after = PropagatedAttention(site, PropagationPass(record, ("prompt",), ("prompt",), [0], {site.level: phi}))
    q = hidden[0][phi[0]]  # softmax attention of a token depends on its query alone: gathered queries, gathered output
    expected = module64(attn, q, hidden[0], hidden[0])
    assert (after(attn, hidden)[0] - expected).abs().max() < 2e-6


def test_propagation_computes_no_projection(backbone: Backbone) -> None:
    site, attn, tokens = layer_of(backbone)
    record, hidden = MemoryRecord(CPU), noise(2, tokens, attn.to_q.in_features)
    KeyAttention(site, KeyPass(EDITED, 1, record=record))(attn, hidden)
    calls: list[str] = []
    handles = [m.register_forward_hook(lambda *_: calls.append("called")) for m in attn.modules()]
    identity = {site.level: torch.arange(tokens)[None]}
    PropagatedAttention(site, PropagationPass(record, EDITED, EDITED, [0], identity))(attn, hidden)
    for handle in handles:
        handle.remove()
    assert not calls


# -- installing ------------------------------------------------------------------------------------------------------


def test_the_unet_gets_its_processors_back(backbone: Backbone) -> None:
    before = dict(backbone.unet.attn_processors)
    predict_keys(backbone, noise(6, 4, *LATENT), KeyPass(ALL, 2))
    after = dict(backbone.unet.attn_processors)
    assert before.keys() == after.keys() and all(after[name] is before[name] for name in before)


def test_and_after_an_exception_too(backbone: Backbone) -> None:
    before = dict(backbone.unet.attn_processors)
    with pytest.raises(ValueError, match="5 rows for 3 branches of 2 keyframes"):
        predict_keys_of_wrong_size(backbone)
    after = dict(backbone.unet.attn_processors)
    assert all(after[name] is before[name] for name in before)

    def refuses(site: Site) -> object:
        raise RuntimeError(site.name)

    with (
        pytest.raises(RuntimeError, match="down_blocks"),
        attention_installed(backbone.unet, backbone.attention_sites(), refuses),
    ):
        pass
    after = dict(backbone.unet.attn_processors)
    assert all(after[name] is before[name] for name in before)


def predict_keys_of_wrong_size(backbone: Backbone) -> None:
    with attention_installed(backbone.unet, backbone.attention_sites(), KeyPass(ALL, 2).processor):
        rows = {"encoder_hidden_states": texts(backbone).rows(range(5), "prompt")["encoder_hidden_states"]}
        backbone.predict(noise(5, 4, *LATENT), 401, rows)


def test_only_the_named_layers_are_changed(backbone: Backbone) -> None:
    sites = backbone.attention_sites()[:1]
    with attention_installed(backbone.unet, sites, KeyPass(ALL, 2).processor):
        found = [name for name, p in backbone.unet.attn_processors.items() if isinstance(p, KeyAttention)]
    assert found == [f"{sites[0].name}.processor"]


def test_a_context_or_a_mask_is_refused(backbone: Backbone) -> None:
    site, attn, tokens = layer_of(backbone)
    hidden = noise(2, tokens, attn.to_q.in_features)
    record = MemoryRecord(CPU)
    record.put(site.name, hidden[:, None])
    identity = {site.level: torch.arange(tokens)[None]}
    for processor in (
        KeyAttention(site, KeyPass(EDITED, 1)),
        PropagatedAttention(site, PropagationPass(record, EDITED, EDITED, [0], identity)),
    ):
        with pytest.raises(ValueError, match="mask"):
            processor(attn, hidden, attention_mask=torch.zeros(2, 1, tokens))
        with pytest.raises(ValueError, match="context"):
            processor(attn, hidden, hidden)


def test_wrong_rows_are_refused(backbone: Backbone) -> None:
    site, attn, tokens = layer_of(backbone)
    hidden = noise(4, tokens, attn.to_q.in_features)
    with pytest.raises(ValueError, match="4 rows for 3 branches of 2 keyframes"):
        KeyAttention(site, KeyPass(ALL, 2))(attn, hidden)
    record = MemoryRecord(CPU)
    record.put(site.name, hidden[:2, None])
    for frames, n in ((3, tokens), (2, tokens - 1)):
        phi = {site.level: torch.zeros(frames, n, dtype=torch.int64)}
        with pytest.raises(ValueError, match="rows"):
            PropagatedAttention(site, PropagationPass(record, EDITED, EDITED, [0] * frames, phi))(attn, hidden)


def test_attention_with_norms_or_a_residual_is_refused(backbone: Backbone) -> None:
    from diffusers.models.attention_processor import Attention

    site, _, tokens = layer_of(backbone)
    odd = Attention(16, heads=4, dim_head=4, residual_connection=True)
    with pytest.raises(ValueError, match="only Stable Diffusion's"):
        KeyAttention(site, KeyPass(EDITED, 1))(odd, noise(2, tokens, 16))


def test_a_run_over_several_clips_is_their_runs_one_after_another(backbone: Backbone) -> None:
    """Each frame takes from its own clip's keyframe, and the blends from a third."""
    site, attn, tokens = layer_of(backbone)
    record, width = MemoryRecord(CPU), attn.to_q.in_features
    record.put(site.name, noise(2, 4, tokens, width))
    generator = torch.Generator().manual_seed(3)
    phi = torch.randint(tokens, (6, tokens), generator=generator)
    blend = Blend(0, slice(3, 5), torch.tensor([0.25, 0.125]), {site.level: phi[3:5].flip(1)})
    clips = [1, 1, 2, 3, 3, 3]
    whole = PropagationPass(record, EDITED, EDITED, clips, {site.level: phi}, [blend])
    found = PropagatedAttention(site, whole)(attn, torch.zeros(12, tokens, width)).unflatten(0, (2, 6))
    for rows, clip in ((slice(0, 2), 1), (slice(2, 3), 2), (slice(3, 6), 3)):
        some = [replace(blend, rows=slice(0, 2))] if clip == 3 else []
        frames = rows.stop - rows.start
        alone = PropagationPass(record, EDITED, EDITED, [clip] * frames, {site.level: phi[rows]}, some)
        expected = PropagatedAttention(site, alone)(attn, torch.zeros(2 * frames, tokens, width))
        assert torch.equal(found[:, rows], expected.unflatten(0, (2, frames)))
    with pytest.raises(ValueError, match="5 clips for 6 frames"):
        PropagatedAttention(site, replace(whole, clips=clips[1:]))(attn, torch.zeros(12, tokens, width))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 50))
def test_propagation_runs_cover_all_frames_and_are_as_long_as_they_may_be(lengths: list[int], most: int) -> None:
    starts = list(itertools.accumulate(lengths, initial=0))
    clips = Partition.from_starts(starts[:-1], starts[-1])
    runs = propagation_runs(clips, most)
    assert [frame for run in runs for frame in run] == list(range(clips.frames))
    for run, after in itertools.pairwise([*runs, None]):
        of = clips.clips_of(run)
        assert [frame for _, frames in of for frame in frames] == list(run)
        assert all(clips.clip_of(frame) == clip for clip, frames in of for frame in frames)
        assert len(run) <= most and len(of) <= CLIPS_A_RUN
        full = len(of) == CLIPS_A_RUN and after is not None and clips.clip_of(after[0]) != of[-1][0]
        assert after is None or len(run) == most or full
