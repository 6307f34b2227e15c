"""Where the commands write: results on stdout, everything else on stderr. Paths and prompts are printed as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout, and nothing else."""
    print(json.dumps(document, indent=2, sort_keys=True))


def print_table(*rows: Sequence[object]) -> None:
    """Columns side by side, the first row their names: easy to read, and to `grep` and `cut`."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
