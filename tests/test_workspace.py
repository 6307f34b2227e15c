"""Facts about the workspace: what is claimed is there, whatever kills the process; a refusal is one sentence."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaflow import diskarray
from adaflow.disk import format_bytes
from adaflow.diskarray import DTYPES, DiskArray
from adaflow.errors import AdaFlowError, ResourceError, WorkspaceError
from adaflow.workspace import (
    Stage,
    Workspace,
    cache_folder,
    default_root,
    list_workspaces,
    prune_workspaces,
    workspace_info,
)

IDENTITY = {"content": "abc", "size": {"height": 384, "width": 672}}
KEY = {"steps": 50, "model": "sd21"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def workspace(root: Path) -> Iterator[Workspace]:
    with Workspace.open(root, IDENTITY) as workspace:
        yield workspace


def refusal(kind: type[AdaFlowError], call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """The message of the refusal, which is one sentence in one line."""
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and ". " not in message and "Traceback" not in message
    return message


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a child process; its PID. An exception there becomes exit code 1."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- arrays


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_an_array_gives_back_what_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    """In every type, by rows, by gathering and through a view of one row; what was never written is zero."""
    values = torch.arange(5 * 4 * 3).reshape(5, 4, 3).to(dtype)
    array = DiskArray.create(tmp_path / "a.bin", values.shape, dtype)
    array.write(1, values[1:4])
    array.write(4, values[4:])
    values[0] = 0
    assert torch.equal(array.read(), values)
    assert torch.equal(array.read(2, 4), values[2:4])
    assert torch.equal(array.rows([4, 0, 1, 1, 2]), values[[4, 0, 1, 1, 2]])
    assert torch.equal(array.sub(3).read(1), values[3, 1:])
    assert torch.equal(array.sub(3).rows(torch.tensor([3, 0])), values[3, [3, 0]])
    array.sub(2).sub(1).write(0, values[1, 1])
    assert torch.equal(array.read(2, 3)[0, 1], values[1, 1])
    array.close()
    assert torch.equal(DiskArray.open(tmp_path / "a.bin", values.shape, dtype).sub(4).read(), values[4])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_sequence_of_calls_is_as_with_a_tensor(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Reads, writes (strided, cast) and gathers agree with a tensor in memory, at any block size."""
    shape = tuple(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3), label="shape"))
    truth = torch.zeros(shape, dtype=torch.float16)
    array = DiskArray.create(tmp_path_factory.mktemp("a") / "a.bin", shape, torch.float16)
    block = data.draw(st.sampled_from([1, 7, 64]), label="block")
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diskarray, "BLOCK", block)
        for _ in range(data.draw(st.integers(1, 5), label="calls")):
            start = data.draw(st.integers(0, shape[0]), label="start")
            stop = data.draw(st.integers(start, shape[0]), label="stop")
            rows = torch.randn((stop - start, *shape[1:], 2), generator=generator)[..., 0]
            array.write(start, rows)
            truth[start:stop] = rows
            assert torch.equal(array.read(start, stop), truth[start:stop])
            chosen = data.draw(st.lists(st.integers(0, shape[0] - 1)), label="rows") if shape[0] else []
            assert torch.equal(array.rows(chosen), truth[chosen])
            assert torch.equal(array.read(), truth)


REFUSED: dict[str, tuple[type[Exception], Callable[[DiskArray], object]]] = {
    "beyond the end": (IndexError, lambda a: a.read(2, 5)),
    "backwards": (IndexError, lambda a: a.read(3, 2)),
    "negative": (IndexError, lambda a: a.read(-1)),
    "a row beyond": (IndexError, lambda a: a.rows([0, 4])),
    "a negative row": (IndexError, lambda a: a.rows([-1])),
    "a mask": (TypeError, lambda a: a.rows(torch.tensor([True, False, True, True]))),
    "indices that are no ints": (TypeError, lambda a: a.rows([1.0])),
    "too many rows": (IndexError, lambda a: a.write(3, torch.zeros(2, 3, dtype=torch.uint8))),
    "another shape": (ValueError, lambda a: a.write(0, torch.zeros(1, 4, dtype=torch.uint8))),
    "one row without its axis": (ValueError, lambda a: a.write(0, torch.zeros(3, dtype=torch.uint8))),
    "floats as integers": (TypeError, lambda a: a.write(0, torch.zeros(1, 3))),
    "out of range": (ValueError, lambda a: a.write(0, torch.full((1, 3), 256))),
    "rows of a row of scalars": (ValueError, lambda a: a.sub(0).sub(0)),
    "a row that is not there": (IndexError, lambda a: a.sub(4)),
}


