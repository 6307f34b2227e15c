"""The studio without a browser: its queue, its worker, what it takes in, and what it refuses.

The page itself is used in `test_studio_browser.py`.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from video_files import make, picture

from adaflow import figures
from adaflow.cache import default_root
from adaflow.cli import main
from adaflow.config import EditConfig, KeyframeConfig
from adaflow.encode import write_video
from adaflow.errors import AdaFlowError, ConfigError, InputError
from adaflow.estimate import Estimate
from adaflow.keyframes import Clip, Partition, partition_with_scores
from adaflow.meter import JsonMeter
from adaflow.progress import Progress
from adaflow.studio import controls, drawing, finder, layout, library, timeline, worker
from adaflow.studio.command import command_of, write_settings
from adaflow.studio.library import Library, TooLargeError, shown_name
from adaflow.studio.place import Place
from adaflow.studio.queue import MOST_WAITING, FullError, Job, Queue, Video
from adaflow.studio.worker import Worker
from adaflow.workspace import Workspace

ABOUT = {"frames": 10, "width": 64, "height": 48, "seconds": 1.0, "fps": 10.0, "times": None, "sound": False,
         "codec": "h264", "tiles": 10, "tile": [72, 96], "fingerprint": "0" * 64, "bytes": 1000}  # fmt: skip
VIDEO = "0123456789abcdef"
THRESHOLDS = KeyframeConfig(mean_threshold=0.9, window_threshold=0.7)
NASTY = "<script>alert(1)</script> ${alert(2)} {{alert(3)}} \" ' `"


def film(path: Path, frames: int = 6) -> Path:
    write_video(path, (picture(i, 48, 64) for i in range(frames)), fps=10)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "studio")
    made.make()
    return made


@pytest.fixture
def queue(place: Place) -> Queue:
    made = Queue(place.database)
    made.add_video(VIDEO, "a.mp4", ABOUT)
    return made


def edit(queue: Queue, prompt: str = "a blue car", **options: Any) -> Job:
    return queue.add("edit", VIDEO, prompt, "miniature", options)


def wait(condition: Callable[[], Any], seconds: float = 20) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


# -- the queue --------------------------------------------------------------------------------------------------------


def test_jobs_are_taken_in_order_and_short_ones_before_edits(queue: Queue) -> None:
    first, second = edit(queue, "one"), edit(queue, "two")
    look = queue.add("inspect", VIDEO, "", "miniature", {})
    assert [job.id for job in queue.waiting()] == [look.id, first.id, second.id]
    assert [taken.id for taken in (queue.take(), queue.take(), queue.take()) if taken] == [look.id, first.id, second.id]
    assert queue.take() is None


def test_a_later_look_takes_the_place_of_one_that_waits(queue: Queue) -> None:
    queue.add("inspect", VIDEO, "", "miniature", {})
    last = queue.add("inspect", VIDEO, "", "miniature", {"steps": 4})
    assert [job.id for job in queue.jobs()] == [last.id]


@pytest.mark.parametrize(
    ("state", "wish", "becomes"),
    [
        ("waiting", "pause", "paused"),
        ("running", "pause", "pausing"),
        ("done", "pause", None),
        ("paused", "pause", None),
        ("paused", "resume", "waiting"),
        ("failed", "resume", "waiting"),
        ("cancelled", "resume", "waiting"),
        ("done", "resume", None),
        ("running", "resume", None),
        ("waiting", "cancel", "cancelled"),
        ("running", "cancel", "cancelling"),
        ("pausing", "cancel", "cancelling"),
        ("paused", "cancel", "cancelled"),
        ("done", "cancel", None),
        ("cancelling", "pause", None),
    ],
)
def test_wishes_change_only_states_that_they_fit(queue: Queue, state: str, wish: str, becomes: str | None) -> None:
    job = edit(queue)
    queue.move(job.id, state, "waiting")
    assert getattr(queue, wish)(job.id) == (becomes is not None)
    found = queue.find(job.id)
    assert found and found.state == (becomes or state)


def test_of_many_who_wish_at_once_one_gets_it(queue: Queue) -> None:
    job = edit(queue)
    queue.take()
    answers: list[bool] = []
    wishes = [queue.pause, queue.cancel] * 8
    threads = [threading.Thread(target=lambda w=w: answers.append(w(job.id))) for w in wishes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = queue.find(job.id)
    assert found and found.state == "cancelling" and 1 <= sum(answers) <= 2  # paused at most once, cancelled once


def test_two_servers_never_take_the_same_job(queue: Queue) -> None:
    made = {edit(queue, str(i)).id for i in range(20)}
    taken: list[str] = []
    threads = [threading.Thread(target=lambda: [taken.append(j.id) for j in iter(queue.take, None)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(made)


def test_there_is_an_end_to_waiting(queue: Queue) -> None:
    for i in range(MOST_WAITING):
        edit(queue, str(i))
    with pytest.raises(FullError, match="are waiting already"):
        edit(queue)


@pytest.mark.parametrize(
    "id", ["", "x", "0123456789abcdeg", "' OR 1=1 --", "../../etc/passwd", None, 5, ["a"], "0" * 17]
)
def test_names_that_are_none_find_nothing(queue: Queue, place: Place, id: Any) -> None:
    assert queue.find(id) is None and queue.video(id) is None
    assert place.media(str(id), "strip.jpg") is None


def test_a_database_that_is_none_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match="cannot be used"):
        Queue(tmp_path / "file")


# -- the worker -------------------------------------------------------------------------------------------------------

SAY = "import json,sys,time,signal,os\nsay=lambda **f: print(json.dumps(f),file=sys.stderr,flush=True)\n"
LONG = SAY + 'say(event="progress",stage="edit",words="editing",done=3,total=10,seconds_left=7.5)\ntime.sleep(60)'
STUBBORN = LONG.replace("say(event", "signal.signal(2, signal.SIG_IGN)\nsay(event")
GOOD = SAY + 'open("edited.mp4","wb").close()\nprint(json.dumps({"clips": [[0, 10]], "output": "/secret"}))'
BAD = (
    'import sys\nfor line in ("note: a thing", "adaflow: the disk is full"): print(line, file=sys.stderr)\nsys.exit(4)'
)


@contextmanager
def working(place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch, script: str) -> Iterator[Worker]:
    """A worker of whose jobs each is this script."""
    monkeypatch.setattr(worker, "command_of", lambda job, place: [sys.executable, "-c", script])
    monkeypatch.setattr(Worker, "_proxy", lambda self, video: None)
    running = Worker(place, queue)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def state(queue: Queue, job: Job) -> str:
    found = queue.find(job.id)
    assert found
    return found.state


def at_work(queue: Queue, job: Job) -> Job:
    found = wait(lambda: next((j for j in [queue.find(job.id)] if j and j.progress.get("stages")), None))
    assert isinstance(found, Job)
    return found


def test_a_job_that_goes_well(place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    job = edit(queue)
    with working(place, queue, monkeypatch, GOOD):
        wait(lambda: state(queue, job) == "done")
    found = queue.find(job.id)
    assert found and found.result == {"clips": [[0, 10]]}  # no paths
    assert found.pid is None and found.seconds > 0 and found.progress["phase"] == "done"


def test_a_job_that_fails_says_why(place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    job = edit(queue)
    with working(place, queue, monkeypatch, BAD):
        wait(lambda: state(queue, job) == "failed")
    found = queue.find(job.id)
    assert found and found.error == "the disk is full"


def test_an_edit_whose_figures_fail_is_done_all_the_same(
    place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = edit(queue)
    with working(place, queue, monkeypatch, f"{GOOD}\n{BAD}"):
        wait(lambda: state(queue, job) == "done")
    found = queue.find(job.id)
    assert found and found.result == {"clips": [[0, 10]]} and not found.error
    assert found.progress["notes"] == ["a thing", "the disk is full"]


def test_what_the_system_kills_says_so_and_can_be_resumed(
    place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = edit(queue)
    with working(place, queue, monkeypatch, SAY + "os.kill(os.getpid(), 9)"):
        wait(lambda: state(queue, job) == "failed")
        found = queue.find(job.id)
        assert found and "want of memory" in found.error
        assert queue.resume(job.id)


def test_pausing_frees_the_memory_and_resuming_runs_again(
    place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = edit(queue)
    with working(place, queue, monkeypatch, LONG) as running:
        found = at_work(queue, job)
        assert found.progress["stages"] == {"edit": [3, 10]} and found.progress["seconds_left"] == 7.5
        queue.pause(job.id)
        wait(lambda: state(queue, job) == "paused")
        assert found.pid and not psutil.pid_exists(found.pid)
        monkeypatch.setattr(worker, "command_of", lambda job, place: [sys.executable, "-c", GOOD])
        queue.resume(job.id)
        running.wake()
        wait(lambda: state(queue, job) == "done")


def test_cancelling_leaves_nothing(place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    job, after = edit(queue), edit(queue)
    with working(place, queue, monkeypatch, LONG):
        at_work(queue, job)
        queue.cancel(job.id)
        wait(lambda: state(queue, job) == "cancelled")
        assert not place.job(job.id).exists()
        wait(lambda: state(queue, after) == "running")  # the next one's turn


def test_what_does_not_stop_is_killed(place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PATIENCE", 0.3)
    job = edit(queue)
    with working(place, queue, monkeypatch, STUBBORN):
        at_work(queue, job)
        queue.pause(job.id)
        wait(lambda: state(queue, job) == "paused")


def test_a_server_that_is_stopped_lets_the_next_one_go_on(
    place: Place, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = edit(queue)
    with working(place, queue, monkeypatch, LONG):
        at_work(queue, job)
    assert state(queue, job) == "waiting"
    with working(place, queue, monkeypatch, GOOD):
        wait(lambda: state(queue, job) == "done")


def test_a_server_that_was_killed_is_recovered_from(place: Place, queue: Queue) -> None:
    """The process that it left, which holds the workspace, is ended; one that has its number by chance is not."""
    jobs = [edit(queue, str(i)) for i in range(4)]
    for job, left in zip(jobs, ("running", "pausing", "cancelling", "running"), strict=True):
        queue.move(job.id, left, "waiting")
    orphan, stranger = (subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2))
    queue.tell(jobs[0].id, pid=orphan.pid, born=psutil.Process(orphan.pid).create_time())
    queue.tell(jobs[3].id, pid=stranger.pid, born=1.0)
    reaper = threading.Thread(target=orphan.wait)
    reaper.start()
    Worker(place, queue).recover()
    reaper.join(20)
    assert orphan.returncode is not None and stranger.poll() is None
    stranger.kill()
    stranger.wait()
    assert [state(queue, job) for job in jobs] == ["waiting", "paused", "cancelled", "waiting"]


def test_a_prompt_is_never_an_option(queue: Queue, place: Place) -> None:
    """What looks like an option, in a real run of the command line, is a prompt that the miniature cannot read."""
    job = edit(queue, "--out=/tmp/elsewhere.mp4", steps=4, seed=3)
    write_settings(job, place)
    command = command_of(job, place)
    assert command[-3] == "--" and command[-1] == job.prompt and command[-2] == str(place.video(VIDEO) / "video")
    assert EditConfig.load(place.job(job.id) / "config.yaml").set_fields() == {"steps": 4, "seed": 3}
    place.video(VIDEO).mkdir()
    film(place.video(VIDEO) / "video.mp4").rename(place.video(VIDEO) / "video")
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 2 and "knows no word of this prompt" in done.stderr
    assert not Path("/tmp/elsewhere.mp4").exists()


# -- what is taken in -------------------------------------------------------------------------------------------------


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def receive(taken_in: Library, content: bytes, promised: int | None = None) -> Path:
    return asyncio.run(taken_in.receive(pieces(content), promised))


@pytest.fixture
def taken_in(place: Place, queue: Queue) -> Library:
    return Library(place, queue, 1_000_000)


def test_a_video_is_looked_at_and_kept_under_a_name_of_the_servers(
    taken_in: Library, place: Place, queue: Queue, tmp_path: Path
) -> None:
    content = film(tmp_path / "a.mp4").read_bytes()
    video = taken_in.accept(receive(taken_in, content), "../../etc/Meine Ferien.mp4")
    assert video.name == "Meine Ferien.mp4" and re.fullmatch("[0-9a-f]{16}", video.id)
    assert (video.about["frames"], video.about["width"], video.about["height"]) == (6, 64, 48)
    assert (place.video(video.id) / "video").read_bytes() == content
    assert sorted(p.name for p in place.video(video.id).iterdir()) == ["strip.jpg", "video"]
    assert queue.video(video.id) == video
    found = place.media(video.id, "strip.jpg")
    assert found and found[1] == "image/jpeg"
    assert place.media(video.id, "video") is None  # what was sent is never sent back


def test_an_upload_ends_where_it_becomes_too_large(taken_in: Library, place: Place) -> None:
    sent = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            sent.append(1)
            yield bytes(100_000)

    with pytest.raises(TooLargeError, match=r"larger than 1\.0 MB"):
        asyncio.run(taken_in.receive(endless(), None))
    assert len(sent) == 11 and not list((place.root / "videos").iterdir())
    with pytest.raises(TooLargeError):
        receive(taken_in, b"", promised=10**13)
    assert not list((place.root / "videos").iterdir())


def test_a_full_disk_refuses_uploads(taken_in: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "SPARE", 1 << 62)
    with pytest.raises(TooLargeError, match="no room"):
        receive(taken_in, b"x")


def test_what_a_killed_upload_left_is_removed(taken_in: Library, place: Place, queue: Queue) -> None:
    folder = receive(taken_in, b"half of")
    assert folder.exists()
    Library(place, queue, 1000)
    assert not folder.exists()


@given(st.text(max_size=300))
def test_shown_names_are_one_short_line_of_what_can_be_seen(name: str) -> None:
    shown = shown_name(name)
    assert 0 < len(shown) <= library.LONGEST_NAME
    assert shown.isprintable() and "/" not in shown and "\\" not in shown


def test_a_look_that_takes_too_long_is_given_up(
    taken_in: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "LOOK_SECONDS", 0.01)
    with pytest.raises(InputError, match="takes too long"):
        taken_in.accept(receive(taken_in, film(tmp_path / "a.mp4").read_bytes()), "a.mp4")


def test_samples_are_rendered_once(taken_in: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "SAMPLE_FRAMES", 3)
    first = taken_in.sample("pan-3")
    assert taken_in.sample("pan-3").id == first.id and first.about["frames"] == 3
    with pytest.raises(InputError, match="no such sample"):
        taken_in.sample("../../etc/passwd")


def files(place: Place, queue: Queue, video: str) -> list[Path]:
    """A finished edit's folder, and its video's."""
    job = queue.add("edit", video, "a blue car", "miniature", {})
    queue.move(job.id, "done", "waiting")
    made = [place.job(job.id) / "edited.mp4", place.video(video) / "video"]
    for file in made:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"film")
    return made


def workspace(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADAFLOW_CACHE", str(place.root.parent / "cache"))
    root = default_root(str(ABOUT["fingerprint"]))
    Workspace.open(root, {"video": ABOUT["fingerprint"]}).close()
    return root


def test_a_video_goes_with_its_jobs_its_files_and_its_workspace(
    place: Place, queue: Queue, taken_in: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, made = workspace(place, monkeypatch), files(place, queue, VIDEO)
    queue.add_video("f" * 16, "b.mp4", ABOUT | {"fingerprint": "1" * 64})
    others = files(place, queue, "f" * 16)
    waiting = edit(queue)
    video = queue.video(VIDEO)
    assert video and taken_in.remove(video) == "Deleted: a.mp4."
    assert queue.video(VIDEO) is None and queue.find(waiting.id) is None and queue.jobs(video=VIDEO) == []
    assert not any(file.parent.exists() for file in made) and not root.exists()
    assert all(file.exists() for file in others) and len(queue.jobs(video="f" * 16)) == 1
    assert not list(place.root.glob("*/.*"))
    with pytest.raises(InputError, match="not here any more"):
        taken_in.remove(video)
    with pytest.raises(InputError, match="not here any more"):
        edit(queue)


@pytest.mark.parametrize("state", ["running", "pausing", "cancelling"])
def test_a_video_that_is_worked_on_stays_whole(
    place: Place, queue: Queue, taken_in: Library, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    root, made = workspace(place, monkeypatch), files(place, queue, VIDEO)
    queue.move(edit(queue).id, state, "waiting")
    video = queue.video(VIDEO)
    assert video
    with pytest.raises(InputError, match="worked on; cancel that first"):
        taken_in.remove(video)
    assert all(file.exists() for file in made) and root.exists() and len(queue.jobs()) == 2


def test_a_workspace_that_somebody_needs_stays(
    place: Place, queue: Queue, taken_in: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workspace(place, monkeypatch)
    same = queue.add_video("e" * 16, "again.mp4", ABOUT)
    video = queue.video(VIDEO)
    assert video and "another video here has the same content" in taken_in.remove(video) and root.exists()
    with Workspace.open(root, {"video": ABOUT["fingerprint"]}):
        assert "a command line is using it" in taken_in.remove(same) and root.exists()


def test_a_link_in_a_videos_place_is_not_followed(
    place: Place, queue: Queue, taken_in: Library, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"mine")
    place.video(VIDEO).symlink_to(tmp_path / "mine")
    video = queue.video(VIDEO)
    assert video and taken_in.remove(video) and (tmp_path / "mine" / "file").read_bytes() == b"mine"


def test_what_a_killed_server_had_not_removed_is_removed_by_the_next(place: Place, queue: Queue) -> None:
    for folder in ("videos", "jobs"):
        (place.root / folder / f".{VIDEO}").mkdir()
    Library(place, queue, 1000)
    assert not list(place.root.glob("*/.*"))


# -- clips while thresholds move --------------------------------------------------------------------------------------


def analysis(tmp_path: Path, shape: tuple[int, int, int, int], shots: int, config: KeyframeConfig) -> timeline.Analysis:
    """Features of shots that wander away from their first frame, in a file as the workspace has them."""
    n, h, w, d = shape
    generator = torch.Generator().manual_seed(7)
    frames = []
    for i in range(n):
        if i % (n // shots) == 0:
            base = torch.randn(h, w, d, generator=generator)
            base = torch.nn.functional.avg_pool2d(base.permute(2, 0, 1)[None], 5, 1, 2)[0].permute(1, 2, 0)
            away = torch.randn(h, w, d, generator=generator) * 0.02
        frames.append(base + away * (i % (n // shots)) / 4)
    features = torch.stack(frames).half()
    file = tmp_path / "features.bin"
    file.write_bytes(features.numpy().tobytes())
    found, scores = partition_with_scores(iter(features), config)
    return timeline.Analysis(file, shape, found, scores, config)


SHORT = KeyframeConfig(mean_threshold=0.9, window_threshold=0.7, both_directions=True).completed()


def test_the_small_copy_of_a_small_grid_is_the_features_themselves(tmp_path: Path) -> None:
    """At the miniature's grid nothing is averaged or cut, so that moving shows what is exact."""
    made = analysis(tmp_path, (24, 16, 28, 64), 3, SHORT)
    sketch = timeline.make_sketch(made)
    assert sketch.square == 1 and sketch.features.shape == made.shape and sketch.shift == (0.0, 0.0)
    for mean in (0.5, 0.9, 0.97, 0.999):
        config = replace(SHORT, mean_threshold=mean)
        found, scores = sketch.divide(config)
        exact, exactly = timeline.divide_exactly(made, config)
        assert found == exact and torch.equal(scores, exactly)
        assert timeline.difference(found, exact) == "the same clips as shown while moving"


