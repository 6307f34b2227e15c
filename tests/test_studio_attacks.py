"""Hostile uploads and requests, and what becomes of each: `docs/studio.md` has the list."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from video_files import picture

from adaflow.admission import is_loopback, own_origin
from adaflow.cli import main
from adaflow.encode import write_video
from adaflow.studio import controls, library
from adaflow.studio.command import figures_of, write_settings
from adaflow.studio.place import Place
from adaflow.studio.queue import MOST_WAITING, Job

gradio = pytest.importorskip("gradio", reason="needs gradio: pip install 'adaflow[studio]'")
MOST = 1_000_000
PASSWORD = "a long enough password"
NASTY = "<script>alert(1)</script> ${alert(2)} {{alert(3)}} \" ' `"


def film(path: Path) -> Path:
    write_video(path, (picture(i, 48, 64) for i in range(6)), fps=10)
    return path


def wait(condition: Callable[[], Any], seconds: float = 20) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


@dataclass
class Served:
    """A studio served in this process; its worker does not run, so that what is asked for stays to be seen."""

    desk: Any
    port: int

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, own: bool = True
    ) -> tuple[int, bytes, dict[str, str]]:
        """One request as the page makes it (`own`), with these headers in place of its own."""
        host = f"127.0.0.1:{self.port}"
        sent = {"Host": host, **({"Origin": f"http://{host}"} if own and method == "POST" else {}), **(headers or {})}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in sent:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}

    def upload(self, content: bytes, name: str = "a.mp4", **headers: str) -> tuple[int, dict[str, Any]]:
        kind = {"Content-Type": "application/octet-stream", "X-File-Name": name}
        status, body, _ = self.ask("POST", "/studio/upload", content, kind | headers)
        return status, json.loads(body)

    def call(self, name: str, *data: Any) -> tuple[int, dict[str, Any]]:
        """One of the page's functions, by gradio's own address for it."""
        config = json.loads(self.ask("GET", "/config")[1])
        index = {d["api_name"]: d["id"] for d in config["dependencies"]}
        for function, given in (("_opened", ()), (name, data)):  # a session that knows the videos there are
            body = json.dumps({"data": given, "fn_index": index[function], "session_hash": "x" * 11}).encode()
            status, answer, _ = self.ask("POST", "/gradio_api/run/predict", body, {"Content-Type": "application/json"})
        return status, json.loads(answer)

    def jobs(self) -> list[Job]:
        return self.desk.queue.jobs()


@contextmanager
def serving(root: Path, password: str | None = None) -> Iterator[Served]:
    from adaflow.studio.app import make_app, make_server
    from adaflow.studio.desk import Desk

    desk = Desk(Place(root), MOST)
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(make_app(desk, password))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait(lambda: server.started)
    try:
        yield Served(desk, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def here(served: Served, tmp_path: Path) -> Served:
    """With a video, and nothing asked for yet."""
    for job in served.jobs():
        served.desk.queue.cancel(job.id)
    if not served.desk.queue.videos():
        status, _ = served.upload(film(tmp_path / "first.mp4").read_bytes())
        assert status == 200
    return served


def values(**other: Any) -> list[Any]:
    """Of all controls, at their defaults but for some."""
    usual = controls.defaults("miniature", "default", "")
    return list((usual | other).values())


def edit_asked(here: Served, prompt: Any = "a blue car", model: Any = "miniature", **other: Any) -> tuple[int, str]:
    """What the page answers to "Edit the whole video"; the buttons' functions are ask, ask_1, ask_2."""
    id = here.desk.queue.videos()[0].id
    status, answer = here.call("ask_2", id, prompt, model, "default", "", *values(**other))
    return status, json.dumps(answer, ensure_ascii=False)


def test_a_proper_request_is_answered(here: Served) -> None:
    """What the attacks below are compared with."""
    status, body, headers = here.ask("GET", "/")
    assert status == 200 and b"AdaFlow studio" in body
    assert not re.findall(rb"(?:src|href|content)=[\"'](?:https?:)?//(?!127\.0\.0\.1)", body)
    assert "default-src 'none'" in headers["content-security-policy"] and "server" not in headers
    before = len(here.jobs())
    assert edit_asked(here)[0] == 200 and len(here.jobs()) == before + 1
    assert here.jobs()[0].prompt == "a blue car" and here.jobs()[0].settings == {}


