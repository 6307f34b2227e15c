"""What is done once for a case and serves many rows, and what it took: ``shared-cost.json`` beside a workspace.

The cost of a method is what it takes alone. So the first row that needs a shared stage (encoding, features, partition,
inversion, matches) leaves in the ledger what the stage took, and later rows take it from there. A stage that is in the
workspace but not in the ledger was not finished under observation, by a run that was killed: it is done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import InputError
from ..store import StageInfo, remove, stage_infos, write_json
from .cost import Spent

SHARED = {
    "latents": "encode",
    "features": "features",
    "partition": "partition",
    "trajectory": "invert",
    "schedule": "",
    "matches": "match",
    "flow": "match",
    "control": "match",
    "keys": "partition",
}
"""Stages in the workspace that rows share, with the names under which they report; a schedule is drawn in no time."""

EDIT = ("borders", "edit", "decoded")
"""Stages that belong to one row."""


class Ledger:
    """The shared stages of one case's workspace and what they took.

    Args:
        workspace: The folder of the workspace.
    """

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self._file = workspace.with_name("shared-cost.json")
        self._booked: dict[str, Spent] = {}
        if self._file.exists():
            try:
                found = json.loads(self._file.read_text())
                self._booked = {folder: Spent(**spent) for folder, spent in found.items()}
            except (OSError, ValueError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{self._file} cannot be read ({error}); delete the folder {workspace.parent} and run again"
                ) from error

    @property
    def folders(self) -> frozenset[str]:
        """The stage folders that are booked."""
        return frozenset(self._booked)

    def clear_unfinished(self) -> None:
        """Remove from the workspace what is not booked: work of a killed run, and the last row's own."""
        for info in stage_infos(self.workspace):
            if info.name in (*SHARED, *EDIT) and info.folder not in self._booked:
                remove(self.workspace / "stages" / info.folder)

    def book(self, spent: Mapping[str, Spent]) -> None:
        """Write down what the stages took that are complete and not booked yet.

        Args:
            spent: By name of the stage as it reports, what it took in this run.
        """
        new = {
            info.folder: spent.get(SHARED[info.name], Spent())
            for info in stage_infos(self.workspace)
            if info.name in SHARED and info.state == "complete" and info.folder not in self._booked
        }
        if new:
            self._booked |= new
            write_json(self._file, {folder: spent.to_json() for folder, spent in self._booked.items()})

    def shared(self, folders: Iterable[str]) -> dict[str, Spent]:
        """What the shared stages among `folders` took, by the name under which they report."""
        return {
            name: self._booked[folder]
            for folder in folders
            if folder in self._booked and (name := SHARED[folder.rpartition("-")[0]])
        }


def lineage(workspace: Path, last: Iterable[str]) -> dict[str, StageInfo]:
    """The stage folders `last` and all that they were made from, by folder.

    Matches are made beside an edit and not before it: those of an edit's features and schedule belong to it.
    """
    infos = {info.folder: info for info in stage_infos(workspace)}
    found: dict[str, StageInfo] = {}
    waiting = [folder for folder in last if folder in infos]
    while waiting:
        folder = waiting.pop()
        if folder not in found:
            found[folder] = infos[folder]
            waiting += [parent for parent in infos[folder].key.get("from", ()) if parent in infos]
    beside = (i for i in infos.values() if i.name == "matches" and set(i.key.get("from", ())) <= set(found))
    return found | {info.folder: info for info in beside}