@pytest.mark.parametrize(("error", "call"), REFUSED.values(), ids=REFUSED)
def test_an_array_refuses(tmp_path: Path, error: type[Exception], call: Callable[[DiskArray], object]) -> None:
    """Misuse is an error at once, and changes nothing."""
    array = DiskArray.create(tmp_path / "a.bin", (4, 3), torch.uint8)
    with pytest.raises(error):
        call(array)
    assert not array.read().any()


def test_types_and_shapes_not_kept_on_disk_are_refused(tmp_path: Path) -> None:
    for error, shape, dtype in [
        (TypeError, (1,), torch.float64),
        (ValueError, (), torch.uint8),
        (ValueError, (-1,), torch.uint8),
    ]:
        with pytest.raises(error):
            DiskArray.create(tmp_path / "a.bin", shape, dtype)
    assert not list(tmp_path.iterdir())


def test_threads_may_write_and_read_at_once(tmp_path: Path) -> None:
    """Eight threads with rows of their own never see another's."""
    array = DiskArray.create(tmp_path / "a.bin", (8, 50, 100), torch.int32)

    def work(thread: int) -> bool:
        mine = array.sub(thread)
        for i in range(50):
            mine.write(i, torch.full((1, 100), 1000 * thread + i))
        array.flush()
        return all(bool((mine.read(i, i + 1) == 1000 * thread + i).all()) for i in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_closing_waits_for_nobody_and_hurts_nobody(tmp_path: Path) -> None:
    """An array closed while threads read either gives right rows or says that it is closed; never another file's."""
    array = DiskArray.create(tmp_path / "a.bin", (64, 64), torch.int64)
    array.write(0, torch.ones(64, 64, dtype=torch.int64))
    started = threading.Barrier(5)

    def read() -> None:
        started.wait()
        with pytest.raises(ValueError, match="is closed"):
            while True:
                assert (array.read() == 1).all()

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        started.wait()
        time.sleep(0.02)
        array.close()
        others = [DiskArray.create(tmp_path / f"{i}.bin", (64, 64), torch.int64) for i in range(5)]
        for reader in readers:
            reader.result(timeout=10)
    array.close()
    del others


def test_an_array_file_cut_short_while_open_is_a_sentence(tmp_path: Path) -> None:
    array = DiskArray.create(tmp_path / "a.bin", (4, 1000), torch.float32)
    os.truncate(tmp_path / "a.bin", 100)
    assert str(tmp_path) in refusal(WorkspaceError, array.read)
    assert "100 bytes" in refusal(WorkspaceError, DiskArray.open, tmp_path / "a.bin", (4, 1000), torch.float32)


def test_a_failed_flush_is_never_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync the kernel drops what it could not write, so a second one that succeeds would be a lie."""
    array = DiskArray.create(tmp_path / "a.bin", (4,), torch.uint8)
    array.write(0, torch.ones(4, dtype=torch.uint8))

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        refusal(WorkspaceError, array.flush)
    refusal(WorkspaceError, array.flush)


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (999_960, "1.0 MB"), (2e15, "2000.0 TB")]
)
def test_bytes_for_people(size: float, words: str) -> None:
    assert format_bytes(size) == words


# --- stages


def test_a_stage_is_found_again_under_its_key(root: Path) -> None:
    """The same name and key, in any order of fields, give the same folder with all it held; others give others."""
    with Workspace.open(root, IDENTITY, describe="car.mp4") as workspace:
        stage = workspace.stage("latents", KEY)
        assert (stage.done, stage.complete) == (0, False)
        stage.array("z", (4, 2), torch.float32).write(0, torch.ones(3, 2))
        stage.write_json("plan", {"rows": 8})
        stage.advance(3)
        assert workspace.stage("latents", dict(reversed(KEY.items()))) is stage
        other = workspace.stage("latents", {**KEY, "steps": 51})
        assert other.folder != stage.folder and other.folder.name.startswith("latents-")
    with Workspace.open(root, IDENTITY) as workspace:
        again = workspace.stage("latents", KEY)
        assert (again.name, again.key, again.folder) == ("latents", KEY, stage.folder)
        assert (again.done, again.complete) == (3, False)
        assert torch.equal(again.existing("z").read(), torch.tensor([[1.0, 1], [1, 1], [1, 1], [0, 0]]))
        assert again.array("z", (4, 2), torch.float32) is again.existing("z")
        assert again.read_json("plan") == {"rows": 8}
        assert again.read_json("none", default=7) == 7
        assert workspace.manifest["describe"] == "car.mp4"


def test_a_complete_stage_does_not_change(root: Path) -> None:
    """Its arrays are read-only and its count stands, also after reopening; a record may still be added."""
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("features", KEY)
        array = stage.array("f", (2, 2), torch.float16)
        array.write(0, torch.ones(2, 2))
        stage.advance(2)
        stage.finish()
        stage.finish()
        with pytest.raises(ValueError, match="read-only"):
            array.write(0, torch.zeros(2, 2))
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("features", KEY)
        assert stage.complete and stage.done == 2
        stage.write_json("record", [1])
        with pytest.raises(ValueError, match="read-only"):
            stage.existing("f").write(0, torch.zeros(2, 2))
        with pytest.raises(ValueError, match="in all"):
            stage.advance(3)
        assert "delete" in refusal(WorkspaceError, stage.array, "new", (1,), torch.uint8)
        assert "delete" in refusal(WorkspaceError, stage.existing, "new")
        assert stage.existing("f").read().sum() == 4


def test_an_array_of_another_shape_or_type_is_refused(workspace: Workspace) -> None:
    stage = workspace.stage("features", KEY)
    stage.array("f", (2, 2), torch.float16)
    assert "(3, 2)" in refusal(WorkspaceError, stage.array, "f", (3, 2), torch.float16)
    assert "bfloat16" in refusal(WorkspaceError, stage.array, "f", (2, 2), torch.bfloat16)


def test_finished_units_do_not_become_fewer(workspace: Workspace) -> None:
    stage = workspace.stage("features", KEY)
    stage.advance(2)
    stage.advance(2)
    with pytest.raises(ValueError):
        stage.advance(1)
    assert stage.done == 2


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101])
def test_names_stay_within_the_workspace(workspace: Workspace, name: str) -> None:
    stage = workspace.stage("ok", {})
    for call in [
        lambda: workspace.stage(name, {}),
        lambda: stage.array(name, (1,), torch.uint8),
        lambda: stage.write_json(name, 1),
        lambda: stage.write_json("stage", 1),
    ]:
        with pytest.raises(ValueError):
            call()


def test_a_discarded_stage_begins_anew(workspace: Workspace) -> None:
    """It is gone from the disk; who still reads an array of it may."""
    stage = workspace.stage("edit", KEY)
    array = stage.array("z", (2,), torch.uint8)
    array.write(0, torch.tensor([1, 2]))
    stage.advance(2)
    stage.discard()
    stage.discard()
    assert not stage.folder.exists() and workspace.stages() == []
    assert array.read().tolist() == [1, 2]
    with pytest.raises(ValueError, match="discarded"):
        stage.advance(3)
    with pytest.raises(ValueError, match="read-only"):
        array.write(0, torch.tensor([3]))
    again = workspace.stage("edit", KEY)
    assert again is not stage and again.done == 0
    assert again.array("z", (2,), torch.uint8).read().tolist() == [0, 0]


def test_after_closing_arrays_can_be_read_but_nothing_else(root: Path) -> None:
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("edit", KEY)
        array = stage.array("z", (2,), torch.uint8)
    workspace.close()
    assert array.read().tolist() == [0, 0]
    for call in [
        lambda: workspace.stage("edit", KEY),
        lambda: stage.advance(1),
        lambda: stage.array("z", (2,), torch.uint8),
        lambda: array.write(0, torch.ones(1, dtype=torch.uint8)),
        lambda: workspace.prune([]),
    ]:
        with pytest.raises(ValueError):
            call()


def test_data_reaches_the_disk_before_the_count_that_claims_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`advance` syncs the arrays, then the new stage.json, then renames it, then syncs the folder."""
    stage = workspace.stage("edit", KEY)
    array = stage.array("z", (4,), torch.uint8)
    closed = stage.array("y", (4,), torch.uint8)
    events: list[str] = []

    def spy(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any) -> object:
            path = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else os.fspath(args[0])
            events.append(f"{name} {Path(path).name}")
            return real(*args)

        monkeypatch.setattr(os, name, call)

    for name in ("fdatasync", "fsync", "replace"):
        spy(name)
    array.write(0, torch.ones(2, dtype=torch.uint8))
    closed.write(0, torch.ones(2, dtype=torch.uint8))
    closed.close()
    stage.advance(1)
    count = ["fsync .stage.json.new", "replace .stage.json.new", f"fsync {stage.folder.name}"]
    assert events == ["fdatasync y.bin", "fdatasync z.bin", *count]
    events.clear()
    stage.advance(2)  # nothing was written since
    assert events == count


def test_space_is_reserved_when_an_array_is_made(workspace: Workspace) -> None:
    array = workspace.stage("edit", KEY).array("z", (1 << 20,), torch.float32)
    assert array.path.stat().st_size == array.nbytes == 1 << 22
    probe = array.path.with_name("probe")
    with open(probe, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 22)
    if probe.stat().st_blocks * 512 < 1 << 22:
        pytest.skip("this file system reserves nothing")  # whoever asks: then nothing can be seen of our asking either
    assert array.path.stat().st_blocks * 512 >= 1 << 22


# --- opening


def test_another_identity_is_refused_with_the_difference(root: Path) -> None:
    Workspace.open(root, IDENTITY).close()
    message = refusal(WorkspaceError, Workspace.open, root, {"content": "xyz", "size": {"height": 384}, "fps": 24})
    assert 'content is "abc" there and "xyz" here' in message
    assert "size.width is 672 there and not set here" in message
    assert "fps is not set there and 24 here" in message
    assert "height" not in message and str(root) in message
    Workspace.open(root, IDENTITY).close()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    assert "not empty" in refusal(WorkspaceError, Workspace.open, tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "is a file" in refusal(WorkspaceError, Workspace.open, tmp_path / "thesis.tex", IDENTITY)
    refusal(WorkspaceError, Workspace.open, tmp_path / "thesis.tex" / "x", IDENTITY)


@pytest.mark.parametrize("leftover", [[], ["lock"], ["lock", ".manifest.json.new"]])
def test_an_empty_folder_or_a_begun_workspace_is_taken(root: Path, leftover: list[str]) -> None:
    root.mkdir()
    for name in leftover:
        (root / name).write_text("")
    Workspace.open(root, IDENTITY).close()
    assert workspace_info(root).problem is None


@pytest.mark.parametrize(
    ("version", "word"), [(0, "an older"), (2, "a newer"), ("one", "no format"), (None, "no format")]
)
def test_another_format_is_refused(root: Path, version: object, word: str) -> None:
    Workspace.open(root, IDENTITY).close()
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**manifest, "format": version}))
    assert word in refusal(WorkspaceError, Workspace.open, root, IDENTITY)