def test_the_small_copy_of_a_large_grid_is_small_and_finds_the_cuts(tmp_path: Path) -> None:
    made = analysis(tmp_path, (18, 48, 40, 96), 3, SHORT)
    sketch = timeline.make_sketch(made)
    n, h, w, d = sketch.features.shape
    assert (n, d) == (18, timeline.DEPTH) and h * w <= timeline.TOKENS and sketch.square == 2
    found, scores = sketch.divide(SHORT)
    assert {0, 6, 12} <= set(found.starts)
    inside = [i for i in range(18) if i % 6]
    assert (scores - made.scores)[inside].abs().median() < 0.05


class Slowly:
    """In place of `divide_exactly`: goes on frame by frame as it is let, and counts how often it began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.begun = threading.Semaphore(0), 0
        monkeypatch.setattr(finder, "divide_exactly", self)

    def __call__(
        self, made: timeline.Analysis, config: KeyframeConfig, on_frame: Callable[[int], None]
    ) -> tuple[Partition, torch.Tensor]:
        self.begun += 1
        for i in range(made.shape[0]):
            while not self.gate.acquire(timeout=0.05):
                on_frame(i)
            on_frame(i + 1)
        return timeline.divide_exactly(made, config)


@pytest.fixture
def finding() -> Iterator[finder.Finder]:
    made = finder.Finder()
    yield made
    made.close()


def test_exact_clips_are_found_beside_those_who_wait(
    finding: finder.Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, slowly = analysis(tmp_path, (12, 6, 8, 16), 3, SHORT), Slowly(monkeypatch)
    assert finding.ask(made, SHORT, 0.01) == 0.0
    for _ in range(6):
        slowly.gate.release()
    wait(lambda: finding.ask(made, SHORT, 0.0) == 0.5)
    for _ in range(6):
        slowly.gate.release()
    for _ in range(2):  # the second time it is known
        answer = finding.ask(made, SHORT, 20.0)
        assert isinstance(answer, tuple) and answer[0] == made.partition and torch.equal(answer[1], made.scores)
    assert slowly.begun == 1


def test_what_nobody_asks_any_more_makes_room_for_what_is_asked(
    finding: finder.Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself it goes on: a browser asks seldom for pages that are not seen."""
    monkeypatch.setattr(finder, "FORGOTTEN", 0.1)
    made, slowly = analysis(tmp_path, (12, 6, 8, 16), 3, SHORT), Slowly(monkeypatch)
    other = replace(SHORT, mean_threshold=0.95)
    finding.ask(made, SHORT, 0.3)
    slowly.gate.release()
    wait(lambda: finding.ask(made, SHORT, 0.3) == 1 / 12)
    assert slowly.begun == 1

    def answered() -> bool:
        slowly.gate.release()
        answer = finding.ask(made, other, 0.05)
        return isinstance(answer, tuple) and answer[0] == timeline.divide_exactly(made, other)[0]

    wait(answered)
    assert slowly.begun == 2 and isinstance(finding.ask(made, SHORT, 0.0), float)  # begun anew
    wait(lambda: slowly.begun == 3)


