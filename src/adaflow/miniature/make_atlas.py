"""Build the sprite atlas from a colour emoji font: ``python -m adaflow.miniature.make_atlas NotoColorEmoji.ttf``.

Only needed to rebuild ``atlas/sprites.npz``; the package itself reads that file and needs neither Pillow nor a font.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

ATLAS = Path(__file__).parent / "atlas" / "sprites.npz"
GLYPHS = {
    "car": "\N{AUTOMOBILE}",
    "truck": "\N{DELIVERY TRUCK}",
    "boat": "\N{SAILBOAT}",
    "balloon": "\N{BALLOON}",
    "fish": "\N{FISH}",
    "bird": "\N{BIRD}",
    "butterfly": "\N{BUTTERFLY}",
    "cat": "\N{CAT}",
}
GLYPH_SIZE = 109  # the one bitmap size in the font


def glyph(character: str, font_path: str) -> np.ndarray:
    """The glyph as RGBA ``(height, width, 4)`` uint8, cropped to what is visible."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(font_path, GLYPH_SIZE)
    image = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((0, 0), character, font=font, embedded_color=True)
    pixels = np.asarray(image)
    rows, columns = np.nonzero(pixels[..., 3] > 20)
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].copy()


def main() -> None:
    """Write the atlas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("font", help="path of NotoColorEmoji.ttf")
    parser.add_argument("--out", type=Path, default=ATLAS)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sprites: dict[str, Any] = {name: glyph(code, arguments.font) for name, code in GLYPHS.items()}
    np.savez_compressed(arguments.out, **sprites)
    print(arguments.out)


if __name__ == "__main__":
    main()
