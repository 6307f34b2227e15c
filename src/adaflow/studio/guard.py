"""What stands between the network and the page: who is let in, what may be asked for, and what leaves.

Only what the page needs is answered: of gradio's own addresses those in `OPEN`, so none that reads, writes, or fetches
anything by a name that a client sends. Whoever comes by another host name than this machine's is refused (no site's
name can be pointed at it), and so is whatever another site's page sends. The page's policy forbids the browser to ask
any other host for anything, and what gradio's template refers to elsewhere is taken out.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote

from ..admission import GUESS, is_loopback, knows, own_origin

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LONGEST_BODY = 1 << 20
UPLOAD = "/studio/upload"
OPEN = {
    "GET": re.compile(
        r"/|/config|/theme\.css|/gradio_api/theme\.css|/favicon\.ico|/robots\.txt|/gradio_api/info"
        r"|/gradio_api/queue/data|/gradio_api/startup-events|/gradio_api/heartbeat/[0-9a-z]{1,40}"
        r"|/(?:assets|static)/[\w.@/-]{1,200}"
        r"|/studio/page\.js|/studio/media/[0-9a-f]{16}/[a-z]{1,20}\.[a-z0-9]{3,4}"
    ),
    "POST": re.compile(
        rf"{UPLOAD}|/gradio_api/queue/join|/gradio_api/run/[\w-]{{1,60}}|/gradio_api/cancel|/gradio_api/reset"
    ),
}
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # gradio's page is empty without: it compiles all its HTML
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "worker-src 'self' blob:",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-src 'self'",
        "frame-ancestors 'none'",
    ]
)
FIGURES = re.compile(r"/studio/media/[0-9a-f]{16}/figures\.html")
FIGURES_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'unsafe-inline'",  # the page itself allows one script, by its hash
        "style-src 'unsafe-inline'",
        "img-src data:",
        "media-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
        "sandbox allow-scripts",  # a page of no site: it reaches nothing of the studio's
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
FIGURES_HEADERS = {**HEADERS, "content-security-policy": FIGURES_POLICY, "x-frame-options": "SAMEORIGIN"}
DROPPED = ("access-control-allow-origin", "access-control-allow-credentials", "server")
"""Headers of gradio's that would let other sites read the answers, or say what runs here."""
ELSEWHERE = re.compile(
    rb"<(?:link|meta)\b[^>]*(?:https?:)?//[^>]*>|<script\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>\s*</script>",
    re.IGNORECASE,
)
"""Tags of a page that name another host."""


class Guard:
    """An ASGI application around another one.

    Args:
        app: What is guarded.
        password: Asked for by the browser, with any user name; None: only this machine is answered.
        most_bytes: The longest body of an upload.
    """

    def __init__(self, app: App, password: str | None, most_bytes: int) -> None:
        self.app, self.password, self.most_bytes = app, password, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = await self._refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        limit = self.most_bytes + LONGEST_BODY if scope["path"] == UPLOAD else LONGEST_BODY  # the library is exact
        own = FIGURES_HEADERS if FIGURES.fullmatch(scope["path"]) else HEADERS
        answer = _Answer(send, own, page=scope["path"] == "/")
        if answer.page:  # a page that is read here must not come compressed
            scope = {**scope, "headers": [(n, v) for n, v in scope["headers"] if n.lower() != b"accept-encoding"]}
        body = _Counted(receive, limit)
        await self.app(scope, body, answer)
        if body.too_long and not answer.begun:
            await _refuse(send, 413, "This is longer than is taken here.")

    async def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Why this is not answered: status and words; None if it is."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1:
            return 400, "This request names no host."
        if self.password is None:
            if not is_loopback(hosts[0]):
                return 403, "This address is not answered."
        else:
            said = next(iter(headers.get("authorization", [])), None)
            if not knows(said, self.password):
                await asyncio.sleep(GUESS if said else 0)
                return 401, "Please give the studio's password."
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        path, raw = scope["path"], unquote(unquote(scope.get("raw_path", b"").decode("latin-1").partition("?")[0]))
        if method not in OPEN:
            return 405, "This is not understood."
        if not OPEN[method].fullmatch(path) or any(part in ("..", ".") for part in re.split(r"[/\\]", raw)):
            return 404, "There is nothing here."
        sites = headers.get("sec-fetch-site", [])
        origins = headers.get("origin", [])
        if (method == "POST" or origins) and not own_origin(origins, hosts, sites):
            return 403, "This is taken from the studio's own page only."
        if any(site in ("cross-site", "same-site") for site in sites) and path != "/":
            return 403, "This is shown to the studio's own page only."
        lengths = headers.get("content-length", [])
        if method == "POST":
            limit = self.most_bytes if path == UPLOAD else LONGEST_BODY
            if any(not re.fullmatch(r"[0-9]{1,18}", length) for length in lengths) or len(lengths) > 1:
                return 400, "This request does not say how long it is."
            if lengths and int(lengths[0]) > limit:
                return 413, "This is longer than is taken here."
        return None


class _Counted:
    """`receive`, which ends as if the client had gone where the body becomes longer than `limit` bytes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.limit, self.taken = receive, limit, 0

    @property
    def too_long(self) -> bool:
        return self.taken > self.limit

    async def __call__(self) -> MutableMapping[str, Any]:
        """The next message."""
        if self.too_long:
            return {"type": "http.disconnect"}
        message = await self.receive()
        self.taken += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self.too_long else message


class _Answer:
    """`send` with the guard's headers; a page is held back until it is whole, and freed of what is elsewhere."""

    def __init__(self, send: Send, own: Mapping[str, str], page: bool) -> None:
        self.send, self.own, self.page, self.begun = send, own, page, False
        self._start: MutableMapping[str, Any] = {}
        self._body = b""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Pass on one message."""
        if message["type"] == "http.response.start":
            kept = [(n, v) for n, v in message["headers"] if n.decode().lower() not in (*DROPPED, *self.own)]
            own = {**self.own, **({"connection": "close"} if message["status"] >= 400 else {})}  # not to read the rest
            message = {**message, "headers": [*kept, *((n.encode(), v.encode()) for n, v in own.items())]}
            self.begun = True
            if self.page:
                self._start = message
                return
        elif self.page:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = ELSEWHERE.sub(b"", self._body)
            if any(n.lower() == b"content-length" and int(v) for n, v in self._start["headers"]) and not body:
                await self.send(self._start)  # an answer to HEAD
            else:
                kept = [(n, v) for n, v in self._start["headers"] if n.lower() != b"content-length"]
                await self.send({**self._start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
            message = {"type": "http.response.body", "body": body}
        await self.send(message)


async def _refuse(send: Send, status: int, words: str) -> None:
    """An answer that repeats nothing of what was sent."""
    body = json.dumps({"error": words}).encode()
    headers = {**HEADERS, "content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    if status == 401:
        headers["www-authenticate"] = 'Basic realm="studio", charset="UTF-8"'
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(n.encode(), v.encode()) for n, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
