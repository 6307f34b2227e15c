"""Prompts as people write them: checked against what the model can read, before anything is paid for."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from .errors import InputError
from .miniature import vocabulary as world

if TYPE_CHECKING:
    from .backbone import Backbone
    from .config import ResolvedConfig

CHANGE = "change"
"""What `mask.find` says for: where the prompt differs from the source prompt."""
_FILLER = frozenset(["a", "an", "the", "and", "of", "with", "in", "on", "at", "to", "as", "is", "are", ",", "."])


def check_prompt(prompt: str, backbone: Backbone) -> list[str]:
    """What the user should know about a prompt: words that are cut off, words the embedded model does not know.

    Raises:
        InputError: an empty prompt, or one of which the embedded model knows no word.
    """
    if not prompt.strip():
        raise InputError('the prompt is empty; say what the edited video should show, like "a blue car in the snow"')
    notes = []
    if cut := backbone.cut_words(prompt):
        notes.append(f"the prompt is longer than the model reads; this end of it is ignored: {cut!r}")
    if backbone.card.embedded:
        if not set(re.findall(r"[a-z]+", prompt.lower())) & (world.words() - _FILLER):
            some = ", ".join(sorted(world.words() - _FILLER)[:40])
            raise InputError(f"the miniature knows no word of this prompt; it knows: {some}")
        for word, near in unknown_words(prompt).items():
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            notes.append(f"the miniature does not know the word {word!r}{hint}")
    return notes


def unknown_words(prompt: str) -> dict[str, list[str]]:
    """The words of a prompt that the embedded model does not know, each with those it knows that are spelt alike."""
    vocabulary = world.words() | _FILLER
    words = dict.fromkeys(re.findall(r"[a-z]+", prompt.lower()))
    return {w: difflib.get_close_matches(w, vocabulary, n=2, cutoff=0.6) for w in words if w not in vocabulary}


def sought(config: ResolvedConfig, prompt: str) -> tuple[str, str]:
    """The words for what is to be found in the video, and those that it is told apart from."""
    return (prompt, config.source_prompt) if config.mask.find == CHANGE else (config.mask.find, "")


def branch_prompts(prompt: str, config: ResolvedConfig) -> tuple[str, str, str]:
    """The texts of the source, negative and prompt branches."""
    source = config.source_prompt or (prompt if config.prompt_fallback == "prompt" else "")
    negative = source if config.negative_prompt == "source" else config.negative_prompt
    return source, negative, prompt
