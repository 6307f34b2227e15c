"""The prompts of LongV-EVAL, made as the paper made them (section 5.1, appendix A): what is asked, and what is kept.

A vision model describes the video by some of its frames; from that caption a language model makes one prompt for each
kind of edit. The index is written anew after every answer, as a whole or not at all, and only what it lacks is asked:
a run that was stopped goes on, and what a person deletes is made again.
"""

from __future__ import annotations

import base64
import datetime
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..errors import InputError
from ..video import VideoSource
from .answers import caption_fault, prompt_fault, spoken
from .chat import Chat, RefusedError, Reply
from .dataset import Index, Record, index_text
from .indexfile import CAPTION, IndexFile, digest
from .indexing import KINDS

TEMPLATE = "longv-eval/1"
"""The version of the questions below; another one wherever a word of them changes."""
ABOUT_FRAMES = "These {count} pictures are frames of one video, in order and evenly spaced. "
"""Not of the paper, whose captioner takes videos."""
DESCRIBE = "Please add a caption to the video in great detail."
PROMPT = (
    "I have a video caption: {caption}. Imagine that you have {change}. After editing, add a concise one-sentence "
    "caption of the edited video (with emphasis on {emphasis}, no more than 15 words), not the original video content. "
    "The answer should contain only the caption, without any additional content."
)
CHANGES = {
    "foreground": (
        "modified the main object of the video content (such as color change, similar object replacement, etc.)",
        "the edited part",
    ),
    "background": (
        "modified the background of the video content (such as background tone replacement, similar background "
        "replacement, etc.)",
        "the edited part",
    ),
    "style": (
        "applied Van Gogh, Picasso, Da Vinci, Mondrian, watercolors, comics, or drawings style transfer to the video",
        "the style",
    ),
}
AGAIN = "That answer cannot be used: {fault}. Answer again, with the caption alone."
HOPELESS = 3
"""Questions without a usable answer, one after the other, after which a model is asked no more."""


@dataclass(frozen=True)
class Question:
    """One answer to be had: the caption of a video, or the prompt of a kind of edit."""

    video: str
    what: str

    def __str__(self) -> str:
        return f"{self.video} {self.what}"


@dataclass(frozen=True)
class Asking:
    """How is asked.

    Attributes:
        frames: Shown of each video, evenly spaced from its first to its last; Video-LLaVA, the paper's, takes 8.
        side: Of their longer side, in pixels; smaller frames stay as they are.
        asks: How often one question is put, each time with what was wrong before.
        only: The ids of the videos to be asked about; empty: all.
    """

    frames: int = 8
    side: int = 512
    asks: int = 4
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotated:
    """What came of it.

    Attributes:
        index: As it was written.
        answered: How many questions.
        failed: Why not, of each other question.
    """

    index: Index
    answered: int
    failed: Mapping[Question, str]


class Watch:
    """Is told what is asked; this one keeps quiet."""

    def plan(self, questions: Sequence[Question]) -> None:
        """All that is to be asked, in order."""

    def begin(self, question: Question) -> None:
        """It is asked now."""

    def end(self, question: Question, fault: str | None = None) -> None:
        """It is answered, or given up for this reason."""

    def say(self, words: str) -> None:
        """Something to know."""


def missing(index: Index, only: Sequence[str] = ()) -> list[Question]:
    """What the index lacks of captions and of the paper's three prompts, video by video.

    Raises:
        InputError: an id of `only` is not in it.
    """
    known = [record.id for record in index.records]
    if strangers := [name for name in only if name not in known]:
        raise InputError(f"there is no video {strangers[0]!r} in {index.file}")
    found = []
    for record in index.records:
        if not only or record.id in only:
            found += [Question(record.id, CAPTION)] * (not record.caption)
            found += [Question(record.id, kind) for kind in KINDS if kind not in record.edits]
    return found


def annotate(
    index: Index, captioner: Chat, writer: Chat, asking: Asking | None = None, watch: Watch | None = None
) -> Annotated:
    """Ask for every caption and prompt that an index lacks, and write each into it at once.

    Args:
        index: Its file need not exist yet; where it does, it must hold these records.
        captioner: Sees frames.
        writer: Makes prompts of captions; may be the same.
        asking: How.
        watch: Told of every question.

    Raises:
        InputError: a model gives no usable answers, the server refuses key, model or questions, the index was changed
            by somebody else meanwhile, or `asking` names a video that is not there.
        MissingError: a server is not to be had. What was answered stays in the index.
        ResourceError, WorkspaceError: the index cannot be written.
    """
    asking, watch = asking or Asking(), watch or Watch()
    questions = missing(index, asking.only)
    file = IndexFile(index.file)
    interview = _Interview(captioner, writer, asking, watch)
    records = {record.id: record for record in index.records}
    failed: dict[Question, str] = {}
    unusable = 0
    watch.plan(questions)
    for question in questions:
        watch.begin(question)
        try:
            records[question.video] = interview.answered(question, records[question.video])
        except _NothingToShowError as error:
            failed[question] = str(error)
        except (_UnusableError, RefusedError) as error:
            failed[question] = str(error)
            unusable += 1
            if unusable == HOPELESS:
                raise InputError(
                    f"{question}: {error}; so it went {HOPELESS} times in a row; try another model"
                ) from error
        else:
            unusable = 0
            index = replace(index, records=tuple(records.values()))
            file.write(index_text(index))
        watch.end(question, failed.get(question))
    file.write(index_text(index))  # also where nothing was asked
    return Annotated(index, len(questions) - len(failed), failed)