DAMAGE = {
    "empty": b"",
    "half": b'{"format": 1, "ident',
    "bytes": b"\xff\x00\x80",
    "list": b"[]",
    "null": b"null",
    "fields": b'{"format": 1, "name": "x"}',
    "deep": b"[" * 100_000,
    "digits": b'{"format": ' + b"1" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("file", ["manifest.json", "stage.json", "plan.json"])
def test_a_damaged_file_is_named_with_the_folder_to_delete(root: Path, file: str, content: bytes) -> None:
    """Opening says so in a sentence, the list still works, and deleting what the sentence names helps."""
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("edit", KEY)
        stage.write_json("plan", 1)
    path = root / file if file == "manifest.json" else stage.folder / file
    path.write_bytes(content)

    def use() -> object:
        with Workspace.open(root, IDENTITY) as workspace:
            return workspace.stage("edit", KEY).read_json("plan")

    if file == "plan.json" and content in (b"[]", b"null", DAMAGE["fields"]):
        use()
        return
    message = refusal(WorkspaceError, use)
    assert str(path) in message and f"delete the folder {path.parent} " in message
    info = workspace_info(root)
    assert (info.problem is not None) == (file == "manifest.json")
    assert [stage.state for stage in info.stages] == ["broken" if file == "stage.json" else "begun"]
    subprocess.run(["rm", "-r", path.parent], check=True)
    assert use() is None


@pytest.mark.parametrize("damage", ["short", "long", "missing"])
@pytest.mark.parametrize("complete", [False, True])
def test_a_stage_with_a_cut_array_is_begun_anew(root: Path, damage: str, complete: bool) -> None:
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("edit", KEY)
        stage.array("z", (10,), torch.float32)
        stage.advance(5)
        if complete:
            stage.finish()
    path = stage.folder / "z.bin"
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 39 if damage == "short" else 41)
    assert workspace_info(root).stages[0].state == "broken"
    with Workspace.open(root, IDENTITY) as workspace:
        again = workspace.stage("edit", KEY)
        assert (again.done, again.complete, list(again.folder.iterdir())) == (0, False, [again.folder / "stage.json"])
        assert again.array("z", (10,), torch.float32).read().eq(0).all()


