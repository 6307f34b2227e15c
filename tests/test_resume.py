"""Edits of a real file killed by SIGKILL at chosen moments: the same command again gives the undisturbed run's bytes.

Run as a program, this file is a server that loads torch and the model once and forks a child for every edit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import save_tiny
from video_files import Sound, make

N, STEPS = 8, 3
KILLS: dict[str, dict[str, Any]] = {
    "encode": {"stage": "encode", "done": 3},
    "features": {"stage": "features", "done": 4},
    "partition": {"stage": "partition", "done": 4},
    "invert": {"stage": "invert", "done": 4 * STEPS + 1},
    "match": {"stage": "match", "done": 5},
    "key pass": {"call": "edit_keys", "number": 2},
    "a whole propagation pass": {"call": "propagate", "number": 6},
    "propagation": {"stage": "edit", "done": N + 3},
    "last step": {"stage": "edit", "done": STEPS * N - 2},
    "decode": {"stage": "decode", "done": 5},
    "write": {"stage": "write", "done": 5},
    "stage.json": {"replace": "stage.json", "number": 20},
    "rename": {"replace": "out.mp4", "number": 1},
}
"""Where a child kills itself: when so much of a stage is done, after the so-manieth call, before a file is renamed."""


class Server:
    """Does one edit after the other, each in a process of its own."""

    def __init__(self, model: Path, log: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(model), str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def edit(
        self,
        video: Path,
        folder: Path,
        *,
        kill: dict[str, Any] | None = None,
        threads: int = 1,
        record: str | None = None,
        dimensions: int = 0,
    ) -> int:
        """Edit into ``folder/out.mp4``: 0, or the signal that ended it."""
        order = {"video": str(video), "folder": str(folder), "kill": kill, "threads": threads, "record": record}
        order["dimensions"] = dimensions
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer and json.loads(answer)["exit"] == 0, self.log.read_text()
        return int(json.loads(answer)["signal"])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    server = Server(save_tiny(folder / "model"), folder / "log")
    yield server
    server.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("video") / "in.mp4", n=N, size=(64, 96), sounds=[Sound(seconds=0.2)])


@pytest.fixture(scope="module")
def undisturbed(server: Server, video: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert server.edit(video, folder) == 0
    return (folder / "out.mp4").read_bytes()


@pytest.mark.parametrize("moment", KILLS)
def test_killed_and_resumed_the_output_is_the_same(
    server: Server, video: Path, undisturbed: bytes, moment: str, tmp_path: Path
) -> None:
    assert server.edit(video, tmp_path, kill=KILLS[moment]) == signal.SIGKILL
    assert not (tmp_path / "out.mp4").exists()
    assert server.edit(video, tmp_path) == 0
    assert (tmp_path / "out.mp4").read_bytes() == undisturbed
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "workspace"}


def test_undisturbed_runs_are_the_same(server: Server, video: Path, undisturbed: bytes, tmp_path: Path) -> None:
    assert server.edit(video, tmp_path) == 0
    assert (tmp_path / "out.mp4").read_bytes() == undisturbed


def test_killed_again_and_again(server: Server, video: Path, undisturbed: bytes, tmp_path: Path) -> None:
    """One workspace, killed at all moments one after the other, at one of them twice at the same place."""
    order = ["encode", "features", "partition", "invert", "match", "key pass", "propagation", "propagation"]
    for moment in (*order, "last step", "decode", "write", "rename"):
        assert server.edit(video, tmp_path, kill=KILLS[moment]) == signal.SIGKILL, moment
        assert not (tmp_path / "out.mp4").exists()
    assert server.edit(video, tmp_path) == 0
    assert (tmp_path / "out.mp4").read_bytes() == undisturbed


def test_the_threads_of_the_first_run_are_kept(server: Server, video: Path, undisturbed: bytes, tmp_path: Path) -> None:
    """Sums are split by threads, so another number would give other bytes; the plan remembers the first."""
    assert server.edit(video, tmp_path, kill=KILLS["invert"]) == signal.SIGKILL
    assert server.edit(video, tmp_path, threads=2) == 0
    assert (tmp_path / "out.mp4").read_bytes() == undisturbed


def test_killed_with_the_record_on_disk(server: Server, video: Path, tmp_path: Path) -> None:
    other = tmp_path / "undisturbed"
    other.mkdir()
    assert server.edit(video, other, record="disk") == 0
    for moment in ("key pass", "last step"):
        assert server.edit(video, tmp_path, kill=KILLS[moment], record="disk") == signal.SIGKILL
        assert list(tmp_path.glob("workspace/stages/edit-*/record/*.bin"))
    assert server.edit(video, tmp_path, record="disk") == 0
    assert (tmp_path / "out.mp4").read_bytes() == (other / "out.mp4").read_bytes()
    assert not list(tmp_path.glob("workspace/stages/edit-*/record"))


def test_killed_while_short_features_are_taken(server: Server, video: Path, tmp_path: Path) -> None:
    other = tmp_path / "undisturbed"
    other.mkdir()
    assert server.edit(video, other, dimensions=8) == 0
    for moment in ("features", "last step"):
        assert server.edit(video, tmp_path, kill=KILLS[moment], dimensions=8) == signal.SIGKILL
    assert server.edit(video, tmp_path, dimensions=8) == 0
    assert (tmp_path / "out.mp4").read_bytes() == (other / "out.mp4").read_bytes()


def test_a_former_output_stays_until_the_new_one_is_whole(
    server: Server, video: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    (tmp_path / "out.mp4").write_bytes(b"former")
    for moment in ("write", "rename"):
        assert server.edit(video, tmp_path, kill=KILLS[moment]) == signal.SIGKILL
        assert (tmp_path / "out.mp4").read_bytes() == b"former"
    assert server.edit(video, tmp_path) == 0
    assert (tmp_path / "out.mp4").read_bytes() == undisturbed


# -- the server -----------------------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def edit(pipe: Any, order: dict[str, Any]) -> None:
    """In a child: edit as ordered, and die as ordered."""
    from adaflow import EditConfig, KeyframeConfig, Progress, RunConfig
    from adaflow.config import FeatureConfig
    from adaflow.editor import Editor

    kill: dict[str, Any] = order["kill"] or {}
    calls = 0

    def count() -> bool:
        nonlocal calls
        calls += 1
        return calls == kill["number"]

    def on_progress(progress: Progress) -> None:
        if progress.stage != "write":
            assert torch.get_num_threads() == 1
        if progress.stage == kill.get("stage") and progress.done >= kill["done"]:
            die()

    if "call" in kill:
        method = getattr(Editor, kill["call"])

        def called(*given: Any) -> Any:
            result = method(*given)
            if count():
                die()
            return result

        setattr(Editor, kill["call"], called)
    if "replace" in kill:
        replace = os.replace

        def renamed(source: Any, target: Any) -> None:
            if Path(target).name == kill["replace"] and count():
                die()
            replace(source, target)

        os.replace = renamed

    torch.set_num_threads(order["threads"])
    folder = Path(order["folder"])
    config = EditConfig(
        steps=STEPS,
        keyframes=KeyframeConfig(longest_clip=4, mean_threshold=-1.0, window_threshold=-1.0),
        run=RunConfig(rows=4, record=order["record"]),
        features=FeatureConfig(dimensions=order["dimensions"]),
    )
    result = pipe(
        order["video"], "a red square", config=config, workspace=folder / "workspace", on_progress=on_progress
    )
    assert torch.get_num_threads() == order["threads"]
    result.save(folder / "out.mp4", on_progress=on_progress)


def serve(model: str, log: str) -> None:
    from adaflow import AdaFlowPipeline

    torch.set_num_threads(1)
    pipe = AdaFlowPipeline.from_pretrained(model, device="cpu", torch_dtype=torch.float32)
    for line in sys.stdin:
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            died = os.WIFSIGNALED(status)
            answer = {"signal": os.WTERMSIG(status) if died else 0, "exit": 0 if died else os.WEXITSTATUS(status)}
            print(json.dumps(answer), flush=True)
            continue
        signal.alarm(60)
        try:
            edit(pipe, json.loads(line))
            os._exit(0)
        except BaseException:
            Path(log).write_text(traceback.format_exc())
            os._exit(1)


if __name__ == "__main__":
    serve(*sys.argv[1:])
