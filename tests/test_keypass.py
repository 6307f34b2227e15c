"""The key pass in chunks against the key pass in one batch, and the UNet in parts against the UNet."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import tiny_pipeline
from torch import Tensor

from adaflow.attention import KeyPass, MemoryRecord
from adaflow.backbone import Backbone
from adaflow.cards import ModelCard
from adaflow.config import EditConfig, resolve
from adaflow.editor import Editor
from adaflow.keypass import ALL_AT_ONCE, KeyChunks
from adaflow.slimming import kept_tokens
from adaflow.walk import begin, parts, unknown_parts

LATENT = (8, 12)
CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(**given: Any) -> Backbone:
    return Backbone(tiny_pipeline(**given), ModelCard(name="tiny"))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return make()


def texts(backbone: Backbone) -> Any:
    return backbone.conditioning("a red square", "bad", "a blue circle")


# -- the UNet in parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"levels": 2}, {"levels": 4, "layers": 2}, {"linear": True}])
@pytest.mark.parametrize("size", [(8, 12), (7, 13)])  # the second: halvings are rounded up
def test_the_parts_together_are_the_unet(given: dict[str, Any], size: tuple[int, int]) -> None:
    backbone = make(**given)
    unet, text = backbone.unet, texts(backbone).rows(range(2), "prompt")["encoder_hidden_states"]
    assert not unknown_parts(unet)
    z = noise(2, 4, *size)
    with torch.inference_mode():
        expected = unet(z, 401, encoder_hidden_states=text, return_dict=False)[0]
        rows = begin(unet, range(2), z, 401, text)
        met = []
        for part in parts(unet):
            if part.after is not None:
                rows = attend_alone(part.after, rows)
            rows = part(rows)
            met.append(part.block)
    assert torch.equal(rows.x, expected)
    assert [b and id(b.attn1) for b in met] == [
        *(id(unet.get_submodule(site.name)) for site in backbone.attention_sites()),
        None,
    ]
    assert rows.skips == () and rows.tokens is None


def attend_alone(block: Any, rows: Any) -> Any:
    from adaflow.walk import attended

    return attended(block, rows, block.attn1(block.norm1(rows.tokens)))


def test_a_unet_with_other_parts_is_told() -> None:
    backbone = make()
    assert unknown_parts(backbone.unet) == []
    backbone.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert unknown_parts(backbone.unet) == ["FreeU"]


def test_a_part_of_the_rows_is_theirs(backbone: Backbone) -> None:
    text = texts(backbone).rows(range(4), "negative", "prompt")["encoder_hidden_states"]
    z = noise(8, 4, *LATENT)
    with torch.inference_mode():
        rows = parts(backbone.unet)[0](begin(backbone.unet, range(3, 7), z, 1, text))
        some = rows.part(range(4, 6))
    assert some.frames == range(4, 6)
    for name in ("x", "tokens", "emb", "text"):
        assert torch.equal(getattr(some, name), getattr(rows, name)[[1, 2, 5, 6]])
    assert all(torch.equal(a, b[[1, 2, 5, 6]]) for a, b in zip(some.skips, rows.skips, strict=True))


# -- the key pass in chunks --------------------------------------------------------------------------------------------

M = 5


def one_step(
    backbone: Backbone, chunks: KeyChunks, *, budget: int, step: int = 0, on_shrink: Any = None, **given: Any
) -> tuple[Tensor, MemoryRecord, Any]:
    """The predictions and the record of one step of an edit of M keyframes."""
    settings = {"steps": 4, "slimming.budget": budget, "injection.features": 0.5, "injection.attention": 0.5} | given
    editor = Editor(backbone, resolve(EditConfig.from_fields(settings)), texts(backbone))
    record = MemoryRecord(CPU)
    kept = editor.kept(lambda level: features(backbone, level), M)
    keys = [3, 8, 11, 12, 20]
    deep = None
    if settings.get("reuse", 1) > 1:
        from adaflow.reuse import MemoryDeepFeatures

        deep = MemoryDeepFeatures()
        latents = noise(M, 4, *LATENT, seed=9)
        editor.edit_keys(editor.steps[0], latents, noise(M, 4, *LATENT, seed=8), keys, kept, record, deep, chunks)
    given_rows = noise(M, 4, *LATENT), noise(M, 4, *LATENT, seed=1)
    out = editor.edit_keys(editor.steps[step], *given_rows, keys, kept, record, deep, chunks, on_shrink)
    return out, record, editor


def features(backbone: Backbone, level: int) -> Tensor:
    h, w = backbone.grid(LATENT, level)
    return noise(M, h * w, 6, seed=level)


def check_same(found: tuple[Tensor, MemoryRecord, Any], expected: tuple[Tensor, MemoryRecord, Any]) -> None:
    assert found[0].shape == expected[0].shape
    assert (found[0] - expected[0]).abs().max() < 1e-5
    for site in found[2].backbone.attention_sites():
        for clip in range(M):
            for branch in range(3):
                a, b = (x.get(site.name, clip, slice(branch, branch + 1)) for x in (found[1], expected[1]))
                assert a.shape == b.shape and (a.numel() == 0 or (a - b).abs().max() < 1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, M - 1])
@pytest.mark.parametrize("budget", [0, 2, M])
@pytest.mark.parametrize("step", [0, 3])  # with injection and the source; without either
def test_chunks_compute_what_one_batch_does(backbone: Backbone, size: int, budget: int, step: int) -> None:
    expected = one_step(backbone, ALL_AT_ONCE, budget=budget, step=step)
    check_same(one_step(backbone, KeyChunks(size), budget=budget, step=step), expected)


@pytest.mark.parametrize("kind", ["features", "attention"])
@pytest.mark.parametrize("sites", ["pnp", "wide"])
def test_with_one_kind_of_injection_too(backbone: Backbone, kind: str, sites: str) -> None:
    given = {f"injection.{kind}": 0.0, "injection.sites": sites}
    check_same(one_step(backbone, KeyChunks(2), budget=2, **given), one_step(backbone, ALL_AT_ONCE, budget=2, **given))


@pytest.mark.parametrize("step", [1, 3])  # a step between, and one without the source
def test_between_whole_steps_and_without_guidance(backbone: Backbone, step: int) -> None:
    given = {"reuse": 4, "guidance_end": 1.0}
    expected = one_step(backbone, ALL_AT_ONCE, budget=2, step=step, **given)
    check_same(one_step(backbone, KeyChunks(2), budget=2, step=step, **given), expected)
    given = {"guidance_end": 0.0}
    expected = one_step(backbone, ALL_AT_ONCE, budget=2, step=step, **given)
    assert len(expected[0]) == M
    check_same(one_step(backbone, KeyChunks(2), budget=2, step=step, **given), expected)


@pytest.mark.parametrize("given", [{"levels": 2}, {"levels": 4, "layers": 2}, {"linear": True}])
def test_of_other_unets(given: dict[str, Any]) -> None:
    backbone = make(**given)
    check_same(one_step(backbone, KeyChunks(2), budget=2), one_step(backbone, ALL_AT_ONCE, budget=2))


def test_where_things_are_held_changes_nothing(backbone: Backbone) -> None:
    expected, record, editor = one_step(backbone, KeyChunks(2), budget=2)
    for rows, keys in (("host", "device"), ("host", "host")):
        found, other, _ = one_step(backbone, KeyChunks(2, rows, keys), budget=2)  # type: ignore[arg-type]
        assert torch.equal(found, expected)
        for site in editor.backbone.attention_sites():
            assert torch.equal(other.get(site.name, 4, slice(0, 3)), record.get(site.name, 4, slice(0, 3)))


def test_the_unet_is_left_as_it_was(backbone: Backbone) -> None:
    before = dict(backbone.unet.attn_processors)
    one_step(backbone, KeyChunks(2), budget=2)
    assert all(backbone.unet.attn_processors[name] is before[name] for name in before)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in backbone.unet.modules())


# -- out of memory -----------------------------------------------------------------------------------------------------


class Full:
    """Fails the calls of a module that have too many rows, as an allocator does; counts those that go through."""

    def __init__(self, module: torch.nn.Module, most: int, words: str | None = None) -> None:
        self.most, self.words, self.done = most, words, 0
        self.handle = module.register_forward_pre_hook(self)

    def __call__(self, _module: Any, args: Any) -> None:
        if len(args[0]) > self.most:
            raise RuntimeError(self.words) if self.words else torch.OutOfMemoryError("CUDA out of memory.")
        self.done += len(args[0])


CPU_WORDS = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"


@pytest.mark.parametrize("words", [None, CPU_WORDS])
@pytest.mark.parametrize("where", ["down_blocks.0.resnets.0", "mid_block.resnets.0", "up_blocks.2.resnets.1"])
def test_out_of_memory_halves_the_chunk_and_nothing_is_done_again(
    backbone: Backbone, where: str, words: str | None
) -> None:
    expected = one_step(backbone, ALL_AT_ONCE, budget=2)
    told: list[KeyChunks] = []
    full = Full(backbone.unet.get_submodule(where), 3 * 1, words)  # three branches of one keyframe
    earlier = Full(backbone.unet.get_submodule("down_blocks.0.resnets.0"), 10**6)
    try:
        found = one_step(backbone, KeyChunks(4), budget=2, on_shrink=told.append)
    finally:
        full.handle.remove()
        earlier.handle.remove()
    check_same(found, expected)
    assert [c.size for c in told] == [2, 1]
    assert full.done == 3 * M
    assert where.startswith("down") or earlier.done == 3 * M  # what came before was not done again


def test_when_nothing_helps_the_error_is_handed_on(backbone: Backbone) -> None:
    told: list[KeyChunks] = []
    full = Full(backbone.unet.mid_block.resnets[0], 0)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            one_step(backbone, KeyChunks(2), budget=2, on_shrink=told.append)
    finally:
        full.handle.remove()
    assert told == [KeyChunks(1)]


def test_what_is_tried_on_a_gpu() -> None:
    """Half as many until there is one, then its surroundings go to the host."""
    tried = []
    chunks: KeyChunks | None = KeyChunks()
    while chunks := chunks.smaller(5, torch.device("cuda")):
        tried.append((chunks.size, chunks.rows, chunks.keys))
    device = [(size, "device", "device") for size in (3, 2, 1)]
    assert tried == [*device, (1, "host", "device"), (1, "host", "host")]


def test_other_errors_are_not_mistaken(backbone: Backbone) -> None:
    full = Full(backbone.unet.mid_block.resnets[0], 0, "shapes do not fit")
    try:
        with pytest.raises(RuntimeError, match="shapes"):
            one_step(backbone, KeyChunks(2), budget=2, on_shrink=lambda _: pytest.fail("shrunk"))
    finally:
        full.handle.remove()


def test_slimmed_keyframes_see_what_was_kept_for_them(backbone: Backbone) -> None:
    """The kept tokens of a chunk are those of its own keyframes: other lists give another result."""
    editor = one_step(backbone, ALL_AT_ONCE, budget=2)[2]
    kept = {level: kept_tokens(features(backbone, level), 2) for level in (0, 1)}
    turned = {level: k.roll(1, 0) for level, k in kept.items()}
    inputs = noise(M, 4, *LATENT), noise(M, 4, *LATENT, seed=1), list(range(M))
    a, b = (editor.edit_keys(editor.steps[3], *inputs, k, None, None, KeyChunks(2)) for k in (kept, turned))
    assert (a - b).abs().max() > 1e-4


def test_key_passes_know_who_sees_whom() -> None:
    assert KeyPass(("source", "prompt"), 2).joint and KeyPass(("source", "prompt"), 2).own_branches == 1
    assert not KeyPass(("prompt",), 1).joint and not KeyPass(("prompt",), 4, extended=False).joint