def test_a_second_use_in_this_process_is_refused(root: Path) -> None:
    with Workspace.open(root, IDENTITY):
        assert f"this process (PID {os.getpid()})" in refusal(WorkspaceError, Workspace.open, root, IDENTITY)
    Workspace.open(root, IDENTITY).close()


def test_a_forgotten_workspace_is_let_go(root: Path) -> None:
    Workspace.open(root, IDENTITY)  # never closed, and referred to by nothing
    Workspace.open(root, IDENTITY).close()


HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1] + "/lock", os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
os.pwrite(fd, f"{os.getpid()} {os.uname().nodename}\\n".encode(), 0)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_at_once_and_a_killed_one_lets_go(root: Path) -> None:
    """The refusal names the PID; after SIGKILL the workspace opens though the lock file still names it."""
    Workspace.open(root, IDENTITY).close()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin and holder.stdout
    try:
        assert holder.stdout.readline() == b"held\n"
        begin = time.monotonic()
        assert f"PID {holder.pid}" in refusal(WorkspaceError, Workspace.open, root, IDENTITY)
        assert time.monotonic() - begin < 0.5
        assert workspace_info(root).in_use_by == holder.pid
    finally:
        holder.kill()
        holder.communicate()
    assert workspace_info(root).in_use_by is None
    Workspace.open(root, IDENTITY).close()


