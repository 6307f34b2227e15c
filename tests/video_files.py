"""Small video files of many kinds, made on the spot: what `test_video` knows of them beforehand stands in `KINDS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

N, HEIGHT, WIDTH = 12, 64, 96
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
MATRIX = {"bt709": (1, Colorspace.ITU709), "bt601": (6, Colorspace.ITU601), "bt2020": (9, Colorspace.BT2020)}
PATCHES = np.array([(200, 30, 40), (20, 180, 60), (30, 60, 220), (128, 128, 128)], np.uint8)


def picture(number: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Four coloured patches, in reading order, and a light square in the first that wanders with ``number``."""
    image = np.empty((height, width, 3), np.uint8)
    bottom, right = height // 2, width // 2
    image[:bottom, :right], image[:bottom, right:], image[bottom:, :right], image[bottom:, right:] = PATCHES
    image[2:10, 2 + number : 10 + number] = 240
    return image


@dataclass(frozen=True)
class Sound:
    """A track: ``seconds`` of a tone, beginning at ``start`` seconds."""

    codec: str = "aac"
    rate: int = 44100
    layout: str = "stereo"
    start: float = 0.0
    seconds: float = 0.4
    language: str | None = None


def make(
    path: Path,
    *,
    codec: str = "libx264",
    rate: Fraction | int = 30,
    unit: Fraction | None = None,
    times: Sequence[int] | None = None,
    n: int = N,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    pix_fmt: str = "yuv420p",
    matrix: str | None = "bt709",
    full: bool = False,
    primaries: int | None = None,
    transfer: int | None = None,
    turn: int = 0,
    mirror: bool = False,
    pixel: Fraction | None = None,
    sounds: Sequence[Sound] = (),
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """A video of ``n`` pictures at ``times`` (in ``unit``); ``matrix=None`` leaves colours untagged, as BT.601."""
    unit = unit or 1 / Fraction(rate)
    code, space = MATRIX[matrix or "bt601"]
    with av.open(str(path), "w", container_options=muxer or {}) as output:
        quality = {"crf": "4"} if codec == "libx264" else {}
        stream = output.add_stream(codec, rate=Fraction(rate), options={**quality, **(options or {})})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = unit
        if codec in ("mpeg4", "libvpx-vp9"):
            stream.bit_rate = 4_000_000
        if matrix:
            stream.codec_context.colorspace = code
            stream.codec_context.color_primaries = primaries or code
            stream.codec_context.color_trc = transfer or (1 if code == 9 else code)
            stream.codec_context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        if pixel:
            stream.codec_context.sample_aspect_ratio = pixel
        if turn or mirror:
            stream.set_display_rotation(turn, hflip=mirror)
        tracks = [_add_sound(output, sound) for sound in sounds]
        for number in range(n):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), "rgb24").reformat(
                format=pix_fmt,
                dst_colorspace=space,
                dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
                interpolation=EXACT,
            )
            frame.pts = times[number] if times else number
            frame.time_base = unit
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for track, sound in zip(tracks, sounds, strict=True):
            _write_sound(output, track, sound)
    return path


def _add_sound(output: Any, sound: Sound) -> Any:
    track = output.add_stream(sound.codec, rate=sound.rate)
    track.codec_context.layout = sound.layout
    if sound.language:
        track.metadata["language"] = sound.language
    return track


def _write_sound(output: Any, track: Any, sound: Sound) -> None:
    channels = 2 if sound.layout == "stereo" else 1
    time = np.arange(round(sound.seconds * sound.rate)) / sound.rate
    tone = np.stack([np.sin(2 * np.pi * 440 * (1 + channel) * time) for channel in range(channels)])
    samples = (8000 * tone).astype(np.int16).T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=sound.layout)
    frame.sample_rate = sound.rate
    frame.time_base = Fraction(1, sound.rate)
    frame.pts = round(sound.start * sound.rate)
    output.mux(track.encode(frame))
    output.mux(track.encode(None))


@dataclass(frozen=True)
class Kind:
    """How a file is made, and what is known of it: number of frames, size as shown, timestamps if made by hand."""

    name: str
    settings: dict[str, Any]
    n: int = N
    shown: tuple[int, int] = (HEIGHT, WIDTH)
    times: tuple[int, ...] | None = None
    tolerance: int = 4  # of colours, from lossy encoding


VFR = tuple(np.cumsum([0, 3003, 3003, 1500, 9000, 3003, 45000, 3003, 1, 3003, 3003, 6006]).tolist())
CINEMA = Fraction(24000, 1001)
KINDS = {
    "plain": Kind("plain.mp4", {}),
    "cinema": Kind("cinema.mp4", {"rate": CINEMA}),
    "vfr": Kind("vfr.mp4", {"unit": Fraction(1, 90000), "times": VFR}, times=VFR),
    "late": Kind(
        "late.mp4",
        {"unit": Fraction(1, 90000), "times": tuple(45000 + t for t in VFR)},
        times=tuple(45000 + t for t in VFR),
    ),
    "turned": Kind("turned.mp4", {"turn": 90}, shown=(WIDTH, HEIGHT)),
    "odd": Kind("odd.mkv", {"codec": "ffv1", "size": (57, 101)}, shown=(57, 101)),
    "ten bits": Kind("ten.mp4", {"pix_fmt": "yuv420p10le"}),
    "444": Kind("444.mp4", {"pix_fmt": "yuv444p"}),
    "full range": Kind("full.mp4", {"full": True}),
    "bt601": Kind("bt601.mp4", {"matrix": "bt601"}),
    "untagged": Kind("untagged.mp4", {"matrix": None}),
    "mono aac": Kind("mono.mp4", {"sounds": [Sound(layout="mono")]}),
    "two tracks": Kind("two.mp4", {"sounds": [Sound(language="ita"), Sound(rate=48000, language="eng")]}),
    "late sound": Kind("late-sound.mp4", {"sounds": [Sound(start=0.25)]}),
    "long sound": Kind("long-sound.mp4", {"sounds": [Sound(seconds=15.0)]}),
    "pcm": Kind("pcm.mkv", {"sounds": [Sound(codec="pcm_s16le")]}),
    "avi": Kind("old.avi", {"codec": "mpeg4", "matrix": None, "sounds": [Sound(codec="libmp3lame")]}, tolerance=10),
    "webm": Kind("web.webm", {"codec": "libvpx-vp9", "sounds": [Sound(codec="libopus", rate=48000)]}, tolerance=10),
    "mov": Kind("apple.mov", {"sounds": [Sound()]}),
    "fragmented": Kind("fragmented.mp4", {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "sounds": [Sound()]}),
    "one frame": Kind("one.mp4", {"n": 1}, n=1),
    "two frames": Kind("two-frames.mp4", {"n": 2}, n=2),
    "wide pixels": Kind("wide.mp4", {"pixel": Fraction(4, 3)}, shown=(HEIGHT, 128)),
    "name": Kind("Ünïcode 视频 %03d & spaces.mp4", {}),
    "transport": Kind("broadcast.ts", {"sounds": [Sound()]}),
    "gif": Kind("loop.gif", {"codec": "gif", "pix_fmt": "rgb8", "rate": 25}, tolerance=40),
    "many key frames": Kind("keys.mp4", {"options": {"g": "4", "crf": "4"}}),
}


def make_kind(folder: Path, name: str) -> Path:
    kind = KINDS[name]
    return make(folder / kind.name, **kind.settings)


def patch(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Change a file's bytes."""
    path.write_bytes(change(path.read_bytes()))
    return path
