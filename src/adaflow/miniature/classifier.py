"""A small classifier that reads an image of the world: which colour, object, background and style it shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .vocabulary import VOCABULARY

CLASSIFIER_WEIGHTS = Path(__file__).parent / "classifier.safetensors"
LAYERS = ((32, 2), (64, 2), (64, 1), (128, 2), (128, 1), (128, 2), (128, 1))  # channels and stride


class AttributeClassifier(nn.Module):
    """Frames ``(n, 3, 128, 224)`` in [-1, 1] to logits per attribute, of the first object of a scene.

    On the pencil style, which has no colours, the answer for the colour means nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = 3
        for channels, stride in LAYERS:
            convolution = nn.Conv2d(width, channels, 3, stride, 1, bias=False)
            blocks += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            width = channels
        self.features = nn.Sequential(*blocks)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * width, len(words)) for name, words in VOCABULARY.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(n, number of words)`` by attribute."""
        x = self.features(x)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @classmethod
    def load(cls, path: Path = CLASSIFIER_WEIGHTS) -> AttributeClassifier:
        """The trained classifier, in fp32, ready to classify."""
        model = cls()
        model.load_state_dict({name: value.float() for name, value in load_file(path).items()}, strict=False)
        return model.eval()

    def save(self, path: Path) -> None:
        """In fp16, without the counters of the batch norms."""
        weights = {name: value.half().contiguous() for name, value in self.state_dict().items() if value.dim()}
        save_file(weights, path)

    def classify(self, frames: NDArray[np.uint8], batch: int = 64) -> dict[str, list[str]]:
        """What uint8 RGB frames ``(n, 128, 224, 3)`` show: a list of n words per attribute."""
        answers: dict[str, list[str]] = {name: [] for name in VOCABULARY}
        with torch.inference_mode():
            for x in _batches(frames, batch):
                for name, logits in self(x).items():
                    answers[name] += [VOCABULARY[name][i] for i in logits.argmax(1).tolist()]
        return answers


def _batches(frames: NDArray[np.uint8], batch: int) -> Iterator[Tensor]:
    for start in range(0, len(frames), batch):
        yield to_model_range(torch.from_numpy(np.ascontiguousarray(frames[start : start + batch])))


def to_model_range(frames: Tensor) -> Tensor:
    """uint8 ``(n, h, w, 3)`` to float32 ``(n, 3, h, w)`` in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float() / 127.5 - 1
