"""`adaflow study`: blind sets, the page's server as friends and others use it, and what is counted."""

from __future__ import annotations

import base64
import csv
import http.client
import json
import math
import random
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_files import Sound, make, picture

from adaflow import database
from adaflow.cli import main
from adaflow.decode import read_frames
from adaflow.encode import write_video
from adaflow.errors import InputError
from adaflow.study import answers as answers_module
from adaflow.study import server as server_module
from adaflow.study.answers import Answer, Answers, Closed
from adaflow.study.build import Choices, build
from adaflow.study.collect import Collection, collect
from adaflow.study.media import blind_copy
from adaflow.study.plan import ANSWERS, KEY, QUESTIONS, load_key, load_study
from adaflow.study.ranges import PIECE, Unsatisfiable, part_of
from adaflow.study.server import LONGEST_BODY, StudyServer
from adaflow.study.site import Site
from adaflow.study.statistics import krippendorff, shares, student, wilson
from adaflow.study.tally import markdown, tally, write_tally

METHODS = ("quickedit", "steadyedit", "oldedit")
NAMES = ("boat", "car")
NASTY = "<script>alert('x')</script> & \"quoted\""
PASSWORD = "a long enough password"
STUDY_TITLE = "Which <b>one</b>?"


def film(path: Path, shade: int = 0, frames: int = 3, maker: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = (np.clip(picture(i, 32, 48).astype(int) + shade, 0, 255).astype(np.uint8) for i in range(frames))
    write_video(path, pictures, fps=10, metadata={"adaflow": {"method": maker}} if maker else None)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each method, one of sources, and prompts; files say in their metadata who made them."""
    root = tmp_path_factory.mktemp("films")
    for name in NAMES:
        film(root / "sources" / f"{name}.mp4")
        for i, method in enumerate(METHODS, 1):
            film(root / method / f"{name}.mp4", 10 * i, maker=method)
    (root / "prompts.yaml").write_text(json.dumps({"boat": NASTY, "car": "a blue car"}))
    return root


@pytest.fixture
def study(place: Path, tmp_path: Path) -> Path:
    out = tmp_path / "study"
    main(["study", "build", *(str(place / m) for m in METHODS), "--source", str(place / "sources"), "--prompts",
          str(place / "prompts.yaml"), "-o", str(out), "--seed", "5", "--title", STUDY_TITLE])  # fmt: skip
    return out


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[StudyServer]:
    plan = load_study(folder)
    with StudyServer(Site(plan, Answers(folder / ANSWERS, plan.id), folder), **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(study: Path) -> Iterator[StudyServer]:
    with serving(study) as running:
        yield running


def ask(
    server: StudyServer, path: str, given: object = None, code: str = "", method: str = "", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """One request as the page makes it: status, body and headers."""
    host = f"127.0.0.1:{server.server_address[1]}"
    sent = {"Host": host, **({"X-Participant": code} if code else {})}
    body = None
    if given is not None:
        body = json.dumps(given).encode()
        sent |= {"Content-Type": "application/json", "Origin": f"http://{host}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)) as connection:
        connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
        response = connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())


def call(server: StudyServer, path: str, given: object = None, code: str = "", status: int = 200) -> dict[str, Any]:
    found, body, _ = ask(server, path, given, code)
    assert found == status, body
    document: dict[str, Any] = json.loads(body)
    return document


def start(server: StudyServer) -> str:
    return str(call(server, "/api/start", {})["code"])


def choose(server: StudyServer, code: str, item: str, question: str, choice: str, status: int = 200) -> None:
    call(server, "/api/answer", {"item": item, "question": question, "choice": choice}, code, status)


# -- the whole way ----------------------------------------------------------------------------------------------------


def test_two_participants_from_the_first_page_to_the_tally(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = load_key(study, load_study(study))

    def clip_of(item: dict[str, Any], method: str) -> str:
        return next(c for c in item["clips"] if key.clips[c] == method)

    with serving(study) as server:
        ann, bob = start(server), start(server)
        assert ann != bob and re.fullmatch(r"(\w{4}-){3}\w{4}", ann)
        state = call(server, "/api/state", code=ann)
        assert [q["name"] for q in state["questions"]] == ["quality", "consistency"] and not state["finished"]
        assert sorted(i["prompt"] for i in state["items"]) == sorted([NASTY, "a blue car"])
        first, second = state["items"]
        choose(server, ann, first["id"], "quality", clip_of(first, "oldedit"))
        choose(server, ann, first["id"], "quality", clip_of(first, "quickedit"))  # changed
        choose(server, ann, first["id"], "consistency", clip_of(first, "steadyedit"))
        call(server, "/api/finish", {}, ann, status=409)
        # bob sees nothing of it, and answers the same questions in another order
        theirs = call(server, "/api/state", code=bob)["items"]
        assert all(not item["answers"] for item in theirs)
        for item in theirs:
            choose(server, bob, item["id"], "quality", clip_of(item, "quickedit"))
            choose(server, bob, item["id"], "consistency", clip_of(item, "quickedit"))
        call(server, "/api/finish", {}, bob)
        choose(server, bob, theirs[0]["id"], "quality", clip_of(theirs[0], "oldedit"), status=409)
        call(server, "/api/finish", {}, bob, status=409)
        assert call(server, "/api/state", code=bob)["finished"]
    main(["study", "tally", str(study)])
    out, _ = capsys.readouterr()
    assert "1 participant finished, 1 did not and are left out" in out and "| quickedit | 100.0 | 100.0 |" in out
    with serving(study) as server:  # another day; the code as somebody writes it
        again = call(server, "/api/state", code=ann.upper().replace("-", " "))
        assert [i["id"] for i in again["items"]] == [first["id"], second["id"]], "the same order"
        assert [i["clips"] for i in again["items"]] == [first["clips"], second["clips"]]
        assert again["items"][0]["answers"] == {
            "quality": clip_of(first, "quickedit"),
            "consistency": clip_of(first, "steadyedit"),
        }
        choose(server, ann, second["id"], "quality", clip_of(second, "oldedit"))
        choose(server, ann, second["id"], "consistency", clip_of(second, "quickedit"))
        call(server, "/api/finish", {}, ann)
    main(["study", "tally", str(study), "--json", "-o", str(study / "out")])
    counted = json.loads(capsys.readouterr().out)
    quality = counted["questions"]["quality"]["methods"]
    assert {m: (q["chosen"], q["offered"], q["value"]) for m, q in quality.items()} == {
        "quickedit": (3, 4, 0.75),
        "steadyedit": (0, 4, 0.0),
        "oldedit": (1, 4, 0.25),
    }
    # two units, quick quick and quick old: alpha by hand is 1 - (2 / 1) / (2 * 3 * 1 / 3)
    assert counted["questions"]["quality"]["agreement"] == pytest.approx(0.0)
    assert counted["participants"] == {"finished": 2, "unfinished": 0, "counted": 2}
    rows = list(csv.DictReader((study / "out" / "answers.csv").open()))
    assert len(rows) == 8 and {row["set"] for row in rows} == set(NAMES)
    for row in rows:
        assert row["shown"].split()[ord(row["place"]) - ord("A")] == row["chosen"]
    table = list(csv.DictReader((study / "out" / "tally.csv").open()))
    assert [(r["question"], r["method"], r["percent"]) for r in table[:3]] == [
        ("quality", "quickedit", "75.00"),
        ("quality", "steadyedit", "0.00"),
        ("quality", "oldedit", "25.00"),
    ]


def test_an_answer_is_on_the_disk_when_the_page_hears_of_it(server: StudyServer, study: Path) -> None:
    code = start(server)
    item = call(server, "/api/state", code=code)["items"][0]
    choose(server, code, item["id"], "quality", item["clips"][0])
    with closing(sqlite3.connect(study / ANSWERS)) as base:
        assert base.execute("SELECT item, question, choice FROM answers").fetchall() == [
            (item["id"], "quality", item["clips"][0])
        ]
        assert base.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    files = b"".join(f.read_bytes() for f in study.glob(f"{ANSWERS}*"))
    assert (study / ANSWERS).stat().st_mode & 0o077 == 0, "its owner's alone"
    assert code.replace("-", "").encode() not in files and code.encode() not in files, "only a hash of it"


def test_many_answer_at_once(server: StudyServer, study: Path) -> None:
    problems: list[BaseException] = []

    def take_part() -> None:
        try:
            code = start(server)
            for item in call(server, "/api/state", code=code)["items"]:
                for question in QUESTIONS:
                    choose(server, code, item["id"], question.name, item["clips"][0])
            call(server, "/api/finish", {}, code)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=take_part) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert tally(study).finished == 8 and len(tally(study).votes) == 8 * len(NAMES) * len(QUESTIONS)


# -- blindness --------------------------------------------------------------------------------------------------------


def test_nothing_that_is_served_names_a_method(server: StudyServer, study: Path) -> None:
    plan = load_study(study)
    served = [ask(server, path)[1] for path in ("/", "/page.css", "/page.js")]
    served += [ask(server, "/api/state", code=start(server))[1] for _ in range(3)]
    media = [ask(server, f"/media/{name}") for name in plan.media]
    assert len(media) == len(NAMES) * (1 + len(METHODS)) and {status for status, _, _ in media} == {200}
    served += [body for _, body, _ in media]
    served += [json.dumps(headers).encode() for _, _, headers in media]
    for word in (*METHODS, *NAMES[:1], "x264", "adaflow", "key.json"):
        for body in served:
            assert word.encode() not in body.lower(), word
    assert "quickedit" in (study / KEY).read_text() and (study / KEY).stat().st_mode & 0o077 == 0
    assert not any(m in (study / "study.json").read_text() for m in METHODS)


def test_everybody_has_an_order_of_their_own_and_keeps_it(study: Path) -> None:
    plan = load_study(study)
    orders = {name: plan.order(name) for name in map(str, range(200))}
    assert orders == {name: load_study(study).order(name) for name in orders}
    assert {tuple(sorted(i.id for i in order)) for order in orders.values()} == {
        tuple(sorted(i.id for i in plan.items))
    }
    item = plan.items[0]
    places = [next(i for i in order if i.id == item.id).clips.index(item.clips[0]) for order in orders.values()]
    assert all(40 <= places.count(p) <= 95 for p in range(3)), "200 draws of 3 places"
    assert 70 <= sum(order[0].id == item.id for order in orders.values()) <= 130


def test_a_seed_gives_the_same_order_and_never_the_same_names(place: Path, tmp_path: Path) -> None:
    def shown(out: Path, seed: int | None) -> list[list[str]]:
        found = collect([place / m for m in METHODS], place / "sources")
        built = build(found, out, Choices(seed=seed), lambda done, of: None)
        names.update(built.study.media)
        key = load_key(out, built.study)
        return [[key.items[i.id], *(key.clips[c] for c in i.clips)] for i in built.study.items]

    names: set[str] = set()
    assert shown(tmp_path / "a", 1) == shown(tmp_path / "b", 1)
    assert len({json.dumps(shown(tmp_path / f"{n}", None)) for n in range(4)}) > 1
    assert len(names) == 6 * len(NAMES) * (1 + len(METHODS))


def test_a_copy_has_the_same_pictures_and_nothing_else(tmp_path: Path) -> None:
    for n, options in enumerate(({"sounds": [Sound()]}, {"unit": None, "rate": 25}, {"full": True})):
        original = make(tmp_path / f"in{n}.mp4", **options)
        blind_copy(original, tmp_path / f"out{n}.mp4")
        before, after = list(read_frames(original)), list(read_frames(tmp_path / f"out{n}.mp4"))
        np.testing.assert_array_equal(before, after)
        with av.open(str(tmp_path / f"out{n}.mp4")) as container:
            assert [s.type for s in container.streams] == ["video"]
            assert "comment" not in container.metadata and "encoder" not in container.metadata
        assert b"x264" in original.read_bytes() and b"x264" not in (tmp_path / f"out{n}.mp4").read_bytes()


@pytest.mark.parametrize("options", [{"codec": "mpeg4"}, {"pix_fmt": "yuv444p"}, {"turn": 90}])
def test_what_browsers_do_not_play_is_encoded_anew(tmp_path: Path, options: dict[str, Any]) -> None:
    original = make(tmp_path / "in.mp4", **options)
    blind_copy(original, tmp_path / "out.mp4")
    before, after = np.stack(list(read_frames(original))), np.stack(list(read_frames(tmp_path / "out.mp4")))
    assert before.shape == after.shape and np.abs(before.astype(int) - after).mean() < 4
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")


# -- what is given ----------------------------------------------------------------------------------------------------


def evaluation(root: Path, methods: tuple[str, ...] = ("source", "adaflow", "pnp"), edits: int = 2) -> Path:
    """A folder as `adaflow eval run` leaves it."""
    film(root / "clips" / "pan.1.source.mp4")
    for method in methods:
        for number in range(edits):
            film(root / "clips" / f"pan.1.e{number}.{method}.mp4", 5 * number)
            row = {"method": method, "suite": "ci", "case": "pan.1", "motion": "pan", "edit": f"e{number}",
                   "kind": "style", "frames": 3, "measures": {}, "prompt": f"prompt {number}",
                   "source_prompt": "a boat"}  # fmt: skip
            file = root / "results" / method / f"pan.1.e{number}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(row))
    return root


def test_an_evaluation_is_a_study_of_what_was_edited(tmp_path: Path) -> None:
    found = collect([evaluation(tmp_path)])
    assert found.methods == ("adaflow", "pnp"), "the source itself is no edit"
    assert [(e.name, e.prompt, e.source_prompt, e.source.name) for e in found.entries] == [
        ("pan.1.e0", "prompt 0", "a boat", "pan.1.source.mp4"),
        ("pan.1.e1", "prompt 1", "a boat", "pan.1.source.mp4"),
    ]
    assert found.entries[1].videos["pnp"].name == "pan.1.e1.pnp.mp4"
    assert collect([tmp_path], methods=["source", "pnp"]).methods == ("source", "pnp"), "unless it is asked for"
    (tmp_path / "clips" / "pan.1.e1.pnp.mp4").unlink()
    with pytest.raises(InputError, match=r"pnp has no video of pan\.1\.e1, which adaflow has"):
        collect([tmp_path])


def test_a_manifest_lists_sets_by_paths_from_its_folder(place: Path, tmp_path: Path) -> None:
    file = place / "sets.yaml"
    file.write_text(
        "sets:\n- {name: ../../evil, source: sources/boat.mp4, prompt: a red boat, source_prompt: a boat,\n"
        f"   videos: {{'<b>': {METHODS[0]}/boat.mp4, 'x/../y': {METHODS[1]}/boat.mp4}}}}\n"
    )
    built = build(collect([file]), tmp_path / "study", Choices(), lambda done, of: None)
    assert [(i.prompt, i.source_prompt, len(i.clips)) for i in built.study.items] == [("a red boat", "a boat", 2)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study"]
    assert load_key(tmp_path / "study", built.study).methods == ["<b>", "x/../y"]


def test_pairs_show_two_at_a_time(place: Path, tmp_path: Path) -> None:
    found = collect([place / m for m in METHODS], place / "sources")
    for against, count in ((None, 3), ("oldedit", 2)):
        choices = Choices("pairs", against)
        built = build(found, tmp_path / str(against), choices, lambda done, of: None)
        key = load_key(tmp_path / str(against), built.study)
        pairs = {(key.items[i.id], frozenset(key.clips[c] for c in i.clips)) for i in built.study.items}
        assert len(built.study.items) == len(pairs) == count * len(NAMES)
        assert all(len(pair) == 2 and against in {None, *pair} for _, pair in pairs)
        assert len(built.study.media) == len(NAMES) * (1 + len(METHODS)), "each video once"


def test_some_sets_may_be_drawn(place: Path, tmp_path: Path) -> None:
    found = collect([place / m for m in METHODS], place / "sources")
    drawn = {
        build(found, tmp_path / f"{seed}", Choices(sets=1, seed=seed), lambda done, of: None).study.items[0].frame
        for seed in range(2)
    }
    assert drawn == {0.1}


def refusals() -> list[tuple[list[str], str]]:
    folders = list(METHODS)
    return [
        ([], "there is nothing to build from"),
        (["nowhere"], "there is no nowhere"),
        (["quickedit"], "quickedit is neither a folder of adaflow eval run nor a manifest"),
        (folders, "need the folder of their sources"),
        ([*folders, "--source", "nowhere"], "there is no folder nowhere"),
        (["quickedit", "more/quickedit", "--source", "sources"], "two folders are named quickedit"),
        (["more/quickedit", "oldedit", "--source", "sources"], "quickedit has no video of car, which oldedit has"),
        ([*folders, "--source", "oldedit", "--prompts", "one.yaml"], "one.yaml has no prompt for car"),
        ([*folders, "--source", "more/quickedit"], "the source of car is missing"),
        (
            [*folders, "--source", "sources", "--methods", "quickedit"],
            "at least two methods, and here is only quickedit",
        ),
        ([*folders, "--source", "sources", "--methods", "quickedit,x"], "there are no videos of 'x'"),
        ([*folders, "--source", "sources", "--title", "Is QuickEdit best?"], "the title names the method quickedit"),
        ([*folders, "--source", "sources", "--sets", "3"], "--sets is 3; there are 2"),
        ([*folders, "--source", "sources", "--design", "rows"], "--design is 'rows'; choose sets or pairs"),
        ([*folders, "--source", "sources", "--against", "oldedit"], "--against goes with --design pairs"),
        ([*folders, "--source", "sources", "--design", "pairs", "--against", "x"], "--against is 'x'; choose one of"),
        ([*folders, "--source", "sources", "--out", "sources"], "sources is there already"),
        (["empty.yaml"], "lists no sets"),
        (["odd.yaml"], "set 1 of odd.yaml is not understood"),
        (["broken.yaml"], "broken.yaml cannot be read"),
        (["quickedit", "broken", "--source", "sources", "--methods", "quickedit,broken"], "is not a video"),
    ]


@pytest.mark.parametrize(("words", "sentence"), refusals())
def test_what_does_not_fit_is_refused_in_one_sentence(
    words: list[str], sentence: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for folder in ("sources", *METHODS):
        (tmp_path / folder).symlink_to(place / folder)
    (tmp_path / "more" / "quickedit").mkdir(parents=True)
    (tmp_path / "more" / "quickedit" / "boat.mp4").symlink_to(place / "quickedit" / "boat.mp4")
    (tmp_path / "broken").mkdir()
    for name in NAMES:
        (tmp_path / "broken" / f"{name}.mp4").write_bytes(b"<html>")
    texts = {"one": "boat: x", "empty": "{}", "odd": "sets: [{source: 3}]", "broken": "a: ["}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as end:
        main(["study", "build", *words])
    out, err = capsys.readouterr()
    assert (end.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert sentence in err
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


def test_what_tells_methods_apart_is_noted(place: Path, tmp_path: Path) -> None:
    other = film(tmp_path / "longer" / "boat.mp4", frames=5)
    found = collect([place / "quickedit", place / "oldedit"], place / "sources")
    entry = found.entries[0]
    mixed = Collection(found.methods, (type(entry)("boat", entry.source, {**entry.videos, "oldedit": other}),))
    notes = build(mixed, tmp_path / "study", Choices(), lambda done, of: None).notes
    assert notes[0] == "the videos of boat differ in length: source 3 frames, quickedit 3, oldedit 5"
    assert "no prompt" in notes[1]


@pytest.mark.parametrize("damage", ["item", "media", "text", "other key", "other answers", "no answers"])
def test_a_damaged_study_is_refused(damage: str, study: Path, tmp_path: Path) -> None:
    document = json.loads((study / "study.json").read_text())
    if damage == "item":
        document["items"][0]["clips"][0] = "../../etc/passwd"
        (study / "study.json").write_text(json.dumps(document))
    elif damage == "media":
        next((study / "media").iterdir()).unlink()
    elif damage == "text":
        (study / "study.json").write_text("[" * 100_000)
    elif damage == "other key":
        (study / KEY).write_text(json.dumps({**json.loads((study / KEY).read_text()), "study": "0" * 16}))
    elif damage == "other answers":
        Answers(study / ANSWERS, "0" * 16)
    with pytest.raises(InputError):
        tally(study)


# -- hostile requests -------------------------------------------------------------------------------------------------


def raw(server: StudyServer, data: bytes) -> bytes:
    """What comes back for bytes that no library would send."""
    with closing(socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=10)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while block := connection.recv(65536):
            got += block
    return got


@pytest.mark.parametrize(
    "path",
    [
        "/../study.json", "/media/../key.json", "/media/%2e%2e%2fkey.json", "/media/..%2fanswers.db", "//etc/passwd",
        "/media/", "/media/0000000000000000", "/media/key.json", "/key.json", "/study.json", "/answers.db",
        "/media/{}.mp4", "/media/{}/..", "/media/{}%00", "/media/{}\\..\\key.json", "/api/answers", "/page.html",
        "/api/tally", "/[", "//[", "http://127.0.0.1/key.json", "/" + "a" * 5000,
    ],
)  # fmt: skip
def test_only_opaque_names_lead_to_files(path: str, server: StudyServer, study: Path) -> None:
    name = next(iter(load_study(study).media))
    path = path.replace("{}", name)
    line = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    got = raw(server, line.encode())
    assert got.split(b" ")[1] == b"404" and b"nothing here" in got
    assert path.encode() not in got and b"quickedit" not in got


def test_requests_that_are_none_are_refused_and_not_repeated(server: StudyServer) -> None:
    host = b"Host: 127.0.0.1\r\n"
    for data, status in (
        (b"<script>alert(1)</script>\r\n\r\n", b"400"),
        (b"DELETE / HTTP/1.1\r\n" + host + b"\r\n", b"501"),
        (b"GET / HTTP/9.9\r\n" + host + b"\r\n", b"505"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + host + host + b"\r\n", b"400"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + host + b"\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + host + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + host + b"X: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + host + b"Content-Length: 40\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", b"400"),
        (b"POST /api/start HTTP/1.1\r\n" + host + b"Content-Length: 2\r\n\r\n{}", b"403"),
    ):
        got = raw(server, data)
        assert got.split(b" ")[1] == status, (data[:60], got[:200])
        assert b"<script>" not in got and got.count(b"HTTP/1.1 ") == 1
    assert ask(server, "/")[0] == 200, "it is still there"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {"Content-Length": "1000000000"}, 413),
        (b"{}", {"Content-Length": str(LONGEST_BODY + 1)}, 413),
        (b"{}", {"Content-Length": "-2"}, 411),
        (b"{}", {"Content-Length": "+2"}, 411),
        (b"{}", {"Content-Length": "9" * 5000}, 411),
        (b"2\r\n{}\r\n0\r\n\r\n", {"Transfer-Encoding": "chunked"}, 411),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"[]", {}, 400),
        (b"{", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"[" * 4000, {}, 400),
        (b"{}", {"Origin": "http://elsewhere.example"}, 403),
        (b"{}", {"Origin": "null"}, 403),
        (b"{}", {"Origin": "http://[::"}, 403),
        (b"{}", {"Origin": "http://127.0.0.1:1"}, 403),
        (b"{}", {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_posts_are_short_json_from_the_page_itself(
    body: bytes, headers: dict[str, str], status: int, server: StudyServer, study: Path
) -> None:
    host = f"127.0.0.1:{server.server_address[1]}"
    sent = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json", **headers}
    if "Transfer-Encoding" not in headers:
        sent = {"Content-Length": str(len(body)), **sent}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    got = raw(server, f"POST /api/start HTTP/1.1\r\n{lines}\r\n".encode() + body)
    assert got.split(b" ")[1] == str(status).encode(), got
    assert not Answers(study / ANSWERS, load_study(study).id).participants(), "nothing was stored"


def test_answers_to_no_question_are_refused(server: StudyServer, study: Path) -> None:
    code = start(server)
    first, second = call(server, "/api/state", code=code)["items"]
    good = {"item": first["id"], "question": "quality", "choice": first["clips"][0]}
    for wrong in (
        {"item": "'; DROP TABLE answers; --"}, {"item": None}, {"question": "beauty"}, {"choice": first["source"]},
        {"choice": second["clips"][0]}, {"choice": ["a"]}, {"item": {"a": 1}},
    ):  # fmt: skip
        call(server, "/api/answer", {**good, **wrong}, code, status=400)
    call(server, "/api/answer", {"participant": "x"}, code, status=400)
    for stranger in ("", "aaaa-aaaa-aaaa-aaaa", "x" * 5000, "' OR 1=1 --"):
        call(server, "/api/answer", good, stranger, status=403)
        call(server, "/api/state", code=stranger, status=403)
    assert Answers(study / ANSWERS, load_study(study).id).all() == []


def test_there_are_not_too_many_participants(server: StudyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "MOST_PARTICIPANTS", 2)
    start(server), start(server)
    assert "as many participants" in call(server, "/api/start", {}, status=503)["error"]


def test_a_database_that_cannot_be_written_is_said(server: StudyServer, study: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.05)
    with closing(sqlite3.connect(study / ANSWERS, isolation_level=None)) as base:
        base.execute("BEGIN IMMEDIATE")
        assert "try again" in call(server, "/api/start", {}, status=503)["error"]
        base.execute("ROLLBACK")
    start(server)


def test_silent_connections_end_and_leave_room(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module.Handler, "timeout", 0.3)
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 2)
    with serving(study) as server:
        silent = [socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=5) for _ in range(2)]
        silent[0].sendall(b"POST /api/start HTTP/1.1\r\n")
        time.sleep(0.1)
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(server, "/")
        assert [s.recv(1) for s in silent] == [b"", b""], "closed by the server"
        time.sleep(0.1)
        assert ask(server, "/")[0] == 200
        for s in silent:
            s.close()


def test_the_page_asks_nobody_else_and_runs_nothing_but_its_own(server: StudyServer) -> None:
    for path in ("/", "/page.js", "/api/state", "/media/x", "/nothing"):
        _, _, headers = ask(server, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "same-origin"
        assert "Set-Cookie" not in headers and "Access-Control-Allow-Origin" not in headers
    page, script, style = (ask(server, path)[1].decode() for path in ("/", "/page.js", "/page.css"))
    assert not re.search(r"https?:|//[a-z]|<style|style=|\son\w+=|<script>", page)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|https?:", script)
    assert not re.search(r"url\(|@import|https?:", style)


def test_every_control_has_a_label(server: StudyServer) -> None:
    page = ask(server, "/")[1].decode()
    named = set(re.findall(r'<label[^>]* for="(\w+)"', page))
    for tag, attributes, inner in re.findall(r"<(input|button|progress)\b([^>]*)>([^<]*)", page):
        name = re.search(r'id="(\w+)"', attributes)
        wrapped = re.search(rf"<label[^>]*><{tag}{re.escape(attributes)}>", page)
        assert "aria-label=" in attributes or inner.strip() or wrapped or (name and name[1] in named), attributes


# -- passwords and hosts ----------------------------------------------------------------------------------------------


def test_other_machines_need_a_password(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = load_study(study)
    site = Site(plan, Answers(study / ANSWERS, plan.id), study)
    for host in ("0.0.0.0", "::", ""):
        with pytest.raises(InputError, match=r"needs a password|no address"):
            StudyServer(site, host)
    with pytest.raises(InputError, match="at least 10"):
        StudyServer(site, "127.0.0.1", password="short")
    with pytest.raises(InputError, match="no address of this machine"):
        StudyServer(site, "no such host")
    with StudyServer(site) as first, pytest.raises(InputError, match=r"cannot be used .*--port"):
        StudyServer(site, port=first.server_address[1])
    monkeypatch.setattr(server_module, "GUESS", 0.0)
    with serving(study, host="0.0.0.0", password=PASSWORD) as server:
        for path in ("/", f"/media/{next(iter(plan.media))}", "/api/state", "/nothing"):
            status, _, headers = ask(server, path)
            assert status == 401 and headers["WWW-Authenticate"].startswith("Basic ")
        for wrong in ("Basic !!", "Bearer x", basic("wrong"), basic(""), basic(PASSWORD + "x"), "Basic é"):
            assert ask(server, "/", Authorization=wrong)[0] == 401
        assert ask(server, "/api/start", {}, Authorization=basic("wrong"))[0] == 401
        assert ask(server, "/", Authorization=basic(PASSWORD), Host="study.example")[0] == 200
        assert ask(server, "/api/start", {}, Authorization=basic(PASSWORD))[0] == 200


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"any:{password}".encode()).decode()


def test_without_a_password_only_names_of_this_machine_are_answered(server: StudyServer) -> None:
    for host in ("localhost:1", "127.0.0.1", "[::1]:80", "127.8.8.8"):
        assert ask(server, "/", Host=host)[0] == 200, host
    for host in (
        "rebound.example",
        "127.0.0.1.example",
        "10.0.0.1",
        "[::1",
        "",
        "localhost.example:80",
        "@localhost@x",
    ):
        assert ask(server, "/", Host=host)[0] == 403, host


def test_serve_reads_the_password_and_says_where_it_is(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[StudyServer] = []

    def interrupted(self: StudyServer, *_: float) -> None:
        seen.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(StudyServer, "serve_forever", interrupted)
    main(["study", "serve", str(study), "--port", "0"])
    out, err = capsys.readouterr()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", out) and "stopped" in err and seen[0].password is None
    (tmp_path / "word").write_text(PASSWORD + "\n")
    main(["study", "serve", str(study), "--port", "0", "--host", "0.0.0.0", "--password-file", str(tmp_path / "word")])
    monkeypatch.setenv("ADAFLOW_STUDY_PASSWORD", PASSWORD)
    main(["study", "serve", str(study), "--port", "0"])
    assert [s.password for s in seen[1:]] == [PASSWORD, PASSWORD]
    monkeypatch.setenv("ADAFLOW_STUDY_PASSWORD", "")
    with pytest.raises(SystemExit):
        main(["study", "serve", str(study), "--host", "0.0.0.0", "--port", "0"])


# -- parts of videos --------------------------------------------------------------------------------------------------


def test_videos_come_in_parts(server: StudyServer, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, size = next(iter(load_study(study).media.items()))
    whole = (study / "media" / f"{name}.mp4").read_bytes()
    assert len(whole) == size
    path = f"/media/{name}"
    status, body, headers = ask(server, path)
    assert (status, body, headers["Accept-Ranges"], headers["Content-Type"]) == (200, whole, "bytes", "video/mp4")
    for asked, part in (
        ("bytes=0-", whole), ("bytes=0-0", whole[:1]), ("bytes=10-19", whole[10:20]), ("bytes=-7", whole[-7:]),
        (f"bytes={size - 3}-{size + 500}", whole[-3:]), (f"bytes=-{size * 9}", whole),
    ):  # fmt: skip
        status, body, headers = ask(server, path, Range=asked)
        assert (status, body) == (206, part), asked
        first, last, of = map(int, re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers["Content-Range"]).groups())  # type: ignore[union-attr]
        assert whole[first : last + 1] == part and of == size and headers["Content-Length"] == str(len(part))
    for asked in (f"bytes={size}-", "bytes=-0", "bytes=999999999999999-"):
        status, body, headers = ask(server, path, Range=asked)
        assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{size}")
    for asked in ("bytes=5-1", "bytes=0-1,3-4", "pages=1-2", "bytes=a-b", "bytes=-", "bytes=" + "9" * 400 + "-", "x"):
        assert ask(server, path, Range=asked)[:2] == (200, whole), asked
    assert ask(server, path, Range="bytes=0-3", If_Range='"another"')[:2] == (200, whole)
    status, body, headers = ask(server, path, method="HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(size))
    monkeypatch.setattr("adaflow.study.ranges.PIECE", 100)
    assert ask(server, path, Range="bytes=50-")[1] == whole[50:150], "no more than a piece at once"


@given(st.integers(1, 3 * PIECE), st.integers(0, 4 * PIECE), st.integers(0, 4 * PIECE))
def test_a_part_is_what_a_slice_gives(size: int, first: int, last: int) -> None:
    numbers = range(size)
    try:
        part = part_of(f"bytes={first}-{last}", size)
        tail = part_of(f"bytes=-{last}", size) if last else None
    except Unsatisfiable:
        assert first >= size
        return
    if last >= first:
        assert part == numbers[first : last + 1][:PIECE]
    else:
        assert part is None
    if tail is not None:
        assert tail == numbers[-last:][:PIECE]


# -- what is counted --------------------------------------------------------------------------------------------------


def test_student_and_wilson_are_those_of_the_tables() -> None:
    for freedom, quantile in ((1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (17, 2.110), (30, 2.042)):
        assert student(freedom) == pytest.approx(quantile, abs=5e-4)
    assert student(100_000) == pytest.approx(1.960, abs=5e-4)
    # Newcombe 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E), table I
    table = (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)
    for chosen, n, low, high in table:
        assert wilson(chosen / n, n, 1.959964) == pytest.approx((low, high), abs=5e-5)


def test_answers_of_one_participant_are_not_taken_for_independent_ones() -> None:
    """By hand: 4 answers each of 3 participants who never waver; the design effect is 4, so 12 answers are worth 3."""
    chosen = np.array([[4, 0], [2, 2], [0, 4]])
    found = shares(chosen, np.full((3, 2), 4))
    assert [(s.chosen, s.offered, s.value) for s in found] == [(6, 12, 0.5)] * 2
    assert (found[0].low, found[0].high) == pytest.approx((0.0362, 0.9638), abs=2e-4)
    # all of one mind about everything: nothing is known but that three think so
    agreed = shares(np.array([[4, 0]] * 3), np.full((3, 2), 4))
    t = student(2)
    assert agreed[0].value == 1 and agreed[0].low == pytest.approx(1 / (1 + t * t / 3)) and agreed[0].high == 1
    # as if every answer were another person's
    spread = shares(np.array([[2, 2]] * 3), np.full((3, 2), 4))
    assert (spread[0].low, spread[0].high) == pytest.approx(wilson(0.5, 12, t))


def test_without_answers_nothing_is_said() -> None:
    (none,) = shares(np.zeros((0, 1), np.int64), np.zeros((0, 1), np.int64))
    assert (none.chosen, none.offered) == (0, 0) and math.isnan(none.value) and math.isnan(none.low)
    (one,) = shares(np.array([[1]]), np.array([[4]]))
    assert one.value == 0.25 and math.isnan(one.low), "one participant tells nothing of others"
    lone = shares(np.array([[1, 0, 1], [1, 1, 0]]), np.array([[2, 0, 2], [2, 2, 0]]))
    assert [s.offered for s in lone] == [4, 2, 2] and all(0 <= s.low <= s.value <= s.high <= 1 for s in lone)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """18 participants with tastes of their own answer 20 questions; the truth is their population's mean."""
    draw, hits, runs = np.random.default_rng(0), 0, 400
    for _ in range(runs):
        tastes = draw.dirichlet((6, 1.5, 0.5), size=18)
        chosen = np.stack([draw.multinomial(20, taste) for taste in tastes])
        found = shares(chosen, np.full_like(chosen, 20))
        hits += sum(s.low <= truth <= s.high for s, truth in zip(found, (0.75, 0.1875, 0.0625), strict=True))
    assert 0.93 <= hits / (3 * runs) <= 0.99


def test_krippendorffs_own_example() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", C: four observers, missing answers: 0.743."""
    observers = (
        (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
        (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
    )
    units = [("all", [v for v in unit if v is not None]) for unit in zip(*observers, strict=True)]
    assert krippendorff(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff([("all", "aa"), ("all", "bb")]) == 1
    assert krippendorff([("all", "ab"), ("all", "ab")]) == pytest.approx(1 - 4 / (8 / 3))
    assert krippendorff([("all", "aa"), ("all", "a")]) is None
    assert krippendorff([]) is None


def test_agreement_by_chance_is_reckoned_among_the_same_choices() -> None:
    """Answers at random to pairs of different methods agree by chance alone: pooled, they would seem to agree."""
    draw = random.Random(0)
    units = [(pair, [draw.choice(pair) for _ in range(10)]) for pair in ("ab", "cd") for _ in range(200)]
    found, pooled = krippendorff(units), krippendorff(("all", given) for _, given in units)
    assert found is not None and pooled is not None
    assert abs(found) < 0.03 and pooled > 0.25


def test_a_tally_without_answers_has_no_numbers(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["study", "tally", str(study)])
    assert "nobody was asked yet" in capsys.readouterr().err
    plan = load_study(study)
    stored = Answers(study / ANSWERS, plan.id)
    code = stored.start()
    main(["study", "tally", str(study)])
    assert "| quickedit | – | – |" in capsys.readouterr().out
    person = stored.find(code)
    assert person is not None
    stored.store(Answer(person.id, plan.items[0].id, "quality", plan.items[0].clips[0]))
    found = tally(study, unfinished=True)
    assert "are counted as well" in markdown(found) and len(found.votes) == 1
    write_tally(found, study)
    assert (study / "tally.csv").read_text().count("100.00") == 1
    assert stored.finish(person.id, 1)
    with pytest.raises(Closed):
        stored.store(Answer(person.id, plan.items[0].id, "quality", plan.items[0].clips[1]))


# -- docs/study.md ----------------------------------------------------------------------------------------------------


def test_the_commands_in_the_docs_run_as_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, in one folder; the evaluation is made by hand, and participants leave at once."""
    text = (Path(__file__).parents[1] / "docs" / "study.md").read_text()
    evaluation(tmp_path / "results", ("pnp", "uniform", "adaflow"))
    for name, of in (("sources", "sources"), ("adaflow", METHODS[0]), ("tokenflow", METHODS[1])):
        (tmp_path / name).symlink_to(place / of)
    (tmp_path / "prompts.yaml").symlink_to(place / "prompts.yaml")
    (tmp_path / "sets.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0])
    (tmp_path / "password.txt").write_text(PASSWORD)
    monkeypatch.chdir(tmp_path)

    def leave(server: StudyServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StudyServer, "serve_forever", leave)
    lines = re.findall(r"^\$ adaflow (study .+)$", text, re.MULTILINE)
    assert len(lines) == 7
    for line in lines:
        main([*line.split(), *(["--port", "0"] if line.startswith("study serve") else [])])
        assert capsys.readouterr().out, line
    assert {"study", "folders", "listed", "pairs"} <= {p.name for p in tmp_path.iterdir()}
    for question in QUESTIONS:
        assert " ".join(question.text.split()) in " ".join(text.replace("> ", "").split()), "as on the page"