def sampled(total: int, count: int) -> tuple[int, ...]:
    """The numbers of `count` frames of `total`, evenly spaced from the first to the last; of few frames, all."""
    if count == 1:
        return (total // 2,)
    return tuple(sorted({round(k * (total - 1) / (count - 1)) for k in range(count)}))


def shown(source: VideoSource, numbers: Sequence[int], side: int) -> list[str]:
    """Frames as data URLs of JPEG, the longer side at most `side` pixels.

    Raises:
        InputError: the video cannot be read.
    """
    scale = min(1.0, side / max(source.info.height, source.info.width))
    size = (max(1, round(scale * source.info.height)), max(1, round(scale * source.info.width)))
    urls = []
    for number in numbers:
        file = io.BytesIO()
        Image.fromarray(next(source.frames(size, number))).save(file, format="JPEG", quality=90)
        urls.append(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}")
    return urls


class _Interview:
    """Asks until an answer can be used."""

    def __init__(self, captioner: Chat, writer: Chat, asking: Asking, watch: Watch) -> None:
        self._captioner, self._writer = captioner, writer
        self._asking, self._watch = asking, watch

    def answered(self, question: Question, record: Record) -> Record:
        """The record with the answer in it."""
        if question.what == CAPTION:
            return self._captioned(question, record)
        if not record.caption:
            raise _NothingToShowError(f"{record.id} has no caption to make a prompt of")
        change, emphasis = CHANGES[question.what]
        caption = record.caption.rstrip(". ")  # the question goes on with a full stop
        text = PROMPT.format(caption=caption, change=change, emphasis=emphasis)
        others = {CAPTION: record.caption, **{f"{kind} prompt": prompt for kind, prompt in record.edits.items()}}
        prompt, origin = self._until_usable(
            question, self._writer, text, lambda reply: prompt_fault(spoken(reply.text), others, reply.cut_off)
        )
        edits = {**record.edits, question.what: prompt}
        order = sorted(edits, key=lambda kind: list(KINDS).index(kind) if kind in KINDS else len(KINDS))
        origin["of_caption"] = digest(record.caption)
        provenance = {**record.provenance, question.what: origin}
        return replace(record, edits={kind: edits[kind] for kind in order}, provenance=provenance)

    def _captioned(self, question: Question, record: Record) -> Record:
        try:
            source = record.source()
            numbers = sampled(source.info.frames, self._asking.frames)
            pictures = shown(source, numbers, self._asking.side)
        except InputError as error:
            raise _NothingToShowError(str(error)) from error
        parts: list[dict[str, Any]] = [{"type": "text", "text": ABOUT_FRAMES.format(count=len(numbers)) + DESCRIBE}]
        parts += [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
        caption, origin = self._until_usable(
            question, self._captioner, parts, lambda reply: caption_fault(spoken(reply.text), reply.cut_off)
        )
        origin |= {"frames": list(numbers), "longer_side": self._asking.side}
        return replace(record, caption=caption, provenance={**record.provenance, CAPTION: origin})

    def _until_usable(
        self, question: Question, chat: Chat, content: Any, fault_of: Callable[[Reply], str | None]
    ) -> tuple[str, dict[str, Any]]:
        """An answer without fault, on one line, and where it comes from."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        faults: list[str] = []
        while True:
            reply = chat.ask(messages)
            fault = fault_of(reply)
            if fault is None:
                break
            faults.append(fault)
            if len(faults) >= self._asking.asks:
                raise _UnusableError(f"the answer of {reply.model} cannot be used: {fault} (asked {len(faults)} times)")
            self._watch.say(f"{question}: the answer cannot be used: {fault}; asked again")
            messages += [
                {"role": "assistant", "content": spoken(reply.text) or "…"},  # some servers take no empty message
                {"role": "user", "content": AGAIN.format(fault=fault)},
            ]
        text = " ".join(spoken(reply.text).split())
        return text, {
            "endpoint": chat.endpoint.host,
            "model": reply.model,
            "asked_model": chat.model,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "template": TEMPLATE,
            "attempts": len(faults) + 1,
            "faults": faults,
            "sha256": digest(text),
        }


class _NothingToShowError(Exception):
    """A question cannot be put: its video cannot be read, or its caption is missing."""


class _UnusableError(Exception):
    """A model was asked often enough."""