def test_one_of_many_processes_gets_a_new_workspace(root: Path) -> None:
    """Eight at once: one opens it, the others are refused in a sentence, none sees it half made."""
    ready, go = os.pipe(), os.pipe()

    def work() -> None:
        os.close(go[1])
        os.write(ready[1], b".")
        os.read(go[0], 1)
        try:
            workspace = Workspace.open(root, IDENTITY)
        except WorkspaceError as error:
            assert "in use" in str(error)
            os._exit(3)
        time.sleep(0.3)
        workspace.close()

    children = [forked(work) for _ in range(8)]
    for _ in children:
        os.read(ready[0], 1)
    os.close(go[1])
    assert sorted(exit_code(child) for child in children) == [0] + [3] * 7


# --- kills


def unit(i: int) -> Tensor:
    return torch.full((2, 300), float(i + 1))


def work_on(root: Path, units: int) -> None:
    """Go on where the workspace says, two arrays a unit, one of them through views."""
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("edit", KEY)
        z, phi = stage.array("z", (units, 2, 300), torch.float32), stage.array("phi", (2, units, 300), torch.int32)
        for i in range(stage.done, units):
            z.write(i, unit(i)[None])
            for half in (0, 1):
                phi.sub(half).write(i, unit(i)[half : half + 1].int())
            stage.write_json("last", {"unit": i})
            stage.advance(i + 1)
        stage.finish()


