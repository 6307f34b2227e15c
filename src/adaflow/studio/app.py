"""The studio as an ASGI application: gradio's page, the upload, the films, and the guard around all of it."""

from __future__ import annotations

import asyncio
import os
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read by gradio when it is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from ..errors import InputError
from .desk import Desk
from .guard import UPLOAD, App, Guard
from .layout import stylesheet, theme
from .library import TooLargeError, shown_name
from .page import build

MOST_CONNECTIONS = 200
GRACE = 3
"""Seconds that connections are given when the server ends."""
MOST_UPLOADS = 2
"""Uploads that are taken at the same time."""


def make_app(desk: Desk, password: str | None = None) -> App:
    """The application for a studio; whoever serves it starts and stops the desk's worker."""
    inner: Any = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    script = files(__package__).joinpath("page.js").read_bytes()
    room = asyncio.Semaphore(MOST_UPLOADS)

    @inner.get("/studio/page.js")
    def page_js() -> Response:
        return Response(script, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    @inner.get("/studio/media/{id}/{name}")
    def media(id: str, name: str, request: Request) -> Response:
        found = desk.place.media(id, name)
        if found is None:
            return JSONResponse({"error": "There is nothing here."}, 404)
        file, kind = found
        cached = {"Cache-Control": "private, max-age=3600"}
        if "download" not in request.query_params:
            return FileResponse(file, media_type=kind, headers=cached)
        job = desk.queue.find(id)
        video = desk.queue.video(job.video) if job else None
        stem = shown_name(video.name).rpartition(".")[0] or "video" if video else "video"
        return FileResponse(file, media_type=kind, filename=f"{stem}.edited.mp4", headers=cached)

    @inner.post(UPLOAD)
    async def upload(request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if room.locked():
            return JSONResponse({"error": "Other uploads are under way; try again when they are done."}, 429)
        async with room:
            try:
                folder = await desk.library.receive(request.stream(), int(length) if length.isdigit() else None)
                name = unquote(request.headers.get("x-file-name", ""), errors="replace")
                video = await asyncio.to_thread(desk.library.accept, folder, name)
            except TooLargeError as error:
                return JSONResponse({"error": _sentence(error)}, 413)
            except InputError as error:
                return JSONResponse({"error": _sentence(error)}, 415)
            except ClientDisconnect:
                return JSONResponse({"error": "The upload was given up."}, 400)
        return JSONResponse({"id": video.id, "name": video.name})

    app: Any = gr.mount_gradio_app(
        inner,
        build(desk),
        path="/",
        server_name="127.0.0.1",
        footer_links=[],
        run_history=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        allowed_paths=[],
        blocked_paths=["/"],
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=stylesheet(),
    )
    return Guard(app, password, desk.library.most_bytes)


def make_server(app: App) -> uvicorn.Server:
    """What serves the application: it tells nothing about itself, and trusts no header about who asks."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=GRACE,
        )
    )


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
