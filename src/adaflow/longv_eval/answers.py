"""Which answers of a model can be used as a caption or a prompt; of others, in words that the model is told, why not.

A prompt is one sentence of at most 15 words, as in the paper (appendix A), and nothing besides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

WORDS = 15
"""Of a prompt, at most."""
LONGEST_PROMPT, LONGEST_CAPTION = 200, 4000  # characters, for languages without spaces and models without an end
THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
"""What models that reason in the open say first; it is no part of the answer."""
QUOTES = re.compile(r"[\"“”„‟«»‹›「」]|(?:^|\s)['‘’‚]|['’](?=\W*$)")
MARKUP = re.compile(
    r"[*`#|{}\\]"  # emphasis, code, headings, tables
    r"|</?[A-Za-z][^>]*>"  # tags
    r"|\[[^\]]*\]|(?<!\w)_\w|\w_(?!\w)|~~"  # links and placeholders, emphasis
    r"|(?:^|\n)\s*(?:[-+•>]|\d+[.)])\s",  # lists and citations
)
LABEL = re.compile(r"(?:[\w-]+ ){0,3}(?:caption|prompt|answer|sentence|foreground|background|style)s?\s*:", re.I)
APOLOGY = re.compile(r"(?:i['’]?m|i am) (?:sorry|unable|not able)\b|i (?:can['’]?t|cannot)\b|sorry\b|as an ai\b", re.I)
SHORTENED = re.compile(r"(?:^|\W)(?:mr|mrs|ms|dr|st|mt|vs|no|jr|sr|prof|[a-z])\.$", re.I)
"""Ends of a part of a sentence that are no end of the sentence."""


def spoken(text: str) -> str:
    """The answer itself, without thoughts before it and space around it."""
    return THOUGHTS.sub("", text).strip()


def caption_fault(text: str, cut_off: bool = False) -> str | None:
    """Why an answer is no caption of a video, as a clause that begins with "it"; None where it is one."""
    if fault := _common_fault(text, cut_off):
        return fault
    return f"it is longer than {LONGEST_CAPTION} characters" if len(text) > LONGEST_CAPTION else None


def prompt_fault(text: str, others: Mapping[str, str], cut_off: bool = False) -> str | None:
    """Why an answer is no prompt, as a clause that begins with "it"; None where it is one.

    Args:
        text: The answer.
        others: What it must differ from, by what that is: the caption, other prompts.
        cut_off: Whether the server ended it.
    """
    if fault := _common_fault(text, cut_off):
        return fault
    if QUOTES.search(text):
        return "it has quotation marks"
    if len(text.splitlines()) > 1:
        return "it has more than one line"
    if LABEL.match(text):
        return "it begins with a label"
    if sentences(text) > 1:
        return "it has more than one sentence"
    if (count := len(words(text))) > WORDS:
        return f"it has {count} words, and at most {WORDS} are allowed"
    if len(text) > LONGEST_PROMPT:
        return f"it is longer than {LONGEST_PROMPT} characters"
    for what, other in others.items():
        if words(text) == words(other):
            return f"it is the same as the {what}"
    return None


def words(text: str) -> list[str]:
    """The words between spaces, in small letters and without the punctuation around them; a dash alone is none."""
    found = (re.sub(r"^\W+|\W+$", "", word.casefold()) for word in text.split())
    return [word for word in found if word]


def sentences(text: str) -> int:
    """How many sentences a text has, where a sentence ends in a full stop or the like that more follows."""
    count = 1
    for end in re.finditer(r"(?:[.!?…]+['’\")]*\s+|[。！？]\s*)(?=\w)", text):
        count += not SHORTENED.search(text[: end.start()] + end[0].rstrip())
    return count


def _common_fault(text: str, cut_off: bool) -> str | None:
    if not words(text):
        return "it is empty"
    if cut_off:
        return "it is cut off"
    if APOLOGY.match(text):
        return "it is an apology"
    return "it has markup" if MARKUP.search(text) else None