def test_what_is_exact_stands_aside_for_what_is_wanted_at_once(finding: finder.Finder, tmp_path: Path) -> None:
    made = analysis(tmp_path, (12, 6, 8, 16), 3, SHORT)
    with finding.aside(), finding.aside():
        assert finding.ask(made, SHORT, 0.3) == 1 / 12
    assert isinstance(finding.ask(made, SHORT, 20.0), tuple)


def test_features_that_are_gone_are_looked_for_again(finding: finder.Finder, tmp_path: Path) -> None:
    made = analysis(tmp_path, (12, 6, 8, 16), 3, SHORT)
    content = made.features.read_bytes()
    made.features.unlink()
    for _ in range(2):
        with pytest.raises((OSError, AdaFlowError)):
            finding.ask(made, SHORT, 20.0)
    made.features.write_bytes(content)
    assert isinstance(finding.ask(made, SHORT, 20.0), tuple)


def test_no_more_answers_are_kept_than_are_moved_among(finding: finder.Finder, tmp_path: Path) -> None:
    made = analysis(tmp_path, (6, 4, 4, 8), 2, SHORT)
    for i in range(3 * finder.KEPT):
        finding.ask(made, replace(SHORT, mean_threshold=i / 100), 20.0)
    assert len(finding._answers) == len(finding._asked) == len(finding._done) <= finder.KEPT + 1