def check(stage: Stage, units: int) -> int:
    """Every unit that `done` claims is there."""
    if not stage.done:
        return 0
    z, phi = stage.existing("z"), stage.existing("phi")
    for i in range(stage.done):
        assert torch.equal(z.read(i, i + 1)[0], unit(i))
        assert torch.equal(phi.sub(0).read(i, i + 1), unit(i)[:1].int())
    assert stage.read_json("last")["unit"] in (stage.done - 1, stage.done)
    assert not stage.complete or stage.done == units
    return stage.done


def test_after_a_kill_every_claimed_unit_is_there(root: Path) -> None:
    """SIGKILL at random moments, again and again; then the work goes on to its end."""
    generator, units, last = random.Random(0), 60, 0
    for _ in range(15):
        child = forked(lambda: work_on(root, units))
        time.sleep(generator.uniform(0.001, 0.06))
        os.kill(child, signal.SIGKILL)
        assert exit_code(child) in (-signal.SIGKILL, 0)
        with Workspace.open(root, IDENTITY) as workspace:
            done = check(workspace.stage("edit", KEY), units)
        assert done >= last
        last = done
    assert exit_code(forked(lambda: work_on(root, units))) == 0
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("edit", KEY)
        assert stage.complete and check(stage, units) == units


def test_a_kill_while_stages_come_and_go_leaves_whole_ones(root: Path) -> None:
    """Making, finishing, discarding and pruning in a loop: after a kill each stage is whole or absent."""

    def churn() -> None:
        with Workspace.open(root, IDENTITY) as workspace:
            for i in range(10**6):
                stage = workspace.stage(f"s{i % 3}", KEY)
                array = stage.array("a", (3, 1000), torch.uint8)
                stage.array("b", (1,), torch.int64)
                if not stage.complete:
                    array.write(0, torch.full((3, 1000), 7))
                    stage.finish()
                if i % 2:
                    workspace.stage(f"s{(i + 1) % 3}", KEY).discard()
                else:
                    workspace.prune(lambda info: info.name == "s0")

    generator = random.Random(1)
    for _ in range(12):
        child = forked(churn)
        time.sleep(generator.uniform(0.005, 0.08))
        os.kill(child, signal.SIGKILL)
        assert exit_code(child) == -signal.SIGKILL
        with Workspace.open(root, IDENTITY) as workspace:
            assert not [path for path in (root / "stages").iterdir() if path.name.startswith(".")]
            for info in workspace.stages():
                assert info.state != "broken"
                stage = workspace.stage(info.name, KEY)
                if stage.complete:
                    assert stage.existing("a").read().eq(7).all() and stage.existing("b").read().eq(0).all()


# --- disks that are full


def test_space_asked_for_is_compared_with_what_is_free(workspace: Workspace) -> None:
    workspace.reserve(0)
    workspace.reserve(1000)
    message = refusal(ResourceError, workspace.reserve, 10**18)
    assert "1000000.0 TB" in message and "free" in message
    message = refusal(ResourceError, workspace.stage("edit", KEY).array, "z", (1 << 60,), torch.uint8)
    assert "disk is full" in message and "free" in message


