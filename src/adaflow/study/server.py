"""`adaflow study serve`: the page and its few calls over HTTP, by the standard library alone.

Nothing that a client sends becomes a path: there are three files of the page, four calls, and videos by the opaque
names that the study lists. Without a password only this machine is answered, and only under a name of its own (so that
no site's name can be pointed at it). What changes anything must come from the page itself.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from ..admission import GUESS, SHORTEST_PASSWORD, is_loopback, knows
from ..errors import InputError
from .ranges import Unsatisfiable, part_of
from .site import Refused, Site

LONGEST_BODY = 4096
MOST_CONNECTIONS = 96
PATIENCE = 20.0
"""Seconds that a silent connection is kept."""
BLOCK = 1 << 16
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
CALLS = {"/api/start": "start", "/api/answer": "answer", "/api/finish": "finish"}
_MEDIA = re.compile(r"/media/([0-9a-f]{16})")


class StudyServer(ThreadingHTTPServer):
    """Serves one site; `serve_forever` and `shutdown` as of any `socketserver`.

    Args:
        site: What is served.
        host: An address of this machine; others than loopback need a password.
        port: 0 for any that is free.
        password: Asked for by the browser, with any user name.

    Raises:
        InputError: the address is not usable, or would expose the study without a password.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, site: Site, host: str = "127.0.0.1", port: int = 0, password: str | None = None) -> None:
        if password is not None and len(password) < SHORTEST_PASSWORD:
            raise InputError(f"the password has {len(password)} characters; take at least {SHORTEST_PASSWORD}")
        try:
            self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            alone = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
        except (OSError, UnicodeError, OverflowError) as error:
            raise InputError(f"{host} port {port} is no address of this machine ({error})") from error
        if password is None and not alone:
            raise InputError(
                f"--host {host} lets other machines in, which needs a password; give one with --password-file, or in "
                "the environment as ADAFLOW_STUDY_PASSWORD"
            )
        self.site, self.password = site, password
        self.page = {
            path: (files(__package__).joinpath(name).read_bytes(), kind) for path, (name, kind) in PAGE.items()
        }
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        try:
            super().__init__((str(address[0]), int(address[1])), Handler)
        except OSError as error:
            raise InputError(
                f"port {port} of {host} cannot be used ({error.strerror}); choose another with --port"
            ) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        return f"http://{f'[{host!s}]' if ':' in str(host) else str(host)}:{port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection, or its end where there are too many."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One connection from beginning to end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def server_bind(self) -> None:
        """Without the base's look for the machine's name, which may ask the network."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours; anything else is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: StudyServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "study", ""
    default_request_version = "HTTP/1.1"  # else what is no request is answered without a status
    timeout = PATIENCE
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """A file of the page, a participant's state, or a video."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """One of the calls."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what participants ask for is nobody's business."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base refuses: a line that is no request, an unknown method. Never repeats what was sent."""
        self.close_connection = True
        self._json(int(code), {"error": "This request is not understood."})

    def _answer(self, respond: Callable[[], None]) -> None:
        try:
            self._admit()
            respond()
        except Refused as refusal:
            self.close_connection = True  # an unread body must not be taken for the next request
            extra = {"WWW-Authenticate": 'Basic realm="study", charset="UTF-8"'} if refusal.status == 401 else {}
            self._json(refusal.status, {"error": str(refusal)}, extra)

    def _admit(self) -> None:
        """Refuse who does not know the password, or came by a name that is not this machine's."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1:
            raise Refused(400, "This request names no host.")
        if self.server.password is None:
            if not is_loopback(hosts[0]):
                raise Refused(403, "This address is not answered.")
        elif not knows(self.headers.get("Authorization"), self.server.password):
            time.sleep(GUESS if self.headers.get("Authorization") else 0)
            raise Refused(401, "Please give the study's password.")

    def _get(self) -> None:
        if self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length", "0") != "0":
            raise Refused(400, "This request is not understood.")
        path = self.path.partition("?")[0]
        if path in self.server.page:
            body, kind = self.server.page[path]
            self._send(200, body, kind)
        elif path == "/favicon.ico":
            self._send(204, b"", "image/x-icon")
        elif path == "/api/state":
            self._json(200, self.server.site.call("state", self.headers.get("X-Participant"), {}))
        elif found := _MEDIA.fullmatch(path):
            self._video(found[1])
        else:
            raise Refused(404, "There is nothing here.")

    def _post(self) -> None:
        origins = self.headers.get_all("Origin") or []
        if len(origins) != 1 or origins[0].partition("://")[2].lower() != self.headers["Host"].lower():
            raise Refused(403, "Answers are taken from the study's own page only.")
        if self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Refused(403, "Answers are taken from the study's own page only.")
        if self.path not in CALLS:
            raise Refused(404, "There is nothing here.")
        self._json(200, self.server.site.call(CALLS[self.path], self.headers.get("X-Participant"), self._body()))

    def _body(self) -> Mapping[str, Any]:
        """The JSON object that was sent; refuses a body that is long, of unknown length, or something else."""
        lengths = self.headers.get_all("Content-Length") or []
        if self.headers.get("Transfer-Encoding") or len(lengths) != 1 or not re.fullmatch(r"[0-9]{1,15}", lengths[0]):
            raise Refused(411, "This request does not say how long it is.")
        if int(lengths[0]) > LONGEST_BODY:
            raise Refused(413, "This request is too long.")
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "This request is not JSON.")
        try:
            given = json.loads(self.rfile.read(int(lengths[0])))
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise Refused(400, "This request is not understood.")
        return given

    def _video(self, name: str) -> None:
        """A video or a part of it."""
        path = self.server.site.video(name)
        if path is None:
            raise Refused(404, "There is nothing here.")
        try:
            file = path.open("rb")
        except OSError:
            raise Refused(404, "There is nothing here.") from None
        with file:
            size = file.seek(0, 2)
            tag = f'"{name}"'
            fresh = self.headers.get("If-Range", tag) == tag
            about = {"Accept-Ranges": "bytes", "ETag": tag, "Cache-Control": "private, max-age=86400"}
            try:
                part = part_of(self.headers.get("Range"), size) if fresh else None
            except Unsatisfiable:
                self._send(416, b"", "video/mp4", {**about, "Content-Range": f"bytes */{size}"})
                return
            wanted = range(size) if part is None else part
            if part is not None:
                about["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
            self._head(200 if part is None else 206, len(wanted), "video/mp4", about)
            file.seek(wanted.start)
            left = 0 if self.command == "HEAD" else len(wanted)
            while left and (block := file.read(min(BLOCK, left))):
                self.wfile.write(block)
                left -= len(block)

    def _json(self, status: int, document: Any, extra: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(document).encode(), "application/json", extra or {})

    def _send(self, status: int, body: bytes, kind: str, extra: Mapping[str, str] | None = None) -> None:
        self._head(status, len(body), kind, {"Cache-Control": "no-store", **(extra or {})})
        if getattr(self, "command", "") != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, kind: str, extra: Mapping[str, str]) -> None:
        self.send_response(status)
        about = {"Content-Type": kind} if status != 204 else {}
        for name, value in {**HEADERS, **about, "Content-Length": str(length), **extra}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
