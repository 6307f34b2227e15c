"""A model fetched by its hub id, from a local server that speaks the hub's protocol: no network is needed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from models import save_tiny

REPOSITORY, REVISION = "somebody/tiny-diffusion", "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A hub with one model: what its repository holds, and what was asked for."""

    folder: Path
    address: str = ""
    asked: list[str] = field(default_factory=list)

    def files(self) -> dict[str, Path]:
        return {str(f.relative_to(self.folder)): f for f in sorted(self.folder.rglob("*")) if f.is_file()}


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            files = hub.files()
            known = dict.fromkeys(("main", REVISION))
            parts = path.removeprefix(f"/api/models/{REPOSITORY}").strip("/").split("/")
            if path.startswith(f"/api/models/{REPOSITORY}") and (parts == [""] or parts[-1] in known):
                if parts[0] == "tree":
                    tree = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": ""} for n, f in files.items()]
                    return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
                about = {"id": REPOSITORY, "sha": REVISION, "siblings": [{"rfilename": name} for name in files]}
                return self.answer(200, json.dumps(about).encode(), Content_Type="application/json")
            found = re.fullmatch(rf"/{REPOSITORY}/resolve/([^/]+)/(.+)", path)
            if found and found[1] in known and found[2] in files:
                body = files[found[2]].read_bytes()
                etag = f'"{hashlib.sha256(body).hexdigest()}"'
                return self.answer(200, body, ETag=etag, X_Repo_Commit=REVISION)
            code = "RepoNotFound" if REPOSITORY not in path else "EntryNotFound"
            return self.answer(404, X_Error_Code=code)

        do_HEAD = do_GET  # noqa: N815

    return Handler


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(save_tiny(tmp_path / "repository"))
    (made.folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never fetched")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


def python(hub: Hub, home: Path, code: str, *words: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """A fresh process whose hub is this one, and whose caches are in `home`."""
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "ADAFLOW_"))},
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


GET = "from adaflow.cli import main; import sys; sys.argv[1:1] = ['models', 'get']; main()"
EDIT = """
import sys
import numpy as np
from adaflow import AdaFlowPipeline, EditConfig
pipe = AdaFlowPipeline.from_pretrained(sys.argv[1])
frames = np.zeros((3, 32, 48, 3), np.uint8)
out = pipe(frames, "a red car", config=EditConfig.from_fields({"steps": 1}), workspace=sys.argv[2])
print(np.asarray(out.frames).shape)
"""


def test_a_model_is_fetched_by_its_hub_id(hub: Hub, tmp_path: Path) -> None:
    """`models get` fetches safetensors alone; then an edit by that id needs no hub."""
    got = python(hub, tmp_path / "home", GET, REPOSITORY)
    assert got.returncode == 0, got.stderr
    folder = Path(got.stdout.strip())
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").exists() and folder.name == REVISION
    asked = list(hub.asked)
    edited = python(hub, tmp_path / "home", EDIT, REPOSITORY, str(tmp_path / "work"), offline=True)
    assert edited.returncode == 0 and edited.stdout.strip().endswith("(3, 32, 48, 3)"), edited.stderr
    assert hub.asked == asked and not any(".bin" in each for each in asked)


def test_a_hub_id_alone_is_enough(hub: Hub, tmp_path: Path) -> None:
    edited = python(hub, tmp_path / "home", EDIT, REPOSITORY, str(tmp_path / "work"))
    assert edited.returncode == 0 and edited.stdout.strip().endswith("(3, 32, 48, 3)"), edited.stderr
    assert not any(".bin" in asked for asked in hub.asked)


def test_a_name_that_the_hub_does_not_know(hub: Hub, tmp_path: Path) -> None:
    got = python(hub, tmp_path / "home", GET, "somebody/nothing")
    assert got.returncode == 3 and "could not be fetched" in got.stderr and "Traceback" not in got.stderr
