"""The sound of a video: what tracks there are, and their way into another file, packet by packet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, get_args

import av
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard

from .errors import ConfigError, InputError

AudioMode = Literal["copy", "aac", "none"]
"""What becomes of the sound: ``copy`` bit for bit, ``aac`` encoded anew where the file cannot hold it, ``none``."""

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
AAC_BITS_PER_CHANNEL = 96_000  # bit/s: transparent for speech and music
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}  # of a file that says only how many channels there are
KEPT_TAGS = ("language", "title")  # of a track; the others describe the file it came from


@dataclass(frozen=True)
class AudioTrack:
    """One track of sound.

    Attributes:
        index: Number of the stream in its file.
        codec: FFmpeg's name of the codec, such as ``aac``; empty if it is not known.
        sample_rate: In hertz.
        channels: 1 for mono, 2 for stereo.
        language: ISO 639-2 code; None if it is not known.
        start: Seconds from the file's zero to the first sample.
        duration: Seconds, as the file states them; None if it does not.
    """

    index: int
    codec: str
    sample_rate: int
    channels: int
    language: str | None
    start: float
    duration: float | None


def audio_tracks(container: InputContainer) -> tuple[AudioTrack, ...]:
    """The tracks of sound of an open file, in its order."""
    return tuple(_track(stream) for stream in container.streams.audio)


def _track(stream: AudioStream) -> AudioTrack:
    codec = stream.codec_context
    unit = stream.time_base or Fraction(0)
    return AudioTrack(
        index=stream.index,
        codec=codec.name if codec else "",
        sample_rate=codec.sample_rate if codec else 0,
        channels=codec.channels if codec else 0,
        language=stream.language if stream.language != "und" else None,
        start=float((stream.start_time or 0) * unit),
        duration=float(stream.duration * unit) if stream.duration is not None else None,
    )


def check_sound(source: Path, suffix: str, container_format: str, mode: AudioMode) -> None:
    """Refuse, before any work, sound that the output cannot hold, by trying one packet in memory.

    Args:
        source: A video that `probe` accepts.
        suffix: Of the output, for the sentence.
        container_format: FFmpeg's name of the output's format.
        mode: See `AudioMode`.

    Raises:
        ConfigError: ``mode`` is none of the three.
        InputError: A track cannot be copied into this format, or not be decoded for ``aac``.
    """
    if mode not in get_args(AudioMode):
        raise ConfigError(f"audio={mode!r} is not one of {', '.join(get_args(AudioMode))}; choose one of them")
    if mode == "none":
        return
    with av.open(str(source.absolute())) as container:
        for stream in container.streams.audio:
            try:
                with av.open(io.BytesIO(), "w", format=container_format) as trial:
                    track = _add_track(trial, stream, mode)
                    trial.start_encoding()
                    if mode == "copy":  # some formats look at the sound only when they write about it, at the end
                        container.seek(0)
                        packet = next(container.demux(stream))
                        packet.stream = track
                        trial.mux(packet)
            except (ValueError, av.FFmpegError) as cause:
                remedy = "write an .mkv, or choose audio='aac' or 'none'" if mode == "copy" else "choose audio='none'"
                name = _track(stream).codec or "unknown codec"
                raise InputError(
                    f"{source}: the sound in stream {stream.index} ({name}) cannot be "
                    f"{'copied' if mode == 'copy' else 'encoded anew'} into {suffix}; {remedy}"
                ) from cause


def _add_track(output: OutputContainer, track: AudioStream, mode: AudioMode) -> AudioStream:
    """A stream in ``output`` for ``track``; ValueError where the format cannot hold it."""
    if track.codec_context is None:
        raise ValueError("a codec that this FFmpeg does not know")
    if mode == "copy":
        stream = output.add_stream_from_template(track)
    else:
        rate = track.codec_context.sample_rate
        stream = output.add_stream("aac", rate=rate if rate in AAC_RATES else 48000)
        channels = track.codec_context.channels
        stream.codec_context.layout = USUAL_LAYOUTS.get(channels, track.codec_context.layout)
        stream.codec_context.bit_rate = AAC_BITS_PER_CHANNEL * channels
        stream.codec_context.flags |= Flags.bitexact.value
    stream.disposition = track.disposition
    stream.metadata.update({tag: track.metadata[tag] for tag in KEPT_TAGS if tag in track.metadata})
    return stream


class Sound:
    """The sound of ``source`` on its way into ``output``, handed out in step with the picture.

    Memory holds one packet, whatever the length. Use it in a ``with``, which closes the source.

    Args:
        source: The video whose sound is taken; None for silence.
        output: An output whose header is not yet written; gets a stream for each track.
        mode: See `AudioMode`; checked beforehand by `check_sound`.
    """

    def __init__(self, source: Path | None, output: OutputContainer, mode: AudioMode) -> None:
        self._closing = ExitStack()
        self._packets: Iterator[Packet] = iter(())
        if source is not None and mode != "none":
            container = self._closing.enter_context(av.open(str(source.absolute())))
            for stream in container.streams:
                if stream.type != "audio":
                    stream.discard = Discard.all
            streams = {track.index: _add_track(output, track, mode) for track in container.streams.audio}
            if streams:
                self._packets = (_copied if mode == "copy" else _encoded)(container, streams)
        self._next: Packet | None = None

    def __enter__(self) -> Sound:
        self._next = next(self._packets, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._packets = iter(())
        self._closing.close()

    def until(self, time: Fraction | None) -> Iterator[Packet]:
        """The packets, not yet handed out, that come before ``time`` in seconds; all that are left for None."""
        while (packet := self._next) is not None:
            if time is not None and packet.dts is not None and packet.dts * packet.time_base > time:
                return
            self._next = next(self._packets, None)
            yield packet


def _copied(container: InputContainer, streams: dict[int, AudioStream]) -> Iterator[Packet]:
    for packet in container.demux(container.streams.audio):
        if packet.dts is not None:  # None: the empty packet that ends a track
            packet.stream = streams[packet.stream.index]
            yield packet


def _encoded(container: InputContainer, streams: dict[int, AudioStream]) -> Iterator[Packet]:
    for packet in container.demux(container.streams.audio):
        stream = streams[packet.stream.index]
        for frame in packet.decode():
            yield from stream.encode(frame)
        if packet.dts is None and not packet.size:
            yield from stream.encode(None)
