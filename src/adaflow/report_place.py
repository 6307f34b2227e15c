"""Where the page of figures of a command goes, and what becomes of the command where there can be none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .console import err
from .encode import check_folder, check_name
from .errors import AdaFlowError, Cancelled, ConfigError, InputError, ResourceError
from .report import Kind, kind_of

T = TypeVar("T")


@dataclass
class ReportPlace:
    """The place of a page, chosen before any work.

    No page costs a command its result: what goes wrong with one is told when all else is done (`settle`), as a failure
    where the user named a place, else as a note.

    Attributes:
        file: Where the page goes; None where there is, or can be, none.
        asked: Whether the user named the place.
        error: Why there is no page, where there was to be one.
    """

    file: Path | None
    asked: bool
    error: AdaFlowError | None = None

    @classmethod
    def choose(cls, asked: Path | None, none: bool, usual: Path, kind: Kind) -> ReportPlace:
        """The place that was asked for, or the usual one, or none.

        Raises:
            InputError: no page of this kind can be written to the place asked for.
        """
        if none:
            if asked:
                raise ConfigError("--report and --no-report cannot both hold; choose one")
            return cls(None, False)
        try:
            check_page(asked or usual, kind)
        except InputError as error:
            if asked:
                raise
            return cls(None, False, error)
        return cls(asked or usual, asked is not None)

    def attempt(self, make: Callable[[Path], T]) -> T | None:
        """What `make` makes of the place; None where there is to be no page, or something goes wrong."""
        if self.file is None:
            return None
        try:
            return make(self.file)
        except Cancelled:
            raise
        except AdaFlowError as error:
            self.error = error
        except MemoryError:
            self.error = ResourceError("the memory ran out; close other programs, and run the same command again")
        except Exception as error:  # whatever it is, the edit is worth more than its figures
            said = " ".join(f"{type(error).__name__}: {error}".split())
            self.error = AdaFlowError(f"the figures could not be drawn ({said}); this is a bug, please report it")
        self.file = None
        return None

    def settle(self, done: str) -> None:
        """Tell what went wrong, when all else is done.

        Args:
            done: What is done, as the beginning of a sentence.

        Raises:
            AdaFlowError: there is no page, and the user named its place.
        """
        if self.error is None:
            return
        if self.asked:
            raise type(self.error)(f"{done}, but not its report: {self.error}") from self.error
        err.print(f"note: {done}, but not its report: {self.error}")


def check_file(file: Path, suffix: str) -> None:
    """Refuse, before any work, a name under which a picture or a page could not be written.

    Raises:
        InputError: it has another suffix, is too long or a folder, or nothing can be written there.
    """
    check_name(file)
    if file.suffix.lower() != suffix or file.is_dir():
        raise InputError(f"{file} must be a file whose name ends in {suffix}")
    check_folder(file.parent)


def check_page(file: Path, kind: Kind) -> None:
    """Refuse, before any work, a place where a page of this kind could not be written, or would replace another file.

    A page of an edit replaces any of ours; that of an inspection only its own kind, which is found again soon.

    Raises:
        InputError: as `check_file`; or there is something else.
    """
    check_file(file, ".html")
    if not file.exists():
        return
    there = kind_of(file)
    if there is None:
        raise InputError(f"{file} is there, and is no report of adaflow's, so it is left alone; choose another name")
    if kind == "inspect" and there != kind:
        raise InputError(f"{file} is the report of an edit, so it is left alone; choose another name")