def test_a_page_shows_what_is_about_right_until_the_exact_clips_are_there(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adaflow.studio import desk as room

    desk, made = room.Desk(place, 1000), analysis(tmp_path, (12, 6, 8, 16), 3, SHORT)
    video = desk.queue.add_video("e" * 16, "a.mp4", ABOUT)
    place.video(video.id).mkdir()
    desk.queue.tell_video(
        video.id, looked={"job": "", "model": "miniature", **timeline.keep(made, place.video(video.id))}
    )
    video = desk.video(video.id)
    looked = desk.looked(video)
    assert looked and looked.exact and (looked.found, looked.low) == (made.partition, (0.9, 0.7))
    assert looked.config.longest_clip == SHORT.longest_clip
    monkeypatch.setattr(desk, "_analysis", lambda video: made)
    monkeypatch.setattr(room, "WAIT", 0.05)
    slowly = Slowly(monkeypatch)
    live = desk.moving(video, 0.95, 0.7, "miniature", {})
    for _ in range(6):
        slowly.gate.release()
    asked = video, 0.95, 0.7, "miniature", {}
    halfway = wait(lambda: next((s for s in [desk.exact(*asked, live)] if s and "50 %" in s.said), None))
    assert live and isinstance(halfway, room.Shown) and not halfway.exact
    assert halfway.said == "About; the exact ones are being found: 50 %." and halfway.found == live.found
    other = desk.exact(*asked, looked)  # what is shown is of other thresholds
    assert other and (other.low, other.exact, other.found) == ((0.95, 0.7), False, live.found)
    for _ in range(6):
        slowly.gate.release()
    exact = wait(lambda: next((s for s in [desk.exact(*asked, halfway)] if s and s.exact), None))
    assert isinstance(exact, room.Shown) and exact.said == "Exact: the same clips as shown while moving."
    desk.stop()


def test_a_sketch_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = replace(timeline.make_sketch(analysis(tmp_path, (4, 6, 8, 80), 2, SHORT)), shift=(0.125, -0.25))
    made.save(tmp_path / "sketch.safetensors")
    read = timeline.Sketch.load(tmp_path / "sketch.safetensors")
    assert read and torch.equal(read.features, made.features)
    assert (read.square, read.full, read.shift) == (made.square, made.full, made.shift)
    assert timeline.Sketch.load(tmp_path / "none") is None


def test_thresholds_are_moved_by_what_the_small_copy_is_off(tmp_path: Path) -> None:
    made = timeline.Sketch(torch.zeros(1, 2, 2, 1), 3, (48, 84), (0.1, -0.05))
    config = made.config(replace(SHORT, mean_threshold=0.75, window_threshold=0.98))
    assert config.mean_threshold == pytest.approx(0.65) and config.window_threshold == 1.0
    assert (config.window, config.stride) == (2, 1)  # 5 and 2 tokens of the full grid


@pytest.mark.parametrize(
    ("about", "exact", "words"),
    [
        ([0, 5], [0, 5], "the same clips as shown while moving"),
        ([0], [0, 5], "1 clip start (frame 5) more than shown while moving"),
        ([0, 5, 7], [0], "2 clip starts (frame 5, 7) fewer"),
        ([0, 5], [0, 6], "1 clip start (frame 6) more than shown while moving, 1 clip start (frame 5) fewer"),
    ],
)
def test_differences_are_said_in_words(about: list[int], exact: list[int], words: str) -> None:
    assert timeline.difference(Partition.from_starts(about, 9), Partition.from_starts(exact, 9)) == words


# -- settings and pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["miniature", "sd21"])
@pytest.mark.parametrize("preset", [name for _, name in controls.PRESETS])
def test_controls_at_their_defaults_set_nothing(model: str, preset: str) -> None:
    usual = controls.defaults(model, preset, "")
    assert all(usual[control.name] is not None for control in controls.CONTROLS)
    asked = controls.chosen(list(usual.values()), model, preset, "")
    assert asked == ({} if preset == "default" else {"preset": preset})


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_settings_of_a_job_come_back_into_the_controls(data: st.DataObject) -> None:
    values: list[Any] = []
    for control in controls.CONTROLS:
        if control.choices:
            values.append(data.draw(st.sampled_from([name for _, name in control.choices])))
        elif control.low is None or control.high is None:
            values.append(data.draw(st.text(max_size=20)))
        else:
            whole = controls.typed(control.name, control.low)
            low, high = int(control.low), int(control.high)
            values.append(
                data.draw(st.integers(low, high)) if isinstance(whole, int) else data.draw(st.floats(low, high))
            )
    kind = data.draw(st.sampled_from([name for _, name in controls.kinds_of("miniature")]))
    asked = controls.chosen(values, "miniature", "default", kind)
    preset, again, back = controls.values_of(asked, "miniature")
    assert (preset, again) == ("default", kind)
    assert controls.chosen(back, "miniature", preset, again) == asked


def test_every_control_says_what_it_is_for_and_lies_within_what_is_allowed() -> None:
    known = dict(EditConfig._known())
    for control in controls.CONTROLS:
        field = known[control.name]
        assert control.label and control.info.endswith(".")
        for value in (control.low, control.high):
            low, high = field.metadata["low"], field.metadata["high"]
            assert value is None or ((low is None or value >= low) and (high is None or value <= high))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, -1, "12; rm -rf /", [1], {"path": "/etc/passwd"}])
