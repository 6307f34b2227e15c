"""What compared systems take from other networks: ControlNets (RAVE, FRESCO) and RAFT; and what is said without."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from models import tiny_pipeline
from peer_edits import PROMPT, SIZE, Edits, N, asked, bench, controlnet, gathered, video
from safetensors.torch import save_file
from torch import Tensor, nn

from adaflow import AdaFlowPipeline
from adaflow.backbone import Backbone
from adaflow.cards import ModelCard
from adaflow.config import InjectionConfig, PeerConfig
from adaflow.errors import InputError, MissingError
from adaflow.longv_eval.metrics.convert import convert
from adaflow.peers import PEERS
from adaflow.peers.control import ControlNet, ControlPictures, default_controlnet
from adaflow.peers.flow import RAFT_PARTS, flow_by, missing
from adaflow.peers.rave import laid_out

NONE = InjectionConfig(features=0.0, attention=0.0)


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


@pytest.fixture
def edit(pipe: AdaFlowPipeline, tmp_path: Path) -> Edits:
    return Edits(pipe, tmp_path)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path / "cache"))


def loaded(pipe: AdaFlowPipeline, folder: Path, strength: float = 1.0, **given: Any) -> ControlNet:
    return ControlNet.load(controlnet(pipe.backbone, folder, **given), pipe.backbone, strength)


# -- ControlNets ------------------------------------------------------------------------------------------------------


def test_what_a_controlnet_gives_is_added_as_diffusers_adds_it(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """One step of diffusers' own ControlNet pipeline, with guidance, against one call that is steered."""
    net = loaded(pipe, tmp_path, 0.7)
    own: Any = pipe.backbone.pipe
    parts = {name: part for name, part in own.components.items() if name != "image_encoder"}
    diffusers: Any = StableDiffusionControlNetPipeline(**parts, controlnet=net.net, requires_safety_checker=False)
    diffusers.set_progress_bar_config(disable=True)
    z, shown = torch.randn(1, 4, 8, 12), torch.rand(1, 3, *SIZE)
    seen: list[Tensor] = []

    def keep(_unet: Any, _args: Any, output: tuple[Tensor, ...]) -> None:
        seen.append(output[0])

    handle = own.unet.register_forward_hook(keep)
    diffusers(
        PROMPT,
        shown,
        negative_prompt="blurry",
        latents=z,
        num_inference_steps=1,
        controlnet_conditioning_scale=0.7,
        output_type="latent",
    )
    handle.remove()
    t = int(diffusers.scheduler.timesteps[0])
    rows = pipe.backbone.conditioning("", "blurry", PROMPT).rows([0], "negative", "prompt")
    with net.steering(own.unet, shown):
        found = pipe.backbone.predict(torch.cat([z, z]), t, rows)
    torch.testing.assert_close(found, seen[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(pipe.backbone.predict(torch.cat([z, z]), t, rows), found, atol=1e-3)


def test_a_controlnet_that_gives_nothing_changes_nothing(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    z, rows = torch.randn(2, 4, 8, 12), pipe.backbone.conditioning("", "", PROMPT).rows(range(2), "prompt")
    plain = pipe.backbone.predict(z, 500, rows)
    with loaded(pipe, tmp_path, scale=0.0).steering(pipe.backbone.unet, torch.rand(2, 3, 7, 9)):
        torch.testing.assert_close(pipe.backbone.predict(z, 500, rows), plain)
    with loaded(pipe, tmp_path, 0.0).steering(pipe.backbone.unet, torch.rand(2, 3, *SIZE)):  # of no strength
        torch.testing.assert_close(pipe.backbone.predict(z, 500, rows), plain)
    unet: Any = pipe.backbone.unet
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_every_branch_is_shown_the_same_pictures(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    net = loaded(pipe, tmp_path)
    z, shown = torch.randn(2, 4, 8, 12), torch.rand(2, 3, *SIZE)
    text = pipe.backbone.conditioning("", "blurry", PROMPT)
    with net.steering(pipe.backbone.unet, shown):
        both = pipe.backbone.predict(torch.cat([z, z]), 400, text.rows(range(2), "negative", "prompt"))
    for i in range(2):
        with net.steering(pipe.backbone.unet, shown[i, None]):
            alone = pipe.backbone.predict(z[i, None], 400, text.rows([0], "prompt"))
        torch.testing.assert_close(both[2 + i], alone[0], rtol=1e-4, atol=1e-5)


def test_a_controlnet_of_another_model_is_refused(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    other = Backbone(tiny_pipeline(levels=4), ModelCard("other"))
    with pytest.raises(InputError, match="is of another model than custom: its block_out_channels"):
        ControlNet.load(controlnet(other, tmp_path), pipe.backbone, 1.0)
    with pytest.raises(MissingError, match=r"the ControlNet .*nowhere could not be loaded"):
        ControlNet.load(str(tmp_path / "nowhere"), pipe.backbone, 1.0)


def test_pickled_weights_are_never_loaded(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    place = Path(controlnet(pipe.backbone, tmp_path))
    weights = place / "diffusion_pytorch_model.safetensors"
    torch.save(ControlNetModel.from_pretrained(place).state_dict(), place / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(MissingError, match="safetensors"):
        ControlNet.load(str(place), pipe.backbone, 1.0)


def test_edges_of_a_square(pipe: AdaFlowPipeline) -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[8:24, 12:36] = 255
    found = ControlPictures(PeerConfig(control="canny"), pipe.backbone)(picture)
    assert found.shape == (3, 32, 48) and set(found.unique().tolist()) == {0.0, 1.0} and torch.equal(found[0], found[2])
    rows, columns = found[0].nonzero(as_tuple=True)
    assert {7, 8} & set(rows.tolist()) and rows.min() >= 7 and rows.max() <= 24 and columns.min() >= 11
    assert not found[0, 11:21, 15:33].any()


@pytest.fixture
def depth_estimator(tmp_path: Path) -> str:
    """A tiny random network of transformers that sees depth, saved."""
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    config = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        reassemble_factors=[4, 2, 1, 0.5],
        fusion_hidden_size=8,
        head_in_index=-1,
        is_hybrid=False,
    )
    torch.manual_seed(0)
    place = tmp_path / "depth"
    DPTForDepthEstimation(config).save_pretrained(place)
    DPTImageProcessor(size={"height": 32, "width": 32}, do_resize=True).save_pretrained(place)
    return str(place)


def test_depth_is_seen_by_a_network_of_transformers(pipe: AdaFlowPipeline, depth_estimator: str) -> None:
    look = ControlPictures(PeerConfig(control="depth", detector=depth_estimator), pipe.backbone)
    found = look(video(1)[0])
    assert found.shape == (3, *SIZE) and found.min() == 0 and found.max() == 1 and found[0].std() > 0
    with pytest.raises(MissingError, match=r"name a depth estimator of transformers with --peers.detector"):
        ControlPictures(PeerConfig(control="depth", detector="nowhere/at-all"), pipe.backbone)


# -- RAVE -------------------------------------------------------------------------------------------------------------


def test_rave_with_a_grid_of_one_and_a_controlnet_that_gives_nothing_is_the_model_alone(
    pipe: AdaFlowPipeline, tmp_path: Path
) -> None:
    """Nothing is injected, whatever the settings of injection."""
    net = controlnet(pipe.backbone, tmp_path, scale=0.0)
    config = asked("rave", peers=PeerConfig(grid=1, controlnet=net, control="canny"))
    with bench(pipe, tmp_path, config) as (peer, z):
        plain = PEERS["pnp"](peer.bench)
        for step in peer.bench.steps:
            without = replace(step, features=False, attention=False)
            found = gathered(peer.predict(step, range(N), z, z))
            wanted = gathered(plain.predict(without, range(N), z, z))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
            assert peer.guidance(step) == (7.5 if step.number else 0.0)


def test_the_pictures_for_the_controlnet_are_laid_out_like_the_frames(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    with bench(pipe, tmp_path, asked("rave")) as (peer, z):
        shown: list[Tensor] = []

        class Spy(nn.Module):
            def __init__(self, net: nn.Module) -> None:
                super().__init__()
                self.net, self.config = net, net.config

            def forward(self, sample: Tensor, t: Any, *, controlnet_cond: Tensor, **kwargs: Any) -> Any:
                shown.append(controlnet_cond)
                return self.net(sample, t, controlnet_cond=controlnet_cond, **kwargs)

        peer.control.net = Spy(peer.control.net)
        look = ControlPictures(peer.config.peers, pipe.backbone)
        edges = torch.stack([look(frame) for frame in video(9)])
        for frames, _ in peer.predict(peer.bench.steps[0], range(8), z, z):
            pictures = len(frames) // 4
            assert shown[-1].shape == (2 * pictures, 3, 2 * SIZE[0], 2 * SIZE[1])
            wanted = laid_out(edges[list(frames)], 2)
            torch.testing.assert_close(shown[-1], wanted.repeat(2, 1, 1, 1), rtol=0, atol=1 / 255)
        with peer.inverting(range(2, 5)):
            pipe.backbone.predict(z.read(2, 5), 1, peer.bench.conditioning.rows(range(3), "source"))
        torch.testing.assert_close(shown[-1], edges[2:5], rtol=0, atol=1 / 255)


def test_raves_edit_depends_on_its_controlnet(edit: Edits, pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """In one workspace: another net, another strength, another picture; the same again is found."""

    def by(**given: Any) -> np.ndarray:
        peers = PeerConfig(**({"controlnet": controlnet(pipe.backbone, tmp_path), "control": "canny"} | given))
        return edit(video(5), "rave", peers=peers, workspace=tmp_path / "one")

    first = by()
    other = controlnet(pipe.backbone, tmp_path, seed=1)
    for different in (by(controlnet=other), by(control_scale=0.5)):
        assert not np.array_equal(different, first)
    seen = {p.name.rpartition("-")[0] for p in (tmp_path / "one" / "stages").iterdir()}
    assert {"control", "trajectory", "edit"} <= seen
    assert len(list((tmp_path / "one" / "stages").glob("trajectory-*"))) == 3  # the net steers the inversion too
    assert len(list((tmp_path / "one" / "stages").glob("control-*"))) == 1
    assert np.array_equal(by(), first)
    # what is at the same place is not the same net
    net = ControlNetModel.from_pretrained(controlnet(pipe.backbone, tmp_path))
    net.controlnet_mid_block.weight.data += 1
    net.save_pretrained(controlnet(pipe.backbone, tmp_path))
    assert not np.array_equal(by(), first)


def test_raves_inversion_does_not_depend_on_the_portions(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    with bench(pipe, tmp_path, asked("rave")) as (peer, _):
        parts = list(peer.inverted_at_once(range(3, 30)))
        assert [f for part in parts for f in part] == list(range(3, 30)) and len(parts[0]) == 12


def test_without_a_controlnet_rave_says_what_to_name(
    pipe: AdaFlowPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_controlnet() is None and PEERS["rave"].missing(PeerConfig())
    with pytest.raises(MissingError, match=r"name a folder or a hub id with --peers.controlnet.*there is rave-pnp"):
        pipe(video(2), PROMPT, config=asked("rave"), workspace=tmp_path / "w")
    place = tmp_path / "cache" / "weights" / "controlnet"
    place.parent.mkdir(parents=True)
    Path(controlnet(pipe.backbone, tmp_path)).rename(place)
    assert default_controlnet() == str(place) and PEERS["rave"].missing(PeerConfig()) is None
    config = asked("rave", peers=PeerConfig(control="canny"))
    assert len(np.asarray(pipe(video(2), PROMPT, config=config, workspace=tmp_path / "w").frames)) == 2


# -- RAFT -------------------------------------------------------------------------------------------------------------


class StandIn(nn.Module):
    """What is called like RAFT, and sees everything move by as much as its weights say."""

    seen: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.seen = nn.Parameter(torch.zeros(2)), []

    def forward(self, a: Tensor, b: Tensor, num_flow_updates: int) -> list[Tensor]:
        self.seen.extend([a, b])
        assert num_flow_updates == 20
        return [torch.zeros(1, 2, *a.shape[-2:]), self.shift[:, None, None].expand(1, 2, *a.shape[-2:])]


@pytest.fixture
def raft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    network = StandIn()
    module: Any = SimpleNamespace(raft_large=lambda weights: network, __spec__=SimpleNamespace())
    for name in ("torchvision", "torchvision.models", "torchvision.models.optical_flow"):
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    save_file({"shift": torch.tensor([8.0, -4.0])}, tmp_path / "cache" / "weights" / "raft_large.safetensors")
    yield network


def test_raft_gets_what_it_wants_and_gives_pixels_of_the_frame(raft: StandIn) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 256, 3), dtype=np.uint8)
    assert missing("raft") is None
    found = flow_by("raft")(frame, frame)
    assert found.shape == (64, 256, 2) and np.allclose(found, (8.0, -2.0))  # 64 rows are 128 to the network
    a = raft.seen[0]
    assert a.shape == (1, 3, 128, 256) and -1 <= a.min() < -0.9 and 0.9 < a.max() <= 1


@pytest.mark.parametrize("method", ["flatten", "rerender-lite", "fresco-lite"])
def test_flow_is_rafts_where_it_is_asked_for(edit: Edits, raft: StandIn, method: str) -> None:
    peers = PeerConfig(flow="raft", interval=2, least_gap=2, most_gap=2, optimise=0)
    edit(video(4), method, peers=peers)
    assert len(raft.seen) >= 2 * 3


def test_what_raft_lacks_is_said(edit: Edits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raft: StandIn) -> None:
    file = tmp_path / "cache" / "weights" / "raft_large.safetensors"
    for bad in (b"no weights", None):
        if bad is None:
            save_file({"other": torch.zeros(1)}, file)
        else:
            file.write_bytes(bad)
        with pytest.raises(InputError, match="does not hold torchvision's raft_large"):
            flow_by("raft")

    class Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("operator torchvision::nms does not exist")

    for module, why in ((Broken("torchvision.models.optical_flow"), "nms does not exist"), (None, "import of")):
        monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", module)  # type: ignore[arg-type]
        with pytest.raises(MissingError, match=f"torchvision, of a build for this torch .*{why}.*or leave it away"):
            flow_by("raft")
    file.unlink()
    assert missing("raft")
    with pytest.raises(MissingError, match=r"weights of torchvision's raft_large as .*OpenCV's flow needs none"):
        edit(video(2), "flatten", peers=PeerConfig(flow="raft"))


def test_published_raft_weights_are_recognised(tmp_path: Path) -> None:
    state = {f"{part}.weight": torch.ones(2) for part in RAFT_PARTS}
    torch.save(state, tmp_path / "raft_large_C_T_SKHT_V2-ff5fadd5.pth")
    made = convert(tmp_path / "raft_large_C_T_SKHT_V2-ff5fadd5.pth", tmp_path / "weights")
    assert made == tmp_path / "weights" / "raft_large.safetensors" and made.is_file()


def test_torchvisions_own_raft(tmp_path: Path) -> None:
    """Where it is installed: its network with random weights, from a file."""
    flows = pytest.importorskip(
        "torchvision.models.optical_flow",
        exc_type=(ImportError, RuntimeError),  # the last from a build for another torch
        reason="RAFT needs torchvision, which AdaFlow does not install",
    )
    model = flows.raft_large(weights=None)
    assert {name.partition(".")[0] for name in model.state_dict()} == RAFT_PARTS
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "cache" / "weights" / "raft_large.safetensors")
    found = flow_by("raft")(video(1)[0], video(1)[0])
    assert found.shape == (*SIZE, 2) and np.isfinite(found).all()
