"""Videos without anything that tells who made them: no metadata, no sound, no encoder's signature."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import av
from av.bitstream import BitStreamFilterContext

from ..decode import open_video, read_frames
from ..disk import disk_errors
from ..encode import write_video
from ..errors import InputError
from ..probe import VideoInfo, probe

PLAYED = ("yuv420p", "yuvj420p")
"""Pixels that every browser plays."""
QUALITY = 12  # constant rate factor, where encoding anew cannot be avoided: no loss is seen
WITHOUT_NOTES = "filter_units=remove_types=6"
"""Supplemental units of H.264 hold no picture; x264 signs there with its version and settings."""


def blind_copy(video: Path, out: Path) -> VideoInfo:
    """Write the pictures of a video as an MP4 that a browser plays and that names nobody.

    H.264 is copied as it is; anything else is encoded anew. Only the pictures are taken: `adaflow edit` keeps all
    settings in a file's metadata, and sound would tell the methods that keep it from those that do not.

    Returns:
        What `probe` says of the original.

    Raises:
        InputError: it is no video, or damaged.
        ResourceError: the disk is full.
    """
    info = probe(video)
    if info.codec == "h264" and info.pix_fmt in PLAYED and not info.rotation:
        try:
            with disk_errors(out, "written"):
                _remux(video, out)
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"{video} cannot be copied ({error}); export it again as H.264") from error
    else:
        write_video(out, read_frames(video), info, crf=QUALITY, audio="none")
    return info


def _remux(video: Path, out: Path) -> None:
    """Copy the packets of the picture into a new file."""
    options = {"movflags": "+faststart"}
    with (
        open_video(video) as (container, stream),
        av.open(str(out), "w", format="mp4", container_options=options) as to,
    ):
        to.flags |= cast(int, av.container.Flags.bitexact.value)
        copy = to.add_stream_from_template(stream)
        copy.metadata.clear()
        without = BitStreamFilterContext(WITHOUT_NOTES, stream, copy)
        for packet in container.demux(stream):
            for kept in without.filter(packet if packet.size else None):
                kept.stream = copy
                to.mux(kept)
