"""Teach the miniature's tokenizer the world's words: ``python -m adaflow.miniature.make_tokenizer FOLDER``.

Rewrites tokenizer and text encoder of a pipeline folder so that every word that captions hold is one token; any other
word is spelled. Words that the encoder knew keep their vectors. A new word gets the vector of the word that it is a
synonym of, so that it means the same before any training, or the mean of all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

from .vocabulary import SYNONYMS, words

SUFFIX = "</w>"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def word_vocabulary(letters: list[str]) -> tuple[dict[str, int], list[list[str]]]:
    """Ids and merges in which each of the world's words becomes one token; ``letters`` are the tokens to spell with."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=10_000, end_of_word_suffix=SUFFIX, show_progress=False)
    tokenizer.train_from_iterator([" ".join(sorted(words()))], trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokens = dict.fromkeys([*letters, *("".join(pair) for pair in merges), *SPECIAL])
    return {token: index for index, token in enumerate(tokens)}, merges


def carried_over(vectors: Tensor, before: dict[str, int], after: dict[str, int]) -> Tensor:
    """Token vectors ``(len(before), width)`` for another vocabulary, ``(len(after), width)``."""
    origin = {other + SUFFIX: word + SUFFIX for word, others in SYNONYMS.items() for other in others}
    result = vectors.mean(0).repeat(len(after), 1)
    for token, index in after.items():
        known = token if token in before else origin.get(token)
        if known in before:
            result[index] = vectors[before[known]]
    return result


def main() -> None:
    """Rewrite tokenizer and text encoder of a folder."""
    folder = Path(sys.argv[1])
    path = folder / "tokenizer" / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    before: dict[str, int] = data["model"]["vocab"]
    after, merges = word_vocabulary([token for token in before if len(token.removesuffix(SUFFIX)) == 1])
    start, end = (after[token] for token in SPECIAL)
    data["model"] |= {"vocab": after, "merges": merges}
    data["padding"]["pad_id"] = end
    for token in data["added_tokens"]:
        token["id"] = after[token["content"]]
    data["post_processor"] |= {"sep": [SPECIAL[1], end], "cls": [SPECIAL[0], start]}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    encoder = folder / "text_encoder"
    config = json.loads((encoder / "config.json").read_text(encoding="utf-8"))
    config |= {"vocab_size": len(after), "bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    (encoder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = load_file(encoder / "model.safetensors")
    name = next(name for name in weights if name.endswith("token_embedding.weight"))
    weights[name] = carried_over(weights[name].float(), before, after).to(torch.float16).contiguous()
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