def stray(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*")}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../../tmp/evil.mp4", "evil.mp4"),
        ("..%2F..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("C%3A%5CWindows%5Cevil.mp4", "evil.mp4"),
        ("%00%0A%0D..mp4", "..mp4"),
        ("a" * 3000, "a" * (library.LONGEST_NAME - 1) + "…"),
        ("", "video"),
        ("%3Cscript%3Ealert(1)%3C%2Fscript%3E", "script>"),
    ],
)
def test_names_of_uploads_are_shown_and_nothing_else(here: Served, tmp_path: Path, name: str, shown: str) -> None:
    before = stray(here.desk.place.root)
    status, answer = here.upload(film(tmp_path / "a.mp4").read_bytes(), name)
    assert (status, answer["name"]) == (200, shown)
    new = {p for p in stray(here.desk.place.root) - before if "sqlite" not in p}
    folder = f"videos/{answer['id']}"
    assert new == {folder, f"{folder}/video", f"{folder}/strip.jpg"}


def cut_off(tmp_path: Path) -> bytes:
    content = film(tmp_path / "b.mp4").read_bytes()
    return content[: len(content) * 2 // 3]


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
NO_VIDEOS: dict[str, bytes] = {
    "text": b"just words, but named like a film" * 100,
    "a playlist that names files of this machine": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "a list of files to join": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "a picture with a script": SVG,
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch /tmp/evil'\ntR.",
    "an archive": b"PK\x03\x04" + bytes(200),
    "an absurd size": b"YUV4MPEG2 W60000 H60000 F25:1 Ip A1:1 C420\nFRAME\n" + bytes(1000),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", [*NO_VIDEOS, "a film that is cut off"])
def test_what_is_no_video_leaves_nothing(here: Served, tmp_path: Path, kind: str) -> None:
    before = stray(here.desk.place.root)
    status, answer = here.upload(NO_VIDEOS.get(kind) if kind in NO_VIDEOS else cut_off(tmp_path), "film.mp4")  # type: ignore[arg-type]
    assert status == 415 and answer["error"].endswith(".")
    assert "/etc/passwd" not in answer["error"] and str(here.desk.place.root) not in answer["error"]
    assert {p for p in stray(here.desk.place.root) - before if "sqlite" not in p} == set()


def test_a_film_that_is_a_page_as_well_is_never_served_as_one(here: Served, tmp_path: Path) -> None:
    polyglot = film(tmp_path / "a.mp4").read_bytes() + b"<html><script>alert(1)</script>"
    status, answer = here.upload(polyglot, "page.html")
    assert status == 200
    for name in ("video", "page.html", "source.mp4", "edited.mp4"):
        found, body, _ = here.ask("GET", f"/studio/media/{answer['id']}/{name}")
        assert found == 404 and b"alert" not in body
    found, body, headers = here.ask("GET", f"/studio/media/{answer['id']}/strip.jpg")
    assert (found, headers["content-type"], headers["x-content-type-options"]) == (200, "image/jpeg", "nosniff")


def test_a_page_of_figures_is_of_no_site_and_asks_for_nothing(here: Served) -> None:
    """Even a script in it that was not meant would reach nothing of the studio's."""
    assert edit_asked(here)[0] == 200
    job = here.jobs()[0]
    address = f"/studio/media/{job.id}/figures.html"
    assert here.ask("GET", address)[0] == 404  # not written yet
    write_settings(job, here.desk.place)
    figures_of(job, here.desk.place).write_text("<html></html>")
    status, _, headers = here.ask("GET", address)
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert policy["sandbox"] == "allow-scripts" and policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'self'" and headers["x-frame-options"] == "SAMEORIGIN"
    assert not any(
        "http" in value or ("'self'" in value and name != "frame-ancestors") for name, value in policy.items()
    )
    assert "frame-ancestors 'none'" in here.ask("GET", "/")[2]["content-security-policy"]


def test_a_huge_length_is_refused_before_anything_is_read(here: Served) -> None:
    before = stray(here.desk.place.root)
    for length in ("10000000000000", "1000001", "-5", "1e3", "99999999999999999999999"):
        status, *_ = here.ask("POST", "/studio/upload", b"", {"Content-Length": length})
        assert status in (400, 413), length
    assert stray(here.desk.place.root) == before


def test_a_body_without_a_length_ends_at_the_limit(here: Served) -> None:
    before = stray(here.desk.place.root)
    with closing(socket.create_connection(("127.0.0.1", here.port), timeout=20)) as connection:
        host = f"127.0.0.1:{here.port}"
        connection.sendall(
            f"POST /studio/upload HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        sent = 0
        try:
            while sent < 50 * MOST:
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                sent += 0x10000
        except OSError:
            pass
        assert sent < 50 * MOST
    wait(lambda: stray(here.desk.place.root) == before)


CLOSED = [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=../../../../etc/passwd",
    "/gradio_api/file/etc/passwd",
    "/file=/etc/passwd",
    "/gradio_api/proxy=http://169.254.169.254/latest/meta-data",
    "/gradio_api/upload_progress?upload_id=1",
    "/gradio_api/stream/a/b/c/playlist.m3u8",
    "/custom_component/a/client/component/../../../../etc/passwd",
    "/static/../../../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/assets/%252e%252e/%252e%252e/etc/passwd",
    "/assets/..\\..\\..\\etc\\passwd",
    "//etc/passwd",
    "/studio/media/../../../etc/passwd",
    "/studio/media/0123456789abcdef/../../studio.sqlite",
    "/studio/media/0123456789abcdef/studio.sqlite",
    "/studio/media/..%2f..%2fstudio.sqlite/strip.jpg",
    "/monitoring",
    "/gradio_api/monitoring",
    "/gradio_api/vibe-code",
    "/gradio_api/mcp/sse",
    "/docs",
    "/openapi.json",
    "/login",
]


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_no_address_reads_a_file_that_a_client_names(here: Served, path: str, method: str) -> None:
    status, body, _ = here.ask(method, path, b"{}" if method == "POST" else None)
    assert status in (400, 404, 405), (status, body[:200])
    assert b"root:" not in body and b"SQLite" not in body


def test_gradios_own_uploads_and_components_are_closed(here: Served) -> None:
    multipart = b'--x\r\nContent-Disposition: form-data; name="files"; filename="../../evil"\r\n\r\nevil\r\n--x--\r\n'
    for path in ("upload", "component_server", "process_recording", "vibe-edit", "call/ask_2", "api/ask_2", "reset/"):
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        assert here.ask("POST", f"/gradio_api/{path}", multipart, kind)[0] == 404
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert here.ask(method, "/")[0] == 405


def test_a_file_given_in_place_of_a_text_is_not_read(here: Served, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    file = {"path": str(secret), "url": f"file://{secret}", "meta": {"_type": "gradio.FileData"}, "orig_name": "a"}
    _, answer = edit_asked(here, prompt=file)
    assert "the secret" not in answer
    assert not any("the secret" in job.prompt for job in here.jobs())
    assert "the secret" not in json.dumps(here.call("lambda", file, "miniature")[1])
    assert not [p for p in (here.desk.place.root).rglob("*") if p.is_file() and b"the secret" in p.read_bytes()]


@pytest.mark.parametrize(
    "model", ["/etc", "../../models", "owner/repository", "http://evil.example/m", "", None, ["miniature"]]
)
def test_a_client_names_no_model_that_is_not_offered(here: Served, model: Any) -> None:
    before = len(here.jobs())
    edit_asked(here, model=model)
    assert len(here.jobs()) == before


@pytest.mark.parametrize("id", ["../../etc", "0" * 16, "' OR 1=1 --", None, {"path": "/etc/passwd"}])
def test_a_client_names_no_video_that_is_not_here(here: Served, id: Any) -> None:
    before = len(here.jobs())
    here.call("ask_2", id, "a blue car", "miniature", "default", "", *values())
    assert len(here.jobs()) == before


@pytest.mark.parametrize("id", ["../../etc", "/etc", "' OR 1=1 --", "0" * 16, "*", "", ".", None])
def test_a_client_deletes_nothing_that_it_names(here: Served, id: Any) -> None:
    before, videos = set(here.desk.place.root.rglob("video")), here.desk.queue.videos()
    here.call("_doubt", None, id)
    here.call("_remove", {"doubted": videos[0].id})  # what was asked is kept by the server, not sent by the page
    assert here.desk.queue.videos() == videos and set(here.desk.place.root.rglob("video")) == before


@pytest.mark.parametrize(
    "other",
    [
        {"guidance_scale": 1e308},
        {"steps": -3},
        {"steps": "50; rm -rf /"},
        {"height": 10**9},
        {"keyframes.choice": "__import__('os')"},
        {"output.audio": "/etc/passwd"},
        {"seed": [1, 2]},
        {"keyframes.mean_threshold": None, "steps": {"a": 1}},
    ],
)
def test_settings_out_of_bounds_make_no_job(here: Served, other: dict[str, Any]) -> None:
    before = len(here.jobs())
    edit_asked(here, **other)
    assert len(here.jobs()) == before


@pytest.mark.parametrize("prompt", ["", "   ", "x" * 3000, "a\0b"])
def test_prompts_that_are_none_make_no_job(here: Served, prompt: str) -> None:
    before = len(here.jobs())
    edit_asked(here, prompt=prompt)
    assert len(here.jobs()) == before


def test_html_in_a_prompt_is_shown_as_text(here: Served) -> None:
    edit_asked(here, prompt=NASTY)
    assert here.jobs()[0].prompt == NASTY
    answer = json.dumps(
        here.call("_watch", None, "", here.desk.queue.videos()[0].id, "", "miniature", "default", "", *values())
    )
    assert "alert(1)" in answer and "<script" not in answer and "${alert" not in answer


def test_many_edits_at_once_wait_in_a_line_that_has_an_end(here: Served) -> None:
    threads = [threading.Thread(target=edit_asked, args=(here, f"a blue car {i}")) for i in range(MOST_WAITING + 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(here.desk.queue.waiting()) == MOST_WAITING
    _, answer = edit_asked(here)
    assert "are waiting already" in answer


FOREIGN: list[dict[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://localhost.evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize(
    "path", ["/studio/upload", "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/reset"]
)
def test_what_another_sites_page_sends_is_refused(here: Served, path: str, headers: dict[str, str]) -> None:
    status, _, said = here.ask("POST", path, b"{}", headers)
    assert status == 403 and "access-control-allow-origin" not in said


def test_what_another_sites_page_reads_is_refused(here: Served) -> None:
    assert here.ask("POST", "/studio/upload", b"{}", own=False)[0] == 403  # no origin at all
    assert here.ask("GET", "/config", None, {"Origin": "http://evil.example"})[0] == 403
    assert here.ask("GET", "/config", None, {"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert here.ask("OPTIONS", "/gradio_api/queue/join", None, {"Origin": "http://evil.example"})[0] == 405
    assert "access-control-allow-origin" not in here.ask("GET", "/config")[2]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost@evil.example"]
)
def test_another_name_for_this_machine_is_refused(here: Served, host: str) -> None:
    """A site whose name was made to point at this machine gets nothing."""
    assert here.ask("GET", "/", None, {"Host": host})[0] in (400, 403)


def test_a_long_body_is_refused_where_none_is_expected(here: Served) -> None:
    long = {"Content-Type": "application/json", "Content-Length": "1100000"}
    assert here.ask("POST", "/gradio_api/queue/join", b"", long)[0] == 413


def test_a_websocket_is_refused(here: Served) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "x" * 22 + "==",
               "Sec-WebSocket-Version": "13"}  # fmt: skip
    assert here.ask("GET", "/gradio_api/queue/join", None, upgrade)[0] in (400, 403, 404, 426)


def test_nothing_that_is_served_names_a_folder_of_this_machine(here: Served) -> None:
    for path in ("/", "/config", "/gradio_api/info"):
        _, body, _ = here.ask("GET", path)
        assert str(here.desk.place.root).encode() not in body and str(Path.home()).encode() + b"/" not in body


def test_with_a_password_nothing_is_answered_without_it(tmp_path: Path) -> None:
    import base64

    def told(password: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}

    with serving(tmp_path, PASSWORD) as guarded:
        for path in ("/", "/config", "/studio/page.js", "/assets/x.js", "/studio/media/0123456789abcdef/strip.jpg"):
            assert guarded.ask("GET", path)[0] == 401
            assert guarded.ask("GET", path, None, told("wrong"))[0] == 401
        assert guarded.ask("GET", "/studio/page.js", None, told(PASSWORD))[0] == 200
        # other names are let in then, but no other pages
        named = {**told(PASSWORD), "Host": "studio.example"}
        assert guarded.ask("GET", "/studio/page.js", None, named)[0] == 200
        assert guarded.ask("POST", "/studio/upload", b"", {**named, "Origin": "http://evil.example"})[0] == 403


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "needs --expose, and a password"),
        (["--host", "0.0.0.0", "--expose"], "needs --expose, and a password"),
        (["--host", "nowhere.invalid"], "is no address of this machine"),
        (["--port", "99999"], "port 99999 of 127.0.0.1 cannot be used"),
        (["--max-upload-mb", "0"], "must be at least 1"),
        (["--password-file", "short"], "take at least 10"),
        (["--password-file", "none"], "cannot be read"),
    ],
)
def test_exposure_needs_a_flag_and_a_password(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADAFLOW_STUDIO_PASSWORD", raising=False)
    Path("short").write_text("abc\n")
    with pytest.raises(SystemExit) as end:
        main(["studio", "--folder", str(tmp_path / "studio"), *words])
    assert end.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "studio" / "studio.sqlite").exists() or "99999" in words


def test_one_studio_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from adaflow.lock import Lock

    lock = Lock.take(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["studio", "--folder", str(tmp_path), "--port", "0"])
    assert end.value.code == 2 and "another studio runs in" in capsys.readouterr().err
    lock.release()


@pytest.mark.parametrize(
    ("host", "own"), [("localhost:1", True), ("[::1]:80", True), ("127.9.9.9", True), ("evil", False), ("[", False)]
)
def test_names_of_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) == own


def test_an_origin_is_the_hosts_own_or_not() -> None:
    assert own_origin(["http://a:1"], ["a:1"], [])
    assert not own_origin(["http://a:2"], ["a:1"], [])
    assert not own_origin(["http://a:1", "http://a:1"], ["a:1"], [])
    assert not own_origin(["http://a:1"], ["a:1"], ["cross-site"])
