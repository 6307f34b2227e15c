"""Captions and prompts by models behind an endpoint: the protocol and its faults, what is asked, and what is kept."""

from __future__ import annotations

import base64
import email.utils
import io
import json
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chat_stub import ANSWERS, LONG, Fault, Stub, answer, body, cut_off, drop, slow, status, trickle
from PIL import Image
from rich.console import Console
from video_files import make, picture

import adaflow.longv_eval.chat as chat_module
from adaflow.annotate_commands import _Bar
from adaflow.cli import main
from adaflow.errors import InputError, MissingError
from adaflow.longv_eval.annotate import Asking, Question, annotate, sampled
from adaflow.longv_eval.answers import caption_fault, prompt_fault, sentences, spoken, words
from adaflow.longv_eval.chat import Chat, Endpoint, RefusedError, key_of_environment
from adaflow.longv_eval.dataset import load_index
from adaflow.longv_eval.footage import real_suite
from adaflow.video import ArraySource

KINDS = ("foreground", "background", "style")
KEY = "sk-hidden/7f3a+90=="
CAPTION = " ".join(ANSWERS["caption"].split())
QUESTION = [{"role": "user", "content": "main object"}]
DOCS = Path(__file__).parents[1] / "docs" / "annotate.md"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No keys but the tests' own, and short waits."""
    for name in ("ADAFLOW_API_KEY", "OPENAI_API_KEY", "ADAFLOW_CAPTIONER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(chat_module, "FIRST_WAIT", 0.002)


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    make(folder / "one.mp4", n=12)
    make(folder / "two.mkv", n=5, size=(96, 64))
    return folder


@pytest.fixture
def folder(films: Path, tmp_path: Path) -> Path:
    """Two videos of 12 and 5 frames, without an index."""
    for film in films.iterdir():
        (tmp_path / film.name).write_bytes(film.read_bytes())
    return tmp_path


def run(stub: Stub, place: Path, *more: object, model: str = "talker") -> None:
    main(["annotate", str(place), "--endpoint", stub.url, "--model", model, *map(str, more)])


def fails(stub: Stub, place: Path, *more: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code, and the one sentence at the end."""
    with pytest.raises(SystemExit) as end:
        run(stub, place, *more)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("adaflow: ")
    return end.value.code, last.removeprefix("adaflow: ")


def records(file: Path) -> dict[str, dict]:
    return {r["id"]: r for r in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def chat(stub: Stub, **more: object) -> Chat:
    return Chat(Endpoint.parse(stub.url), "talker", **{"timeout": 5, "retries": 2, **more})  # type: ignore[arg-type]


# -- the whole way ----------------------------------------------------------------------------------------------------


def test_a_folder_of_videos_becomes_an_index_with_the_prompts(
    stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(stub, folder, "--captioner", "seer", "--frames", 4, "--frame-size", 48)
    out, err = capsys.readouterr()
    assert out == f"{folder / 'index.jsonl'}\n"
    assert "two style:" in err and "(8 of 8)" in err and re.search(r"\(3 of 8; about .* left\)", err)
    assert err.splitlines()[-1] == "2 videos with 6 edits; 8 of 8 questions answered"
    found = records(folder / "index.jsonl")
    assert list(found) == ["one", "two"]
    for record in found.values():
        assert record["caption"] == CAPTION and record["edits"] == {kind: ANSWERS[kind] for kind in KINDS}
        assert list(record["edits"]) == list(KINDS)
        for name, origin in record["provenance"].items():
            model = "seer" if name == "caption" else "talker"
            assert (origin["asked_model"], origin["model"]) == (model, f"{model}-2026")
            assert origin["endpoint"] == f"127.0.0.1:{stub.server_port}"
            assert (origin["attempts"], origin["faults"], origin["template"]) == (1, [], "longv-eval/1")
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", origin["date"])
    assert found["one"]["provenance"]["caption"]["frames"] == [0, 4, 7, 11]
    assert found["two"]["provenance"]["caption"]["frames"] == [0, 1, 3, 4]
    suite = real_suite(load_index(folder), (32, 48))  # what `eval run --suite` makes of it
    assert [(c.id, [e.prompt for e in c.edits]) for c in suite.cases] == [
        (name, [ANSWERS[kind] for kind in KINDS]) for name in ("one", "two")
    ]


def test_what_is_asked_is_what_the_paper_asked(stub: Stub, folder: Path) -> None:
    run(stub, folder, "--captioner", "seer", "--frames", 3, "--frame-size", 48, "--only", "one")
    assert [(a.what, a.document["model"]) for a in stub.asked] == [
        ("caption", "seer"),
        *((kind, "talker") for kind in KINDS),
    ]
    assert {a.path for a in stub.asked} == {"/v1/chat/completions"}
    first = stub.asked[0]
    assert first.messages[0]["content"][0]["text"].endswith("Please add a caption to the video in great detail.")
    for url, number in zip(first.pictures, (0, 6, 11), strict=True):
        head, _, data = url.partition(",")
        assert head == "data:image/jpeg;base64"
        shown = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (shown.format, shown.size) == ("JPEG", (48, 32))
        expected = Image.fromarray(picture(number)).resize((48, 32), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(shown, float) - np.asarray(expected, float)).mean() < 6
    texts = {a.what: a.messages[0]["content"] for a in stub.asked[1:]}
    assert texts["style"] == (
        f"I have a video caption: {CAPTION} Imagine that you have applied Van Gogh, Picasso, Da Vinci, Mondrian, "
        "watercolors, comics, or drawings style transfer to the video. After editing, add a concise one-sentence "
        "caption of the edited video (with emphasis on the style, no more than 15 words), not the original video "
        "content. The answer should contain only the caption, without any additional content."
    )
    assert "modified the main object of the video content (such as color change" in texts["foreground"]
    assert "modified the background of the video content" in texts["background"]
    assert all("emphasis on the edited part" in texts[kind] for kind in ("foreground", "background"))


def test_only_what_is_missing_is_asked(stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"id": "one", "video": "one.mp4", "fps": 25, "caption": "My own.", "edits": {"style": "Mine.", "x": "y"}}
    (folder / "mine.jsonl").write_text(json.dumps(given) + "\n")
    run(stub, folder / "mine.jsonl", "--json")
    document = json.loads(capsys.readouterr().out)
    assert (document["videos"], document["edits"], document["asked"], document["answered"]) == (1, 4, 2, 2)
    assert [a.what for a in stub.asked] == ["foreground", "background"]
    assert "I have a video caption: My own. Imagine" in stub.asked[0].messages[0]["content"]
    record = records(folder / "mine.jsonl")["one"]
    assert (record["caption"], record["fps"], record["video"]) == ("My own.", 25, "one.mp4")
    assert list(record["edits"].items())[2:] == [("style", "Mine."), ("x", "y")]
    assert set(record["provenance"]) == {"foreground", "background"}
    before = (folder / "mine.jsonl").read_bytes()
    run(stub, folder / "mine.jsonl")
    assert len(stub.asked) == 2 and (folder / "mine.jsonl").read_bytes() == before


def test_what_a_person_deletes_is_made_again_and_what_one_changes_is_theirs(stub: Stub, folder: Path) -> None:
    run(stub, folder, "--only", "one")
    record = records(folder / "index.jsonl")["one"]
    del record["edits"]["style"]
    record["edits"]["foreground"] = "A person wrote this."
    (folder / "index.jsonl").write_text(json.dumps(record))
    stub.asked.clear()
    run(stub, folder)
    assert [a.what for a in stub.asked] == ["style"]
    again = records(folder / "index.jsonl")["one"]
    assert again["edits"]["foreground"] == "A person wrote this."
    assert set(again["provenance"]) == {"caption", "background", "style"}


def test_another_place_for_the_result(stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "index.yaml").write_text("- {id: a, video: one.mp4}\n- {id: b, video: two.mkv}\n")
    before = (folder / "index.yaml").read_bytes()
    assert fails(stub, folder, capsys=capsys)[0] == 2 and not stub.asked
    assert "is written as .jsonl" in fails(stub, folder, "-o", folder / "x.yaml", capsys=capsys)[1]
    out = folder / "made.jsonl"
    run(stub, folder, "-o", out, "--only", "a")
    run(stub, folder, "-o", out)
    assert len(stub.asked) == 8 and (folder / "index.yaml").read_bytes() == before
    assert [r.video for r in load_index(out).records] == [folder / "one.mp4", folder / "two.mkv"]
    (folder / "index.yaml").write_text("- {id: a, video: one.mp4}\n")
    assert "has a video 'b' that" in fails(stub, folder, "-o", out, capsys=capsys)[1]
    assert len(records(out)) == 2


def test_two_endpoints_each_with_its_own_key(stub: Stub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    other = Stub()
    run(stub, folder, "--captioner", "seer", "--captioner-endpoint", other.url, "--only", "one")
    assert [a.what for a in other.asked] == ["caption"] and [a.what for a in stub.asked] == list(KINDS)
    assert "Authorization" not in other.asked[0].headers, "a key is not for another server"
    assert stub.asked[0].headers["Authorization"] == f"Bearer {KEY}"
    monkeypatch.setenv("ADAFLOW_CAPTIONER_API_KEY", "other")
    run(stub, folder, "--captioner", "seer", "--captioner-endpoint", other.url)
    assert other.asked[1].headers["Authorization"] == "Bearer other"
    other.shutdown()


def test_a_video_that_cannot_be_read_does_not_stop_the_others(
    stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "one.mp4").write_bytes(b"no video at all")
    code, words = fails(stub, folder, capsys=capsys)
    assert code == 2 and words.startswith("4 of 8 questions have no answer, the first being one caption: ")
    assert "is not a video that can be read" in words and words.endswith("the same command asks them again")
    found = records(folder / "index.jsonl")
    assert not found["one"]["edits"] and len(found["two"]["edits"]) == 3


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_bad_answer_is_asked_again_with_the_reason(
    stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.faults.extend([answer(""), None, answer(LONG), answer('"A boat."'), None])
    run(stub, folder, "--only", "one")
    assert [a.what for a in stub.asked] == ["caption"] * 2 + ["foreground"] * 3 + ["background", "style"]
    assert len(stub.asked[1].pictures) == 8, "the second time the frames are there too"
    talk = stub.asked[4].messages
    assert [m["role"] for m in talk] == ["user", "assistant", "user", "assistant", "user"]
    assert talk[1]["content"] == LONG and "it has 19 words, and at most 15 are allowed" in talk[2]["content"]
    assert "it has quotation marks" in talk[4]["content"]
    origins = records(folder / "index.jsonl")["one"]["provenance"]
    assert (origins["caption"]["attempts"], origins["caption"]["faults"]) == (2, ["it is empty"])
    assert origins["foreground"]["attempts"] == 3 and origins["style"]["attempts"] == 1
    assert "note" not in capsys.readouterr().err.split("one foreground: the answer cannot be used")[0]


def test_prompts_differ_from_each_other(stub: Stub, folder: Path) -> None:
    same = ANSWERS["foreground"].upper().rstrip(".")
    stub.faults.extend([None, None, answer(same), None])
    run(stub, folder, "--only", "one")
    assert "it is the same as the foreground prompt" in stub.asked[3].messages[2]["content"]


def test_a_question_is_given_up_after_some_answers_and_the_rest_goes_on(
    stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.answers["background"] = "First. Second."
    code, words = fails(stub, folder, "--asks", 3, capsys=capsys)
    assert code == 2 and words.startswith("2 of 8 questions have no answer, the first being one background: ")
    assert "it has more than one sentence (asked 3 times)" in words
    assert [a.what for a in stub.asked].count("background") == 6
    assert all(set(r["edits"]) == {"foreground", "style"} for r in records(folder / "index.jsonl").values())
    stub.answers, count = dict(ANSWERS), len(stub.asked)
    run(stub, folder)
    assert [a.what for a in stub.asked[count:]] == ["background"] * 2


def test_a_model_that_gives_no_usable_answers_is_asked_no_more(
    stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.answers.update({kind: "**Bold**" for kind in KINDS})
    code, words = fails(stub, folder, "--asks", 2, capsys=capsys)
    assert code == 2 and "3 times in a row; try another model" in words and len(stub.asked) == 1 + 3 * 2
    assert records(folder / "index.jsonl")["one"]["caption"] == CAPTION


GOOD = (
    "A red car drives through deep snow",
    "Da Vinci's drawing of St. Petersburg, by Leonardo D. Painter.",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen",
    "A twenty-year-old dog — still running — on a neon-lit street at 5.30 p.m. today",
    "Ein grüner Hund läuft über das Eis!",
)
BAD = {
    "": "it is empty",
    " \n ": "it is empty",
    "...": "it is empty",
    " ".join("word" for _ in range(16)): "it has 16 words, and at most 15 are allowed",
    "A dog. It runs.": "it has more than one sentence",
    "A dog runs! Nice.": "it has more than one sentence",
    "A dog\nA cat": "it has more than one line",
    "“A dog runs.”": "it has quotation marks",
    "'A dog runs.'": "it has quotation marks",
    "A «red» dog": "it has quotation marks",
    "A **red** dog": "it has markup",
    "_A red dog_": "it has markup",
    "`A dog`": "it has markup",
    "# A dog": "it has markup",
    "- A dog": "it has markup",
    "1. A dog": "it has markup",
    "<b>A dog</b>": "it has markup",
    "A [red] dog": "it has markup",
    "Caption: a dog": "it begins with a label",
    "Edited video caption: a dog": "it begins with a label",
    "I'm sorry, I cannot help with that.": "it is an apology",
    "狗" * 201: "it is longer than 200 characters",
    "the brown Fox!": "it is the same as the caption",
    "A cat": "it is the same as the style prompt",
}


@pytest.mark.parametrize("text", GOOD)
def test_a_prompt_that_can_be_used(text: str) -> None:
    assert prompt_fault(text, {"caption": "The brown fox."}) is None and caption_fault(text) is None


@pytest.mark.parametrize("text", BAD)
def test_a_prompt_that_cannot_be_used(text: str) -> None:
    assert prompt_fault(text, {"caption": "The brown fox.", "style prompt": "a cat."}) == BAD[text]


def test_parts_of_an_answer() -> None:
    assert spoken("<think>15 words. Hm.\n</think>\n A dog ") == "A dog"
    assert prompt_fault("A dog", {}, cut_off=True) == caption_fault("A dog", True) == "it is cut off"
    assert caption_fault("x" * 4001) and caption_fault('One.\nTwo says "three".') is None
    assert words("A — red,  DOG!") == ["a", "red", "dog"]
    counts = {"a": 1, "A.": 1, "A bee. C": 2, "红。蓝": 2, "e.g. a cat": 1, "for 3.50 now": 1, "Oh... yes?! No": 3}
    assert {text: sentences(text) for text in counts} == counts


@pytest.mark.parametrize(
    ("total", "count", "numbers"), [(9, 3, (0, 4, 8)), (1, 8, (0,)), (3, 8, (0, 1, 2)), (9, 1, (4,))]
)
def test_sampled_frames(total: int, count: int, numbers: tuple[int, ...]) -> None:
    assert sampled(total, count) == numbers


# -- the protocol and its faults --------------------------------------------------------------------------------------

PASSING: dict[str, tuple[Fault, str]] = {
    "rate": (status(429, "slow down"), "too many requests (status 429: slow down)"),
    "server": (status(500), "has a fault (status 500)"),
    "gateway": (body(b"<html>bad gateway</html>", 502), "has a fault (status 502)"),
    "overloaded": (status(529, "overloaded"), "has a fault (status 529: overloaded)"),
    "dropped": (drop, "drops the connection"),
    "cut": (cut_off, "drops the connection"),
    "late": (slow(0.6), "gives no answer within 0.3 s"),
    "trickle": (trickle(0.8), "gives no answer within 0.3 s"),
    "no json": (body(b'{"choices": [{"mess'), "no chat completion"),
    "list": (body([]), "no chat completion"),
    "no choice": (body({"choices": []}), "no chat completion"),
    "null": (body({"choices": None}), "no chat completion"),
    "number": (answer(7), "no chat completion"),
    "error in success": (body({"error": {"message": "upstream died", "code": 502}}), "sends an error (status 200: up"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_asked_again_and_then_ends_in_a_sentence(name: str, stub: Stub) -> None:
    fault, words = PASSING[name]
    told: list[str] = []
    asked = chat(stub, timeout=0.3 if name in ("late", "trickle") else 20, retries=1, on_wait=told.append)
    stub.faults.append(fault)
    assert asked.ask(QUESTION).text == ANSWERS["foreground"]
    assert len(told) == 1 and words in told[0] and "asked again in 0.0 s" in told[0]
    stub.faults.extend([fault, fault])
    with pytest.raises(MissingError, match=r"\(2 attempts\); check the endpoint and the network") as end:
        asked.ask(QUESTION)
    assert words in str(end.value) and "\n" not in str(end.value) and end.value.exit_code == 3


LASTING: dict[str, tuple[Fault, str, type[Exception]]] = {
    "no key": (status(401, "who are you"), "wants a key .*who are you.*ADAFLOW_API_KEY", InputError),
    "forbidden": (status(403), "wants a key", InputError),
    "no credit": (status(402, "pay"), "the account is spent", InputError),
    "quota": (status(429, "quota", "insufficient_quota"), "the account is spent", InputError),
    "no model": (status(404, "no such model"), "has no model 'talker', or no chat completions at /v1", InputError),
    "moved": (status(307, Location="http://127.0.0.1:1/v1"), "give the address that it moved to", InputError),
    "question": (status(400, "no pictures\nhere"), "refuses the question .status 400: no pictures here", RefusedError),
    "plain error": (body({"error": "unknown field"}, 422), "unknown field", RefusedError),
    "detail": (body({"detail": [{"loc": "model"}]}, 422), "loc", RefusedError),
    "come back tomorrow": (status(429, "day limit", Retry_After="86400"), "asks to wait 86400 s", MissingError),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_does_not_pass_ends_at_once(name: str, stub: Stub) -> None:
    fault, words, kind = LASTING[name]
    stub.faults.append(fault)
    with pytest.raises(kind, match=words):
        chat(stub).ask(QUESTION)
    assert len(stub.asked) == 1


def test_a_server_says_how_long_to_wait(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(chat_module.time, "sleep", waited.append)
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    stub.faults.extend(status(429, "slow", Retry_After=value) for value in ("7.5", date, "soon", "nan", "-3"))
    chat(stub, retries=5).ask(QUESTION)
    assert waited[0] == 7.5 and 28 < waited[1] <= 30 and max(waited[2:]) <= 0.002 * 2**4


def test_waits_double_up_to_a_limit_with_jitter(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(chat_module.time, "sleep", waited.append)
    monkeypatch.setattr(chat_module, "FIRST_WAIT", 1.0)
    stub.faults.extend([status(503)] * 9)
    chat(stub, retries=8)
    with pytest.raises(MissingError, match="9 attempts"):
        chat(stub, retries=8).ask(QUESTION)
    limits = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waited, limits, strict=True))
    assert len({round(wait / limit, 6) for wait, limit in zip(waited, limits, strict=True)}) == 8


def test_nobody_there() -> None:
    gone = Stub()
    gone.shutdown()
    gone.server_close()
    with pytest.raises(MissingError, match=r"127\.0\.0\.1:\d+ cannot be reached \(2 attempts\)"):
        chat(gone, retries=1).ask(QUESTION)


def test_answers_that_are_read_nonetheless(stub: Stub) -> None:
    document = {"choices": [{"message": {"content": "A dog\x1b[31m \ud800"}, "finish_reason": "length"}], "model": None}
    stub.faults.extend([body(document), answer([{"type": "text", "text": "A "}, {"type": "text", "text": "dog"}])])
    stub.faults.extend([answer(None, finish_reason="content_filter"), body(b"\n\n " + json.dumps(document).encode())])
    found = [chat(stub).ask(QUESTION) for _ in range(4)]
    assert [f.text for f in found] == ["A dog[31m ?", "A dog", "", "A dog[31m ?"]
    assert (found[0].model, found[0].cut_off) == ("talker", True) and not found[1].cut_off
    stub.faults.append(body(b" " * (chat_module.LARGEST // 64)))
    assert chat(stub).ask(QUESTION).text == ANSWERS["foreground"]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1/chat/completions"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"),
        ("http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/v1/chat/completions"),
        ("https://example.com", "https://example.com/chat/completions"),
    ],
)
def test_an_endpoint(given: str, url: str) -> None:
    assert Endpoint.parse(given).url == url


@pytest.mark.parametrize(
    "given",
    [
        *("", "api.example.com/v1", "ftp://a/v1", "https://", "https://a b/v1", "https://a:x/v1", "http://[::1/v1"),
        *(f"https://user:{KEY[:5]}@a/v1", f"https://{KEY[:5]}@a/v1", f"https://a/v1?key={KEY[:5]}", "https://a/v1#x"),
    ],
)
def test_no_endpoint(given: str) -> None:
    with pytest.raises(InputError, match="the endpoint") as caught:
        Endpoint.parse(given)
    assert KEY[:5] not in str(caught.value)


def test_which_endpoints_are_this_machine() -> None:
    near = ("http://localhost/v1", "http://127.0.0.1:1/v1", "http://[::1]:1/v1")
    far = ("http://192.168.0.1/v1", "https://a.example/v1", "http://localhost.example/v1")
    assert all(Endpoint.parse(text).local for text in near) and not any(Endpoint.parse(text).local for text in far)
    assert Chat(Endpoint.parse(far[0]), "m", "k").exposed
    assert not Chat(Endpoint.parse(far[1]), "m", "k").exposed and not Chat(Endpoint.parse(far[0]), "m").exposed


# -- the key ----------------------------------------------------------------------------------------------------------


def test_where_the_key_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_of_environment() == ""
    monkeypatch.setenv("OPENAI_API_KEY", " two \n")
    assert key_of_environment() == "two"
    monkeypatch.setenv("ADAFLOW_API_KEY", "one")
    assert key_of_environment() == "one"
    monkeypatch.setenv("ADAFLOW_API_KEY", "secret\nX-Header: y")
    with pytest.raises(InputError, match="ADAFLOW_API_KEY holds what is no key") as caught:
        key_of_environment()
    assert "secret" not in str(caught.value)


def test_the_key_is_in_no_file_and_no_output(
    stub: Stub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a server echoes, and whatever goes wrong."""
    monkeypatch.setenv("ADAFLOW_API_KEY", KEY)
    echo = f"wrong key {KEY}"
    stub.answers["caption"] = f"A sign that says {KEY} on a wall"
    shown = []
    for fault in (status(401, echo), status(400, echo), status(500, echo), body({"error": echo, "detail": echo}), drop):
        stub.faults.extend([fault] * 3)
        with pytest.raises(SystemExit):
            run(stub, folder, "--retries", 0, "--only", "one", "--json")
        shown.append(capsys.readouterr())
        stub.faults.clear()
    signed = {"choices": [{"message": {"content": stub.answers["caption"]}}], "model": KEY}
    stub.faults.append(body(signed))
    run(stub, folder)
    shown.append(capsys.readouterr())
    assert all(a.headers["Authorization"] == f"Bearer {KEY}" for a in stub.asked)
    assert any("wrong key (key)" in s.err for s in shown)
    assert not any(KEY in s.out + s.err for s in shown)
    assert not any(KEY.encode() in file.read_bytes() for file in folder.iterdir())
    found = records(folder / "index.jsonl")["one"]
    assert found["caption"] == "A sign that says (key) on a wall" and found["provenance"]["caption"]["model"] == "(key)"
    assert KEY not in repr(chat(stub, key=KEY))


def test_no_key_is_taken_from_netrc(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    asked = chat(stub)
    asked._session.trust_env = True
    asked.ask(QUESTION)
    assert "Authorization" not in stub.asked[0].headers


# -- stopped, and gone on with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [0, 1, 3, 4, 7])
def test_a_run_that_was_interrupted_asks_nothing_twice(
    stop_at: int, stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while an answer is awaited; that one is not had, all before it are."""

    def interrupt(handler: object) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        slow(0.1)(handler)  # type: ignore[arg-type]

    stub.faults.extend([None] * stop_at + [interrupt])
    code, words = fails(stub, folder, "--frames", 2, capsys=capsys)
    assert code == 130 and "the same command goes on" in words
    file = folder / "index.jsonl"
    assert (
        sum(len(r["provenance"]) for r in records(file).values() if "provenance" in r) == stop_at
        if stop_at
        else (not file.exists())
    )
    assert not list(folder.glob(".*.part"))
    run(stub, folder, "--frames", 2)
    expected = [what for _ in range(2) for what in ("caption", *KINDS)]
    assert [a.what for a in stub.asked] == [*expected[: stop_at + 1], *expected[stop_at:]]
    assert all(len(r["provenance"]) == 4 for r in records(file).values())


def test_a_server_that_dies_leaves_what_was_answered(
    stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.faults.extend([None, None, *[status(503)] * 3])
    code, words = fails(stub, folder, "--retries", 2, capsys=capsys)
    assert code == 3 and "has a fault (status 503) (3 attempts)" in words and "the same command goes on" in words
    assert set(records(folder / "index.jsonl")["one"]["provenance"]) == {"caption", "foreground"}
    run(stub, folder)
    assert [a.what for a in stub.asked].count("caption") == 2
    assert len(stub.asked) == 8 + 3


def test_a_killed_run_goes_on(stub: Stub, folder: Path) -> None:
    """By SIGKILL, which nothing can tidy up after."""
    program = "import sys; from adaflow.cli import main; main(sys.argv[1:])"
    arguments = ["annotate", str(folder), "--endpoint", stub.url, "--model", "talker"]
    stub.faults.extend([None] * 5 + [slow(20)])
    child = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(stub.asked) < 6 and time.monotonic() < end and child.poll() is None:
        time.sleep(0.02)
    child.kill()
    child.wait()
    found = records(folder / "index.jsonl")
    assert len(found["one"]["provenance"]) == 4 and set(found["two"]["provenance"]) == {"caption"}
    run(stub, folder)
    assert len(stub.asked) == 8 + 1


def test_an_index_that_is_changed_meanwhile_is_not_overwritten(
    stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = '{"id": "one", "video": "one.mp4", "caption": "Mine."}\n'

    def meddle(handler: object) -> None:
        (folder / "index.jsonl").write_text(mine)
        answer(ANSWERS["background"])(handler)  # type: ignore[arg-type]

    stub.faults.extend([None, None, meddle])
    code, words = fails(stub, folder, capsys=capsys)
    assert code == 2 and "was changed by somebody else meanwhile" in words
    assert (folder / "index.jsonl").read_text() == mine


def test_an_index_that_cannot_be_written_is_said(
    stub: Stub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(stub, folder, "--only", "one")
    before = (folder / "index.jsonl").read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adaflow.longv_eval.indexfile.os.fsync", full)
    code, words = fails(stub, folder, capsys=capsys)
    assert code == 4 and "the disk is full" in words
    assert (folder / "index.jsonl").read_bytes() == before and not list(folder.glob(".*"))


def test_the_rights_and_the_link_of_an_index_stay(stub: Stub, folder: Path) -> None:
    real = folder / "real.jsonl"
    real.write_text('{"id": "one", "video": "one.mp4"}\n')
    real.chmod(0o600)
    (folder / "index.jsonl").symlink_to("real.jsonl")
    run(stub, folder)
    assert (folder / "index.jsonl").is_symlink() and real.stat().st_mode & 0o777 == 0o600
    assert len(records(real)["one"]["edits"]) == 3


# -- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--only", "three"], "there is no video 'three'"),
        (["--frames", "0"], "--frames is 0; it must be from 1 to 256"),
        (["--asks", "0"], "--asks is 0"),
        (["--retries", "-1"], "--retries is -1"),
        (["--timeout", "nan"], "--timeout is nan"),
        (["--frame-size", "9"], "--frame-size is 9"),
        (["--captioner-endpoint", "x"], "the endpoint is 'x'"),
    ],
)
def test_wrong_wishes(
    more: list[str], words: str, stub: Stub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = fails(stub, folder, *more, capsys=capsys)
    assert code == 2 and words in said and not stub.asked and not (folder / "index.jsonl").exists()


def test_from_python(stub: Stub, folder: Path) -> None:
    (folder / "index.jsonl").write_text('{"id": "one", "video": "one.mp4"}\n')
    done = annotate(load_index(folder), chat(stub), chat(stub), Asking(frames=1))
    assert (done.answered, done.failed, done.index.edits) == (4, {}, 3)
    assert load_index(folder) == done.index
    assert done.index.records[0].provenance["caption"]["frames"] == [6]


def test_a_folder_of_pictures_is_a_video(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "shots").mkdir()
    for number in range(3):
        Image.fromarray(picture(number)).save(tmp_path / "shots" / f"{number}.png")
    (tmp_path / "index.jsonl").write_text('{"id": "a", "video": "shots", "fps": 12}\n')
    run(stub, tmp_path)
    assert len(stub.asked[0].pictures) == 3 and len(load_index(tmp_path).records[0].edits) == 3


def test_the_time_left_goes_by_the_pace_of_captions_and_of_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("adaflow.annotate_commands.time.monotonic", lambda: now[0])
    written = io.StringIO()
    bar = _Bar(Console(file=written, width=200))
    questions = [Question(video, what) for video in "ab" for what in ("caption", "style", "foreground")]
    with bar:
        bar.plan(questions)
        for question, seconds in zip(questions, (10, 2, 4, 20, 3, 3), strict=True):
            bar.begin(question)
            now[0] += seconds
            bar.end(question, "no" if question == questions[4] else None)
    lines = written.getvalue().splitlines()
    assert lines[0] == "a caption: 10 s (1 of 6; about 50 s left)"  # nothing known of prompts yet
    assert lines[1] == "a style: 2 s (2 of 6; about 16 s left)"  # 10 for the caption, 3 prompts of 2
    assert lines[2] == "a foreground: 4 s (3 of 6; about 16 s left)"  # 10, and 2 of 3
    assert lines[4] == "note: b style: no (5 of 6; about 3 s left)" and lines[5] == "b foreground: 3 s (6 of 6)"


def test_the_commands_in_the_docs_run_as_written(
    stub: Stub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, in a folder with videos, but for the addresses: there a stub answers."""
    monkeypatch.chdir(folder)
    (folder / "videos").mkdir()
    for name in ("one.mp4", "two.mkv"):
        (folder / name).rename(folder / "videos" / name)
    lines = re.findall(r"^\$ (adaflow .+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    ours = [line for line in lines if line.startswith("adaflow annotate")]
    assert len(ours) >= 3
    for line in ours:
        (folder / "videos" / "index.jsonl").unlink(missing_ok=True)
        main([re.sub(r"^https?://\S+$", stub.url, word) for word in shlex.split(line)[1:]])
        assert capsys.readouterr().out, line
    assert stub.asked


def test_random_bytes_from_a_server_never_end_in_a_traceback(stub: Stub) -> None:
    rng = random.Random(0)
    for _ in range(30):
        stub.faults.append(body(rng.randbytes(rng.randrange(60)), rng.choice([200, 200, 400, 404, 500])))
        with pytest.raises((InputError, MissingError)):
            chat(stub, retries=0).ask(QUESTION)


def test_frames_in_memory_are_shown_too() -> None:
    from adaflow.longv_eval.annotate import shown

    urls = shown(ArraySource(np.stack([picture(k) for k in range(3)])), (0, 2), 1000)
    sizes = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in urls]
    assert sizes == [(96, 64)] * 2, "small frames are not enlarged"