def test_values_that_are_none_are_refused_in_a_sentence(value: Any) -> None:
    values = list(controls.defaults("miniature", "default", "").values())
    values[[c.name for c in controls.CONTROLS].index("guidance_scale")] = value
    with pytest.raises(ConfigError, match="guidance_scale"):
        controls.chosen(values, "miniature", "default", "")


def test_whatever_comes_from_outside_is_escaped() -> None:
    """Names, prompts, errors and notes; also what gradio's templates would take for their own."""
    video = Video(VIDEO, NASTY, 0.0, ABOUT)
    job = Job("fedcba9876543210", "edit", VIDEO, NASTY, "miniature", {"negative_prompt": NASTY}, "failed", 0.0)
    job = replace(job, error=NASTY, progress={"notes": [NASTY], "stages": {"edit": [1, 2]}})
    found = Partition((Clip(0, 4), Clip(4, 10)))
    views = [
        drawing.about_video(video),
        drawing.timeline(video, found, [[1.0, 1.0]] * 10, THRESHOLDS, NASTY),
        drawing.progress(job, video, 2),
        drawing.preview(replace(job, kind="preview", state="done")),
        drawing.compare(job, video),
        drawing.history([job], {VIDEO: video}, None),
        drawing.unknown({NASTY: [NASTY]}),
        drawing.note(NASTY),
    ]
    for view in views:
        assert "alert(1)" in view
        for raw in ("<script", "${", "{{", "alert(1)</", "\" '"):
            assert raw not in view


