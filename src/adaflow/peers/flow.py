"""Optical flow between frames: by OpenCV (DIS or Farneback), or by torchvision's RAFT where its weights are here."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..cache import cache_folder
from ..errors import InputError, MissingError

Picture = NDArray[np.uint8]
Flow = Callable[[Picture, Picture], NDArray[np.float32]]
"""For two frames ``[H, W, 3]`` uint8, the displacement ``[H, W, 2]`` (dx, dy) in pixels: a(p) looks like b(p + d)."""

Provider = Literal["dis", "farneback", "raft"]

RAFT_WEIGHTS = "raft_large.safetensors"
"""File in the cache folder's ``weights``: the tensors of torchvision's `raft_large`, converted once."""

RAFT_PARTS = frozenset(("feature_encoder", "context_encoder", "update_block", "mask_predictor"))
"""What the names of these tensors begin with."""

NO_OPENCV = "optical flow needs OpenCV; install it with: pip install 'adaflow[peers]'"

RAFT_ITERATIONS = 20


def flow_by(provider: Provider, device: torch.device | None = None) -> Flow:
    """The flow of that name.

    Raises:
        MissingError: a package or weights that it needs are not here.
    """
    if provider == "raft":
        return _raft(device or torch.device("cpu"))
    try:
        import cv2
    except ImportError as error:
        raise MissingError(NO_OPENCV) from error
    opencv: Any = cv2  # its stubs lack DIS
    dis = opencv.DISOpticalFlow_create(opencv.DISOPTICAL_FLOW_PRESET_MEDIUM) if provider == "dis" else None

    def flow(a: Picture, b: Picture) -> NDArray[np.float32]:
        one, other = (opencv.cvtColor(np.ascontiguousarray(x), opencv.COLOR_RGB2GRAY) for x in (a, b))
        if dis is not None:
            found = dis.calc(one, other, None)
        else:
            # pyramid scale, levels, window, iterations, neighbourhood and its sigma: OpenCV's own example
            found = opencv.calcOpticalFlowFarneback(one, other, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        return np.asarray(found, np.float32)

    return flow


def missing(provider: Provider) -> str | None:
    """What a flow needs and is not here, if anything is not."""
    if provider == "raft":
        weights = _raft_weights()
        return None if weights.is_file() and find_spec("torchvision") else f"RAFT needs torchvision and {weights}"
    return None if find_spec("cv2") else NO_OPENCV


def _raft_weights() -> Path:
    return Path(cache_folder()) / "weights" / RAFT_WEIGHTS


def _raft(device: torch.device) -> Flow:
    """torchvision's RAFT-large (Teed and Deng 2020, https://arxiv.org/abs/2003.12039).

    torchvision is asked for only here: it is no dependency, because it must be built for the very torch that is here.
    """
    weights = _raft_weights()
    if not weights.is_file():
        raise MissingError(
            f"peers.flow raft needs the weights of torchvision's raft_large as {weights} (adaflow eval convert makes "
            "them from the published file, docs/peers.md); or leave it away: OpenCV's flow needs none"
        )
    try:
        from torchvision.models.optical_flow import raft_large
    except (ImportError, RuntimeError) as error:  # a build for another torch fails with the latter
        reason = " ".join(str(error).split())[:100]
        raise MissingError(
            f"peers.flow raft needs torchvision, of a build for this torch ({torch.__version__}), and it cannot be "
            f"used here ({reason}); install it with: pip install torchvision; or leave it away"
        ) from error
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model = raft_large(weights=None).eval().requires_grad_(False)
    try:
        model.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError, OSError) as error:
        raise InputError(f"{weights} does not hold torchvision's raft_large; delete it and make it again") from error
    model.to(device)

    @torch.inference_mode()
    def flow(a: Picture, b: Picture) -> NDArray[np.float32]:
        h, w = a.shape[:2]
        size = max(128, -(-h // 8) * 8), max(128, -(-w // 8) * 8)  # RAFT's pyramid wants sides of at least 128
        pair = [torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None].to(device) for x in (a, b)]
        one, other = (F.interpolate(x / 127.5 - 1, size=size, mode="bilinear") for x in pair)
        found: Tensor = model(one, other, num_flow_updates=RAFT_ITERATIONS)[-1]
        return resized(found[0].permute(1, 2, 0).cpu(), (h, w), "bilinear").numpy()

    return flow


def resized(flow: Tensor, size: tuple[int, int], mode: Literal["nearest", "bilinear"]) -> Tensor:
    """A flow ``[H, W, 2]`` on another grid ``[h, w, 2]``, its displacements in that grid's cells."""
    height, width = flow.shape[:2]
    scale = torch.tensor([size[1] / width, size[0] / height])
    return F.interpolate(flow.permute(2, 0, 1)[None], size=size, mode=mode)[0].permute(1, 2, 0) * scale
