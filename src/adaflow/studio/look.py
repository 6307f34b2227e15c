"""A first look at what was uploaded, in a process of its own: a file that crashes a decoder crashes that alone.

``python -m adaflow.studio.look FILE STRIP`` prints what the video is as JSON and writes small pictures of it to STRIP.
Its exit status is 2 with a sentence on stderr where the file is no video that can be edited.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import AdaFlowError
from ..video import fingerprint, probe, read_frames

TILES, TILE_HEIGHT, TILE_WIDEST = 96, 72, 160
"""Most pictures of the strip, and their size in pixels."""
MEMORY = 6 << 30
"""Bytes of address space that the look may take."""
LONGEST = 200_000
"""Frames."""


def look(file: Path, strip: Path) -> dict[str, object]:
    """What the video is; writes the strip.

    Raises:
        InputError: it is no video that can be edited.
    """
    info = probe(file)
    if info.frames > LONGEST:
        raise AdaFlowError(f"the video has {info.frames} frames, and the studio takes {LONGEST}; use the command line")
    width = max(8, min(TILE_WIDEST, round(TILE_HEIGHT * info.width / info.height)))
    count = min(TILES, info.frames)
    wanted = {round(i * (info.frames - 1) / max(1, count - 1)) for i in range(count)}
    tiles = [frame for i, frame in enumerate(read_frames(file, (TILE_HEIGHT, width))) if i in wanted]
    Image.fromarray(np.concatenate(tiles, axis=1)).save(strip, "JPEG", quality=80)
    start = info.timestamps[0]
    even = not info.variable_frame_rate
    return {
        "frames": info.frames,
        "width": info.width,
        "height": info.height,
        "seconds": info.duration,
        "fps": float(info.frame_rate),
        "times": None if even else [round(float((t - start) * info.time_base), 4) for t in info.timestamps],
        "sound": bool(info.audio),
        "codec": info.codec,
        "tiles": len(tiles),
        "tile": [TILE_HEIGHT, width],
        "fingerprint": fingerprint(file),
        "bytes": file.stat().st_size,
    }


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        print(json.dumps(look(Path(sys.argv[1]), Path(sys.argv[2]))))
    except AdaFlowError as error:
        print(str(error).replace(sys.argv[1], "the file"), file=sys.stderr)
        sys.exit(2)
    except MemoryError:
        print("the video's pictures are too large to look at", file=sys.stderr)
        sys.exit(2)
