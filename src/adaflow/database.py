"""SQLite as AdaFlow's servers use it: a connection for each use, and transactions that are whole or never were."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

PATIENCE = 20.0
"""Seconds that a write waits for others."""


@contextmanager
def connected(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection of this thread's own."""
    with closing(sqlite3.connect(file, timeout=PATIENCE, isolation_level=None)) as base:
        base.execute("PRAGMA synchronous = FULL")
        base.execute("PRAGMA foreign_keys = ON")
        yield base


@contextmanager
def writing(file: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that is on the disk at its end, or never was."""
    with connected(file) as base:
        base.execute("BEGIN IMMEDIATE")
        try:
            yield base
        except BaseException:
            base.execute("ROLLBACK")
            raise
        base.execute("COMMIT")
