"""The miniature's tokenizer and text encoder without the transformers library, for training where it is missing.

Both read the same files as ``CLIPTokenizer`` and ``CLIPTextModel`` and give the same numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

TOKENS = 24  # of a prompt, start and end included


class WordTokenizer:
    """Words and commas to ids. Only for the world's captions, in which every word is one token of the vocabulary."""

    def __init__(self, folder: Path) -> None:
        model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        vocabulary: dict[str, int] = model["vocab"]
        self.ids = {word.removesuffix("</w>"): i for word, i in vocabulary.items() if word.endswith("</w>")}
        self.start, self.end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]

    def __call__(self, texts: Iterable[str]) -> Tensor:
        """``(n, TOKENS)`` int64, padded with the end token.

        Raises:
            KeyError: If a word is not in the vocabulary.

        """
        rows = []
        for text in texts:
            words = [self.ids[word] for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", text.lower())][: TOKENS - 2]
            rows.append([self.start, *words, *[self.end] * (TOKENS - 1 - len(words))])
        return torch.tensor(rows, dtype=torch.int64)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))


class _MLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = _Attention(width, heads)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = _MLP(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, words: int, positions: int, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(words, width)
        self.position_embedding = nn.Embedding(positions, width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class _Encoder(nn.Module):
    def __init__(self, layers: list[_Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class TextEncoder(nn.Module):
    """CLIP's text transformer: ids ``(n, TOKENS)`` to states ``(n, TOKENS, width)`` after the last layer norm.

    Parameter names are those of transformers' ``CLIPTextModel``, so that either loads what the other saved.
    """

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.config = config
        width = config["hidden_size"]
        self.embeddings = _Embeddings(config["vocab_size"], config["max_position_embeddings"], width)
        size = width, config["num_attention_heads"], config["intermediate_size"]
        self.encoder = _Encoder([_Layer(*size) for _ in range(config["num_hidden_layers"])])
        self.final_layer_norm = nn.LayerNorm(width)

    @classmethod
    def from_folder(cls, folder: Path, fresh: bool = False) -> TextEncoder:
        """The encoder saved in a folder (``config.json``, ``model.safetensors``), in fp32; or one without weights."""
        model = cls(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        if fresh:
            return model
        weights = load_file(folder / "model.safetensors")
        names = {name.removeprefix("text_model."): value.float() for name, value in weights.items()}
        names.pop("embeddings.position_ids", None)
        model.load_state_dict(names)
        return model

    def forward(self, ids: Tensor) -> Tensor:
        """States of token ids."""
        x = self.embeddings(ids)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)
