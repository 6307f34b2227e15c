"""A server that speaks the chat-completions protocol, and fails on demand; run by itself it answers `adaflow annotate`.

    python tests/chat_stub.py 8000

It knows nothing of pictures or words: the answers are the same for every video. To show what happens then, the second
request is turned away for a second, and the answer to the third is no prompt.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWERS = {
    "caption": "A light square wanders over four coloured patches.\nThe camera does not move.",
    "foreground": "A golden disc wanders over four coloured patches.",
    "background": "A light square wanders over a field of snow.",
    "style": "A light square and four patches as a watercolor painting",
}
LONG = "A light square wanders very slowly over four coloured patches that were painted by Van Gogh himself in Arles"


@dataclass(frozen=True)
class Asked:
    """One request: what it is about, and what it says."""

    what: str
    document: dict[str, Any]
    headers: dict[str, str]
    path: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.document["messages"]

    @property
    def pictures(self) -> list[str]:
        content = self.messages[0]["content"]
        return [p["image_url"]["url"] for p in content if p["type"] == "image_url"] if isinstance(content, list) else []


Fault = Callable[["_Handler"], None]
"""What happens to one request in place of an answer."""


class Stub(ThreadingHTTPServer):
    """Put faults (None: an answer) into `faults` for the requests to come."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.asked: list[Asked] = []
        self.faults: deque[Fault | None] = deque()
        self.answers = dict(ANSWERS)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def what_of(document: dict[str, Any]) -> str:
    content = document["messages"][0]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    words = {"Please add a caption": "caption", "main object": "foreground", "the background of": "background"}
    return next((what for word, what in words.items() if word in text), "style")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Stub

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked = Asked(what_of(document), document, dict(self.headers), self.path)
        self.server.asked.append(self.asked)
        fault = self.server.faults.popleft() if self.server.faults else None
        if fault is None:
            self.answer(self.server.answers[self.asked.what])
        else:
            fault(self)

    def answer(self, text: Any, **more: Any) -> None:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        self.send(200, {"model": f"{self.asked.document['model']}-2026", "choices": [choice | more]})

    def send(self, status: int, body: Any, length: int | None = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def status(code: int, message: str = "", kind: str = "", **headers: str) -> Fault:
    return lambda h: h.send(code, {"error": {"message": message, "code": kind}} if message else b"", **headers)


def body(data: Any, code: int = 200) -> Fault:
    return lambda h: h.send(code, data)


def answer(text: Any, **more: Any) -> Fault:
    return lambda h: h.answer(text, **more)


def drop(handler: _Handler) -> None:
    """Close the connection without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def cut_off(handler: _Handler) -> None:
    """Promise more than is sent."""
    handler.send(200, b'{"choices": [', length=1000)
    handler.close_connection = True


def slow(seconds: float) -> Fault:
    def late(handler: _Handler) -> None:
        time.sleep(seconds)
        handler.answer("too late")

    return late


def trickle(seconds: float) -> Fault:
    """Blank lines, as some servers send while a model thinks, and no answer."""

    def drip(handler: _Handler) -> None:
        handler.send(200, b"", length=1000)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(b"\n")
            time.sleep(0.02)
        handler.close_connection = True

    return drip


def main() -> None:
    port = sys.argv[1] if len(sys.argv) > 1 else "8000"
    if not re.fullmatch(r"\d+", port):
        sys.exit("give a port, such as 8000")
    stub = Stub(int(port))
    stub.faults.extend([None, status(429, "slow down", Retry_After="1"), answer(LONG)])
    print(f"answering at {stub.url}; stop with Ctrl-C", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        stub.shutdown()


if __name__ == "__main__":
    main()