def limited(root: Path, size: int) -> None:
    """In a process that may not write files beyond `size` bytes, every failure is a sentence and loses nothing."""
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("edit", KEY)
        array = stage.array("z", (4, size), torch.uint8)
        stage.write_json("plan", "short")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 2, resource.RLIM_INFINITY))
        ones = torch.ones(1, size, dtype=torch.uint8)
        array.write(0, ones)
        stage.advance(1)
        message = refusal(ResourceError, array.write, 1, ones)
        assert "z.bin" in message and "ulimit" in message
        refusal(ResourceError, array.write, 3, ones)
        refusal(ResourceError, stage.write_json, "plan", "long" * size)
        assert stage.read_json("plan") == "short"
        before = set(stage.folder.iterdir())
        assert "ulimit" in refusal(ResourceError, stage.array, "big", (2, size), torch.uint8)
        assert set(stage.folder.iterdir()) == before
        stage.array("small", (size,), torch.uint8)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        refusal(ResourceError, stage.advance, 2)
        before = set(stage.folder.iterdir())
        refusal(ResourceError, stage.array, "nine", (9,), torch.uint8)  # the file fits, its record does not
        assert set(stage.folder.iterdir()) == before
        refusal(ResourceError, stage.finish)
        refusal(ResourceError, workspace.stage, "other", KEY)
        assert stage.done == 1
        assert len(list((root / "stages").iterdir())) == 1


