from __future__ import annotations

import os
import resource
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video_files import HEIGHT, KINDS, PATCHES, WIDTH, N, Sound, make, make_kind, patch, picture

from adaflow.errors import ConfigError, InputError, ResourceError
from adaflow.video import (
    ArraySource,
    FileSource,
    check_output,
    fingerprint,
    open_source,
    probe,
    read_frames,
    read_metadata,
    write_video,
)

WITH_SOUND = [name for name, kind in KINDS.items() if kind.settings.get("sounds")]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of every kind."""
    folder = tmp_path_factory.mktemp("kinds")
    return {name: make_kind(folder, name) for name in KINDS}


def patch_colors(image: np.ndarray) -> np.ndarray:
    """The colours in the middle of the four patches."""
    height, width = image.shape[:2]
    rows, columns = (height // 4 + 4, 3 * height // 4), (width // 4, 3 * width // 4)
    return np.array([image[y - 2 : y + 2, x - 2 : x + 2].mean((0, 1)) for y in rows for x in columns])


def sound_of(path: Path) -> list[tuple[bytes, list[tuple[float, int]]]]:
    """For each track: the digest of its payload, and (time, size) of each packet."""
    with av.open(str(path)) as container:
        tracks: dict[int, tuple[list[bytes], list[tuple[float, int]]]] = {
            stream.index: ([], []) for stream in container.streams.audio
        }
        for packet in container.demux(container.streams.audio):
            if packet.dts is not None:
                payload, times = tracks[packet.stream.index]
                payload.append(bytes(packet))
                times.append((float(packet.pts * packet.time_base), packet.size))
    return [(sha256(b"".join(payload)).digest(), times) for payload, times in tracks.values()]


# --- Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_read_whole(files: dict[str, Path], name: str) -> None:
    """Number, size and order of frames are those put in; the count of `probe` is the count of `read_frames`."""
    kind, info = KINDS[name], probe(files[name])
    frames = list(read_frames(files[name]))
    assert info.frames == len(frames) == len(info.timestamps) == kind.n
    assert (info.height, info.width) == kind.shown
    assert all(frame.shape == (*kind.shown, 3) and frame.dtype == np.uint8 for frame in frames)
    assert info.end > info.timestamps[-1] and list(info.timestamps) == sorted(set(info.timestamps))
    if kind.times:
        assert info.timestamps == kind.times
        assert info.variable_frame_rate
    elif kind.n > 1:
        assert not info.variable_frame_rate
        assert info.frame_rate == Fraction(kind.settings.get("rate", 30))
    if "turn" not in kind.settings:
        for number, frame in enumerate(frames):
            np.testing.assert_allclose(patch_colors(frame), PATCHES, atol=kind.tolerance)
            bright = frame[:12, : kind.shown[1] // 2].min(2)[5] > 160
            scale = kind.shown[1] / (kind.settings.get("size") or (HEIGHT, WIDTH))[1]
            assert abs(np.flatnonzero(bright).mean() - scale * (5.5 + number)) < 1.5


@pytest.mark.parametrize("name", KINDS)
def test_reading_from_the_middle_is_exact(files: dict[str, Path], name: str) -> None:
    """Whether by a seek or by counting, the frames from ``start`` are the last ones of all."""
    source, whole = FileSource(files[name]), list(read_frames(files[name]))
    for start in {1, 5, len(whole) - 1, len(whole), len(whole) + 3}:
        for frames in (source.frames(start=start), read_frames(files[name], start=start)):
            np.testing.assert_array_equal(list(frames), whole[start:])


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    """A fine checkerboard becomes its mean."""
    board = np.indices((64, 96)).sum(0) % 2 * np.uint8(255)
    source = ArraySource(np.repeat(board[None, ..., None].astype(np.uint8), 3, axis=-1))
    (small,) = source.frames(size=(16, 24))
    np.testing.assert_allclose(small, 127.5, atol=4)


def test_frames_come_in_the_size_asked_for(files: dict[str, Path]) -> None:
    for name in ("plain", "turned", "odd", "wide pixels"):
        assert {frame.shape for frame in read_frames(files[name], size=(24, 40))} == {(24, 40, 3)}


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_pictures_are_upright(tmp_path: Path, turn: int, mirror: bool) -> None:
    """All eight orientations; FFmpeg turns counterclockwise, then mirrors."""
    path = make(tmp_path / "turned.mp4", turn=turn, mirror=mirror, n=2)
    shown = np.rot90(picture(), turn // 90)
    shown = shown[:, ::-1] if mirror else shown
    frame = next(read_frames(path))
    assert frame.shape == shown.shape
    np.testing.assert_allclose(patch_colors(frame), patch_colors(shown), atol=10)
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]
    write_video(tmp_path / "out.mp4", read_frames(path), info)
    assert probe(tmp_path / "out.mp4").rotation == 0
    np.testing.assert_allclose(patch_colors(next(read_frames(tmp_path / "out.mp4"))), patch_colors(shown), atol=10)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p"])
def test_colors_survive_decoding_and_encoding(tmp_path: Path, matrix: str, full: bool, pix_fmt: str) -> None:
    path = make(tmp_path / "in.mp4", matrix=matrix, full=full, pix_fmt=pix_fmt, n=2)
    np.testing.assert_allclose(patch_colors(next(read_frames(path))), PATCHES, atol=3)
    out = tmp_path / "out.mp4"
    write_video(out, read_frames(path), probe(path))
    np.testing.assert_allclose(patch_colors(next(read_frames(out))), PATCHES, atol=3)
    color, info = probe(out).color, probe(out)
    assert (color.primaries, color.transfer, color.matrix, color.range) == ("bt709", "bt709", "bt709", "limited")
    assert (info.codec, info.pix_fmt, info.bit_depth) == ("h264", "yuv420p", 8)


def test_wide_gamut_keeps_greys_and_gains_saturation(tmp_path: Path) -> None:
    """BT.2020 SDR is brought to BT.709: the same numbers mean more colourful light there."""
    path = make(tmp_path / "wide.mp4", matrix="bt2020", pix_fmt="yuv420p10le", n=1)
    to_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])  # BT.2087
    light = (PATCHES / 255) ** 2.4 @ to_709.T
    np.testing.assert_allclose(patch_colors(next(read_frames(path))), 255 * light.clip(0, 1) ** (1 / 2.4), atol=5)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_with_the_way_out(tmp_path: Path, transfer: int, name: str) -> None:
    path = make(tmp_path / "hdr.mp4", matrix="bt2020", transfer=transfer, pix_fmt="yuv420p10le", n=2)
    with pytest.raises(InputError, match=rf"HDR \({name}\).*ffmpeg.*tonemap"):
        probe(path)


def sound_only(folder: Path) -> Path:
    path = folder / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8820), np.int16), format="s16", layout="stereo")
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def without_frames(folder: Path) -> Path:
    """A header that promises nothing, as a recording stopped at once leaves."""
    path = make(folder / "full.mp4", muxer={"movflags": "frag_keyframe+empty_moov"})
    return written(folder / "empty.mp4", path.read_bytes().split(b"moof")[0][:-4])


def broken_in_the_middle(folder: Path) -> Path:
    path = make(folder / "broken.mp4", codec="mpeg4", n=N)
    with av.open(str(path)) as container:
        third = [packet for packet in container.demux(video=0) if packet.size][3]
        start, stop = third.pos, third.pos + third.size
    return patch(path, lambda b: b[:start] + bytes(stop - start) + b[stop:])


def of_absurd_size(folder: Path) -> Path:
    return written(folder / "huge.mp4", b"YUV4MPEG2 W60000 H20 F25:1 Ip C420jpeg\nFRAME\n" + bytes(1_800_000))


BAD = {
    "missing": (lambda d: d / "nothing.mp4", "no file"),
    "folder": (lambda d: d, "folder"),
    "no bytes": (lambda d: written(d / "a.mp4", b""), "empty"),
    "text": (lambda d: written(d / "a.mp4", b"these are words\n" * 99), "not a video"),
    "noise": (lambda d: written(d / "a.mp4", np.random.default_rng(0).bytes(9999)), "not a video"),
    "playlist": (lambda d: written(d / "a.mp4", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), "not a video"),
    "no index": (lambda d: patch(make(d / "a.mp4", n=30), lambda b: b[: b.rindex(b"moov") - 9]), "not a video"),
    "cut off": (
        lambda d: patch(make(d / "a.mp4", muxer={"movflags": "faststart"}), lambda b: b[: len(b) * 2 // 3]),
        "cut off",
    ),
    "sound only": (sound_only, "no picture"),
    "no frames": (without_frames, "no picture"),
    "absurd size": (of_absurd_size, "size of 60000x20"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    maker, words = BAD[case]
    path = maker(tmp_path)
    with pytest.raises(InputError, match=words) as raised:
        probe(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    if case != "no frames":
        with pytest.raises(InputError):
            list(read_frames(path))


def test_damage_in_the_middle_never_makes_counts_differ(tmp_path: Path) -> None:
    """Either both name the damage, or both give the same frames."""
    path = broken_in_the_middle(tmp_path)
    try:
        expected = probe(path).frames
    except InputError as error:
        assert "damaged near frame" in str(error)
        with pytest.raises(InputError, match="damaged near frame"):
            list(read_frames(path))
    else:
        assert len(list(read_frames(path))) == expected


def test_fingerprint_is_of_the_content(files: dict[str, Path], tmp_path: Path) -> None:
    path = files["plain"]
    assert fingerprint(path) == sha256(path.read_bytes()).hexdigest() == FileSource(path).fingerprint()
    with pytest.raises(InputError, match="there is no file"):
        fingerprint(tmp_path / "nothing")


# --- Writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("name", KINDS)
def test_times_are_the_sources(files: dict[str, Path], tmp_path: Path, name: str, suffix: str) -> None:
    """Exactly in .mp4 and .mov; in .mkv to its millisecond, of which no two frames share one."""
    info, out = probe(files[name]), tmp_path / f"out{suffix}"
    write_video(out, read_frames(files[name]), info, audio="none")
    written_info = probe(out)
    assert written_info.frames == info.frames
    times = [time * info.time_base for time in info.timestamps]
    out_times = [time * written_info.time_base for time in written_info.timestamps]
    if suffix == ".mkv":
        assert max(abs(a - b) for a, b in zip(times, out_times, strict=True)) <= Fraction(3, 2000)
    else:
        assert out_times == times
        if info.time_base.numerator == 1:
            assert written_info.time_base == info.time_base


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("name", WITH_SOUND)
def test_sound_is_copied_bit_for_bit(files: dict[str, Path], tmp_path: Path, name: str, suffix: str) -> None:
    source, out = files[name], tmp_path / f"out{suffix}"
    info = probe(source)
    if (name, suffix) in {("pcm", ".mp4"), ("webm", ".mov")}:
        with pytest.raises(InputError, match="cannot be copied"):
            write_video(out, read_frames(source), info)
        assert not out.exists()
        return
    write_video(out, read_frames(source), info)
    before, after = sound_of(source), sound_of(out)
    assert len(before) == len(after) == len(info.audio)
    assert [t.language for t in probe(out).audio] == [t.language for t in info.audio]
    for (payload, times), (out_payload, out_times) in zip(before, after, strict=True):
        if name != "transport":  # there each packet has a header (ADTS) that other formats hold once
            assert payload == out_payload
        if len(times) == len(out_times):
            tolerance = {".mkv": 0.0011, ".mp4": 1e-5, ".mov": 1e-5}[suffix]
            assert [t for t, _ in out_times] == pytest.approx([t for t, _ in times], abs=tolerance)


@pytest.mark.parametrize("name", ["pcm", "webm", "late sound", "two tracks"])
def test_sound_can_be_encoded_anew(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.mp4"
    write_video(out, read_frames(files[name]), probe(files[name]), audio="aac")
    tracks, expected = probe(out).audio, probe(files[name]).audio
    assert [track.codec for track in tracks] == ["aac"] * len(expected)
    for track, before in zip(tracks, expected, strict=True):
        assert (track.sample_rate, track.channels) == (before.sample_rate, before.channels)
        assert track.start == pytest.approx(before.start, abs=0.025)
        assert track.duration == pytest.approx(0.4, abs=0.07)


def test_sound_can_be_left_out(files: dict[str, Path], tmp_path: Path) -> None:
    write_video(tmp_path / "out.mp4", read_frames(files["mono aac"]), probe(files["mono aac"]), audio="none")
    assert probe(tmp_path / "out.mp4").audio == ()
    with pytest.raises(ConfigError, match="mp3"):
        write_video(tmp_path / "out.mp4", [], probe(files["mono aac"]), audio="mp3")  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_same_arguments_give_the_same_bytes(files: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    """Also when frames are decoded in between, which leaves other things in memory."""
    info, stack = probe(files["two tracks"]), list(read_frames(files["two tracks"]))
    outs = [tmp_path / f"{number}{suffix}" for number in range(3)]
    for out, frames in zip(outs, (stack, read_frames(files["two tracks"]), stack), strict=True):
        write_video(out, frames, info, metadata={"seed": 7})
    assert len({out.read_bytes() for out in outs}) == 1


def test_index_comes_first(files: dict[str, Path], tmp_path: Path) -> None:
    """A browser can begin before it has the whole file."""
    write_video(tmp_path / "out.mp4", read_frames(files["plain"]), probe(files["plain"]))
    content = (tmp_path / "out.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("size", "expected"), [(None, (58, 102)), ((57, 101), (58, 102)), ((33, 48), (34, 48))])
def test_odd_sides_are_completed(tmp_path: Path, size: tuple[int, int] | None, expected: tuple[int, int]) -> None:
    out = tmp_path / "out.mp4"
    write_video(out, [picture(0, 57, 101)] * 2, size=size, crf=1)
    (frame, _) = read_frames(out)
    assert frame.shape == (*expected, 3)
    if size is None:
        np.testing.assert_allclose(frame[-1], frame[-2], atol=12)
        np.testing.assert_allclose(patch_colors(frame[:57, :101]), PATCHES, atol=3)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_metadata_comes_back(tmp_path: Path, suffix: str) -> None:
    metadata = {"prompt": 'ein Auto – 車 "quoted"\n', "seed": 7, "versions": {"adaflow": "0.1"}}
    write_video(tmp_path / f"out{suffix}", [picture()], metadata=metadata)
    assert read_metadata(tmp_path / f"out{suffix}") == metadata


def test_other_files_have_no_metadata(files: dict[str, Path]) -> None:
    assert read_metadata(files["plain"]) == {}


def test_frames_without_a_source_have_an_even_pace(tmp_path: Path) -> None:
    write_video(tmp_path / "out.mp4", [picture(n) for n in range(5)], fps=24000 / 1001)
    info = probe(tmp_path / "out.mp4")
    assert (info.frames, info.frame_rate, info.variable_frame_rate) == (5, Fraction(24000, 1001), False)
    assert info.timestamps == tuple(1001 * n for n in range(5))


def test_failure_leaves_everything_as_it_was(files: dict[str, Path], tmp_path: Path) -> None:
    """Whatever goes wrong on the way: no new file, an old one untouched, nothing temporary."""
    info = probe(files["mono aac"])

    def failing():
        yield from list(read_frames(files["mono aac"]))[:7]
        raise KeyboardInterrupt

    def stop(count: int) -> None:
        if count == 3:
            raise RuntimeError("stopped")

    for old in (None, b"precious"):
        out = tmp_path / "out.mp4"
        if old is not None:
            out.write_bytes(old)
        with pytest.raises(KeyboardInterrupt):
            write_video(out, failing(), info)
        with pytest.raises(RuntimeError, match="stopped"):
            write_video(out, read_frames(files["mono aac"]), info, on_frame=stop)
        with pytest.raises(ValueError, match="5 frames came"):
            write_video(out, [picture()] * 5, info)
        with pytest.raises(ValueError, match="13 frames came"):
            write_video(out, [picture()] * 99, info)
        with pytest.raises(ValueError, match="float64"):
            write_video(out, [picture() / 255] * 12, info)
        assert [p.name for p in tmp_path.iterdir()] == (["out.mp4"] if old else [])
        assert old is None or out.read_bytes() == old


def test_the_rest_of_a_killed_run_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".out.mp4.part").write_bytes(b"rest" * 100_000)
    counts: list[int] = []
    write_video(tmp_path / "out.mp4", [picture()] * 3, on_frame=counts.append)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert probe(tmp_path / "out.mp4").frames == 3
    assert counts == [1, 2, 3]


def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files acts like a full disk (EFBIG for ENOSPC)."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 96, 3), dtype=np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ResourceError, match="disk is full"):
            write_video(tmp_path / "out.mp4", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_of_another_is_not_ours(tmp_path: Path) -> None:
    """An error of whoever makes the frames is passed on as it is."""

    def failing():
        yield picture()
        raise OSError(28, "elsewhere")

    with pytest.raises(OSError, match="elsewhere"):
        write_video(tmp_path / "out.mp4", failing())


def test_output_is_checked_before_any_work(files: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    source = make(tmp_path / "in.mp4", n=1)
    os.link(source, tmp_path / "link.mp4")
    os.symlink(source, tmp_path / "symlink.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for out, words in [
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "out.webm", "choose one of .mp4"),
        (tmp_path / "out", "no format"),
        (tmp_path / "nowhere" / "out.mp4", "no folder"),
        (source, "source itself"),
        (tmp_path / "link.mp4", "source itself"),
        (tmp_path / "symlink.mp4", "source itself"),
    ]:
        with pytest.raises(InputError, match=words):
            check_output(out, source)
    with pytest.raises(InputError, match=r"\.mkv, or choose audio='aac'"):
        check_output(tmp_path / "out.mp4", files["pcm"])
    check_output(tmp_path / "out.mp4", files["pcm"], audio="aac")
    check_output(tmp_path / "OUT.MP4", source)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="not writable"):
        check_output(tmp_path / "out.mp4")


# --- Sources ---------------------------------------------------------------------------------------------------------


def test_frames_in_memory_are_a_source(tmp_path: Path) -> None:
    stack = np.stack([picture(n) for n in range(4)])
    images = [Image.fromarray(frame) for frame in stack]
    sources = [open_source(stack), open_source(images), open_source(list(stack)), open_source(stack / 255)]
    for source in sources:
        assert (source.info.frames, source.info.height, source.info.width) == (4, HEIGHT, WIDTH)
        np.testing.assert_array_equal(list(source.frames()), stack)
        np.testing.assert_array_equal(list(source.frames(start=3)), stack[3:])
        assert next(source.frames(size=(24, 32))).shape == (24, 32, 3)
    assert len({source.fingerprint() for source in sources}) == 1
    assert ArraySource(stack[::-1]).fingerprint() != sources[0].fingerprint() != ArraySource(stack, 10).fingerprint()
    assert open_source(sources[0]) is sources[0]
    write_video(tmp_path / "out.mp4", sources[0].frames(), sources[0].info)
    assert probe(tmp_path / "out.mp4").timestamps == (0, 1, 2, 3)


def test_unfit_frames_in_memory_are_refused() -> None:
    for frames, words in [
        ([], "empty list"),
        (np.zeros((2, 8, 8), np.uint8), "shape"),
        (np.zeros((2, 8, 8, 4), np.uint8), "shape"),
        (np.full((2, 8, 8, 3), 255.0), "outside"),
        (np.full((2, 8, 8, 3), np.nan), "outside"),
        (np.zeros((2, 8, 8, 3), np.int64), "int64"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "several shapes"),
    ]:
        with pytest.raises(InputError, match=words):
            ArraySource(frames)
    with pytest.raises(InputError, match="fps"):
        ArraySource(np.zeros((1, 8, 8, 3), np.uint8), fps=0)


def test_memory_holds_few_frames(tmp_path: Path) -> None:
    """Reading and writing are streams: no frame is asked for before the one before is taken in."""
    asked = 0

    def frames():
        nonlocal asked
        for number in range(40):
            asked += 1
            yield picture(number % 8)

    def follow(count: int) -> None:
        assert asked == count

    write_video(tmp_path / "out.mp4", frames(), on_frame=follow)
    assert asked == 40


def test_long_sound_ends_after_the_picture(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    write_video(out, read_frames(files["long sound"]), probe(files["long sound"]))
    assert probe(out).audio[0].duration == pytest.approx(15.0)
    assert probe(out).duration == pytest.approx(0.4)


def test_a_track_of_sound_is_described(files: dict[str, Path]) -> None:
    (track,) = probe(files["late sound"]).audio
    assert (track.codec, track.sample_rate, track.channels) == ("aac", Sound().rate, 2)
    assert track.start == pytest.approx(0.25, abs=0.03)
    assert [t.language for t in probe(files["two tracks"]).audio] == ["ita", "eng"]


def test_disk_error_is_a_resource_error(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ResourceError, match="disk is full"):
        write_video(tmp_path / "out.mp4", [picture()])
    assert list(tmp_path.iterdir()) == []
