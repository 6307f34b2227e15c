"""DOVER, the video quality model behind VQ: two branches, their heads, and the fusion of the two scores.

H. Wu et al. 2023, "Exploring Video Quality Assessment on User Generated Contents from Aesthetic and Technical
Perspectives" (https://arxiv.org/abs/2211.04894). Written from its description; loads the published weights strictly, by
their own names, once `convert` has made a safetensors file of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ...errors import InputError
from .convnext3d import ConvNext3d
from .swin3d import Swin3d, position_index

KEYS = 381
"""Entries of the published state."""
HIDDEN = 64
TECHNICAL_SHARE, TECHNICAL_MEAN, TECHNICAL_SPREAD = 0.6104, 0.1107, 0.07355
AESTHETIC_SHARE, AESTHETIC_MEAN, AESTHETIC_SPREAD = 0.3896, -0.08285, 0.03774


@dataclass(frozen=True)
class Quality:
    """The raw scores of one video; their levels mean nothing by themselves."""

    technical: float
    aesthetic: float

    @property
    def fused(self) -> float:
        """VQ, in (0, 1)."""
        return fuse(self.technical, self.aesthetic)


class Head(nn.Module):
    """Features ``[B, 768, D, H, W]`` to a score in each place ``[B, 1, D, H, W]``."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_hid = nn.Conv3d(768, HIDDEN, 1)
        self.fc_last = nn.Conv3d(HIDDEN, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        scores: Tensor = self.fc_last(gelu(self.fc_hid(features)))
        return scores


class Dover(nn.Module):
    """Both branches with their heads."""

    def __init__(self) -> None:
        super().__init__()
        self.technical_backbone = Swin3d()
        self.aesthetic_backbone = ConvNext3d()
        self.technical_head = Head()
        self.aesthetic_head = Head()

    @torch.inference_mode()
    def forward(self, technical: Tensor, aesthetic: Tensor) -> Quality:
        """The raw scores of a video by its two views.

        Args:
            technical: ``[3, 3, 32, 224, 224]``: clips, channels, frames, rows, columns; normalised (`views`).
            aesthetic: ``[1, 3, 32, 224, 224]``, likewise.
        """
        # clip by clip: they never see each other, and memory stays that of one
        parts = [self.technical_head(self.technical_backbone(clip)[None]).mean() for clip in technical]
        whole = [self.aesthetic_head(self.aesthetic_backbone(clip[None])).mean() for clip in aesthetic]
        return Quality(float(torch.stack(parts).mean()), float(torch.stack(whole).mean()))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Dover:
        """The model with the published weights.

        Raises:
            InputError: the state is not that of DOVER, entry by entry.
        """
        check_state(state)
        with torch.device("meta"):  # no time is lost with weights that are replaced at once
            model = cls()
        model.load_state_dict(dict(state), strict=True, assign=True)
        return model.requires_grad_(False).eval()


def fuse(technical: float, aesthetic: float) -> float:
    """VQ of the two raw scores, in (0, 1): 0.5 at (0.1107, -0.08285). The order matters and is easily mistaken."""
    x = TECHNICAL_SHARE * (technical - TECHNICAL_MEAN) / TECHNICAL_SPREAD
    x += AESTHETIC_SHARE * (aesthetic - AESTHETIC_MEAN) / AESTHETIC_SPREAD
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of each of the state's `KEYS` entries."""
    with torch.device("meta"):
        model = Dover()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_state(state: Mapping[str, Tensor]) -> None:
    """Refuse what is not the state of DOVER.

    Raises:
        InputError: names, shapes or the stored position indices differ; says the first that does.
    """
    wanted = expected_shapes()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unknown:
        said = [
            f"{len(names)} {what} ({names[0]})" for what, names in (("missing", missing), ("unknown", unknown)) if names
        ]
        raise InputError(f"these are not the weights of DOVER: of {KEYS} entries {' and '.join(said)}")
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise InputError(
                f"these are not the weights of DOVER: {name} has the shape {list(state[name].shape)}, and "
                f"{list(shape)} is wanted"
            )
    index = position_index()
    for name in wanted:
        if name.endswith("relative_position_index") and not torch.equal(state[name].cpu().long(), index):
            raise InputError(f"these are not the weights of DOVER: {name} counts places in another order")