def test_the_timeline_says_its_clips_in_words() -> None:
    video = Video(VIDEO, "a.mp4", 0.0, ABOUT)
    view = drawing.timeline(video, Partition((Clip(0, 4), Clip(4, 10))), [[1.0, 0.5]] * 10, THRESHOLDS, "")
    assert "2 clips of 4 to 6 frames; 2 keyframes are edited together at every step" in view
    assert "4–9 (6)" in view and "clips start at frames 0, 4" in view


def test_the_timeline_is_the_figure_of_the_reports_in_the_colours_of_the_page() -> None:
    """Drawn for a desk and for a telephone; whatever ground the page has, its stylesheet says the colours."""
    video, found = Video(VIDEO, "a.mp4", 0.0, ABOUT), Partition((Clip(0, 4), Clip(4, 10)))
    scores = [[1.0, 0.5]] * 10
    view = drawing.timeline(video, found, scores, THRESHOLDS, "")
    curves = re.findall(r"<svg.*?</svg>", view, re.DOTALL)
    assert [re.search(r'class="curves (\w+)"', one)[1] for one in curves] == ["desk", "telephone"]  # type: ignore[index]
    for one, width in zip(curves, (9.0, 3.9), strict=True):
        figure = figures.similarity_curves(scores, found, THRESHOLDS, width=width, height=drawing.CURVES)
        paths = [" ".join(found.split()) for found in re.findall(r' d="(.*?)"', one, re.DOTALL)]
        same = [" ".join(d.split()) for d in re.findall(r' d="(.*?)"', figures.svg(figure).decode(), re.DOTALL)]
        assert len(paths) > 20 and paths == same
        assert 'role="img"' in one and "clips start at frames 0, 4" in one.split(">")[0]
        assert not re.search("#[0-9a-f]{6}|<style|<script|[{}`$]", one)
        assert {"var(--figure-first)", "var(--figure-second)", "var(--figure-pale)"} <= set(
            re.findall(r"var\([^)]*\)", one)
        )
    sheet = layout.stylesheet()
    assert f"--figure-first: {figures.LIGHT.first}" in sheet and f"--figure-first: {figures.DARK.first}" in sheet