def test_a_file_size_limit_is_a_sentence_and_the_work_goes_on_afterwards(root: Path) -> None:
    """EFBIG under RLIMIT_FSIZE (Python ignores the signal); without the limit the same workspace resumes."""
    assert exit_code(forked(lambda: limited(root, 1 << 16))) == 0
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("edit", KEY)
        assert stage.done == 1 and stage.existing("z").read(0, 1).eq(1).all()
        stage.existing("z").write(1, torch.ones(3, 1 << 16, dtype=torch.uint8))
        stage.advance(4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:  # mounting needs root; test_bad_input.py fills a disk by RLIMIT_FSIZE without it
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")  # which other systems do not have
def test_a_full_disk_is_a_sentence_and_the_work_goes_on_afterwards(small_disk: Path) -> None:
    """ENOSPC: an array is refused before any work; a count that cannot be written stays; pruning helps."""
    root = small_disk / "work"
    with Workspace.open(root, IDENTITY) as workspace:
        stage = workspace.stage("edit", KEY)
        message = refusal(ResourceError, stage.array, "z", (1 << 22,), torch.uint8)
        assert "4.2 MB needed" in message and "are free" in message
        assert [path.name for path in stage.folder.iterdir()] == ["stage.json"]
        array = stage.array("z", (1 << 20,), torch.uint8)
        array.write(0, torch.ones(1 << 20, dtype=torch.uint8))
        stage.advance(1)
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
        array.write(0, torch.full((1 << 20,), 2))  # reserved, so there is room
        refusal(ResourceError, stage.advance, 2)
        refusal(ResourceError, stage.write_json, "plan", "x")
        refusal(ResourceError, workspace.stage, "other", KEY)
        refusal(ResourceError, workspace.reserve, 1 << 20)
        assert stage.done == 1
    with Workspace.open(root, IDENTITY, describe="a disk that is full can be opened and pruned") as workspace:
        assert workspace.stage("edit", KEY).done == 1
        filler.unlink()
        workspace.stage("edit", KEY).advance(2)
    with Workspace.open(root, IDENTITY) as workspace:
        assert workspace.prune([]) >= 1 << 20
        array.close()  # as long as it can be read, it takes its space
        workspace.stage("edit", KEY).array("z", (1 << 20,), torch.uint8)


def test_a_disk_that_cannot_reserve_still_works(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and some file systems have no posix_fallocate."""

    def unsupported(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    array = workspace.stage("edit", KEY).array("z", (5, 2), torch.int16)
    array.write(4, torch.ones(1, 2, dtype=torch.int16))
    assert array.read().sum() == 2
    monkeypatch.delattr(os, "posix_fallocate")
    assert workspace.stage("edit", KEY).array("y", (5,), torch.int16).read().sum() == 0
    refusal(ResourceError, workspace.stage("edit", KEY).array, "x", (1 << 60,), torch.uint8)


# --- keeping house


def test_stages_are_pruned_by_name_or_by_a_function(workspace: Workspace) -> None:
    stages = [workspace.stage(name, {}) for name in ("a", "b", "c")]
    for stage in stages:
        stage.array("z", (100_000,), torch.uint8)
    infos = workspace.stages()
    assert [info.name for info in infos] == ["a", "b", "c"]
    assert all(info.state == "begun" and info.bytes >= 100_000 and info.done == 0 for info in infos)
    assert workspace.prune([stages[0].folder.name, stages[2].folder.name]) == infos[1].bytes
    assert stages[1].discarded and not stages[0].discarded
    assert workspace.prune(lambda info: info.name == "c") == infos[0].bytes
    assert [info.name for info in workspace.stages()] == ["c"]
    with pytest.raises(TypeError):
        workspace.prune("c")
    workspace.prune([])
    assert workspace.stages() == []


def make(cache: Path, name: str, age: float, size: int = 1_000_000) -> Path:
    root = cache / "workspaces" / f"{name:0>16}"
    with Workspace.open(root, {"name": name}, describe=name) as workspace:
        workspace.stage("z", {}).array("z", (size,), torch.uint8)
    for path in (root / "lock", root / "manifest.json", *root.glob("stages/*/stage.json")):
        os.utime(path, (time.time() - age,) * 2)
    return root


def test_workspaces_are_listed_and_pruned_oldest_first(tmp_path: Path) -> None:
    """By age and by total size; one in use is never removed, nor a folder that is no workspace."""
    ages = {"a": 100, "b": 90, "c": 80, "d": 70}
    roots = {name: make(tmp_path, name, age) for name, age in ages.items()}
    (tmp_path / "workspaces" / "mine").mkdir()
    infos = list_workspaces(tmp_path)
    assert [info.describe for info in infos] == ["d", "c", "b", "a"]
    assert all(info.bytes >= 1_000_000 and info.problem is None and info.identity for info in infos)
    assert infos[0].last_used == pytest.approx(time.time() - 70, abs=5)
    assert prune_workspaces(tmp_path) == 0
    assert prune_workspaces(tmp_path, max_bytes=10**9, older_than=1000) == 0
    child = forked(lambda: hold(roots["a"]))
    try:
        while workspace_info(roots["a"]).in_use_by != child:
            time.sleep(0.01)
        os.utime(roots["a"] / "lock", (time.time() - 100,) * 2)
        freed = prune_workspaces(tmp_path, older_than=85)
        assert freed == infos[2].bytes
        assert [info.describe for info in list_workspaces(tmp_path)] == ["d", "c", "a"]
        assert prune_workspaces(tmp_path, max_bytes=math.ceil(2.5e6)) == infos[1].bytes
        assert prune_workspaces(tmp_path, max_bytes=0) == infos[0].bytes
    finally:
        os.kill(child, signal.SIGKILL)
        exit_code(child)
    (roots["a"] / "manifest.json").write_text("{")
    assert list_workspaces(tmp_path)[0].problem
    assert prune_workspaces(tmp_path, max_bytes=0) > 1_000_000
    assert [path.name for path in (tmp_path / "workspaces").iterdir()] == ["mine"]


def hold(root: Path) -> None:
    workspace = Workspace.open(root, {"name": "a"})
    time.sleep(30)
    workspace.close()


def test_info_of_what_is_no_workspace_is_a_problem_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder", "nothing"):
        assert workspace_info(tmp_path / name).problem
    assert list_workspaces(tmp_path / "nothing") == []
    assert prune_workspaces(tmp_path / "nothing", max_bytes=0) == 0


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    digest = "0123456789abcdef" * 4
    assert default_root(digest) == tmp_path / "workspaces" / digest[:16]
    named = default_root("car.mp4")
    assert len(named.name) == 16 and named == default_root("car.mp4") != default_root("bus.mp4")
    monkeypatch.setenv("ADAFLOW_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/adaflow")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the specification says to ignore it
    assert cache_folder() == tmp_path / ".cache" / "adaflow"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "adaflow"
