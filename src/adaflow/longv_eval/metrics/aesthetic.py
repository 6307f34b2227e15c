"""LAION's aesthetic predictor, second version: one affine map from CLIP's embedding to a mark of about 0 to 10."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from ...errors import InputError

WIDTHS = (768, 1024, 128, 64, 16, 1)
DROPOUTS = (0.2, 0.2, 0.1)  # after the first layers, in training


class AestheticHead(nn.Module):
    """Five linear layers without anything between them at test time; names as in the published weights."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (wide, wider) in enumerate(pairwise(WIDTHS)):
            layers.append(nn.Linear(wide, wider))
            if number < len(DROPOUTS):
                layers.append(nn.Dropout(DROPOUTS[number]))
        self.layers = nn.Sequential(*layers)

    @torch.inference_mode()
    def forward(self, embeddings: Tensor) -> Tensor:
        """The marks ``[b]`` of projected CLIP embeddings ``[b, 768]``, which are normalised here."""
        marks: Tensor = self.layers(nn.functional.normalize(embeddings.float(), dim=-1))[:, 0]
        return marks

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> AestheticHead:
        """The head with the published weights.

        Raises:
            InputError: the state is another one's.
        """
        with torch.device("meta"):
            head = cls()
        try:
            head.load_state_dict(dict(state), strict=True, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"these are not the weights of LAION's aesthetic predictor v2 ({reason})") from error
        return head.requires_grad_(False).eval()


def head_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of each entry of the published weights."""
    with torch.device("meta"):
        head = AestheticHead()
    return {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