# -- progress for programs --------------------------------------------------------------------------------------------


def test_lines_of_json_tell_of_every_stage_and_of_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("adaflow.meter.time.monotonic", lambda: now[0])
    text = io.StringIO()
    with JsonMeter(Console(file=text, soft_wrap=True)) as meter:
        estimate = Estimate(3, {"invert": 50.0, "edit": 100.0}, 1, 2, 3)
        meter.expect(estimate)
        for stage, seconds in (("invert", 1.0), ("edit", 2.0)):  # twice as fast as expected, then as expected
            for done in range(1, 51):
                now[0] += seconds / 2 if stage == "invert" else seconds
                meter(Progress(stage, done, 50))
    lines = [json.loads(line) for line in text.getvalue().splitlines()]
    assert lines[0] == {
        "event": "estimate",
        "estimate": Estimate(3, {"invert": 50.0, "edit": 100.0}, 1, 2, 3).to_json(),
    }
    assert {line["event"] for line in lines[1:]} == {"progress"}
    at = {(line["stage"], line["done"]): line["seconds_left"] for line in lines[1:]}
    assert at["invert", 25] == pytest.approx((25 / 49 * 50 + 100 + 0.5) * 0.5, rel=0.05)
    assert at["edit", 50] == 0


def test_a_resumed_run_counts_only_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an inversion done to 80 % by an earlier run, 10 s are left, as the estimate said."""
    now = [0.0]
    monkeypatch.setattr("adaflow.meter.time.monotonic", lambda: now[0])
    text = io.StringIO()
    with JsonMeter(Console(file=text, soft_wrap=True)) as meter:
        meter.expect(Estimate(3, {"invert": 10.0}, 1, 2, 3))
        for done in range(80, 101):
            meter(Progress("invert", done, 100))
            now[0] += 0.5
    lines = [json.loads(line) for line in text.getvalue().splitlines()][1:]
    assert lines[0]["seconds_left"] == pytest.approx(10.0)
    assert next(x for x in lines if x["done"] == 90)["seconds_left"] == pytest.approx(5.0)


def test_another_word_for_progress_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "in.mp4", n=2)
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(tmp_path / "in.mp4"), "--progress", "loud"])
    assert end.value.code == 2 and "--progress is 'loud'; it must be one of bar, json" in capsys.readouterr().err
