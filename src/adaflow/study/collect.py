"""Edited videos of several methods, found where they are: an `adaflow eval run` folder, folders, or a manifest.

What comes out is complete: every set has a video of every method, or the sentence says which is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..longv_eval.rows import REFERENCES, load_rows, load_run

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
MANIFESTS = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Entry:
    """One source and prompt, and what each method made of them.

    Attributes:
        name: For the tally; participants never see it.
        videos: By method.
    """

    name: str
    source: Path
    videos: Mapping[str, Path]
    prompt: str = ""
    source_prompt: str = ""


@dataclass(frozen=True)
class Collection:
    """Entries with the same methods each, in the order of tables."""

    methods: tuple[str, ...]
    entries: tuple[Entry, ...]


def collect(
    places: Sequence[Path], sources: Path | None = None, prompts: Path | None = None, methods: Sequence[str] = ()
) -> Collection:
    """The edited videos in `places`.

    Args:
        places: One folder that `adaflow eval run` made; or one manifest; or a folder for each method, whose files of
            the same name (without suffix) belong together.
        sources: Folder of the sources, by the same names; for folders of methods only.
        prompts: A YAML or JSON file that maps these names to prompts; likewise.
        methods: Those to compare; empty for all, of an evaluation for all that edit.

    Raises:
        InputError: a counterpart is missing, or what is given is none of the three.
    """
    if not places:
        raise InputError("there is nothing to build from; name a folder of adaflow eval run, a manifest, or folders")
    if absent := [place for place in places if not place.exists()]:
        raise InputError(f"there is no {absent[0]}; check the path")
    first, folders = places[0], all(place.is_dir() for place in places)
    if len(places) == 1 and (sources or prompts):
        raise InputError("--source and --prompts go with folders of methods, of which at least two are needed")
    if len(places) == 1 and folders and (first / "results").is_dir():
        known, entries = _evaluated(first)
        methods = methods or [m for m in known if m not in REFERENCES]
    elif len(places) == 1 and first.is_file() and first.suffix.lower() in MANIFESTS:
        known, entries = _listed(first)
    elif len(places) > 1 and folders:
        known, entries = _beside(places, sources, prompts)
    else:
        raise InputError(
            f"{first} is neither a folder of adaflow eval run nor a manifest ({', '.join(MANIFESTS)}), and folders of "
            "methods come at least in twos; see docs/study.md"
        )
    return _complete(list(methods or known), known, entries)


def _evaluated(out: Path) -> tuple[list[str], list[Entry]]:
    """The clips of an evaluation, by its results."""
    rows = load_rows(out)
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for row in rows:
        name = f"{row.case}.{row.edit}.{row.method}.mp4"
        clip = out / "clips" / name
        if Path(name).name == name and clip.is_file():  # a name that leads elsewhere is none
            found.setdefault(row.pair, {})[row.method] = clip
    about = {row.pair: row for row in rows}
    entries = [
        Entry(
            ".".join(pair),
            out / "clips" / f"{pair[0]}.source.mp4",
            found.get(pair, {}),
            about[pair].prompt,
            about[pair].source_prompt,
        )
        for pair in about
    ]
    made = {row.method for row in rows}
    return [m for m in load_run(out, rows).methods if m in made], entries


def _beside(places: Sequence[Path], sources: Path | None, prompts: Path | None) -> tuple[list[str], list[Entry]]:
    """One folder a method: files of the same name belong together."""
    if sources is None:
        raise InputError("folders of edited videos need the folder of their sources as well; give it with --source")
    if not sources.is_dir():
        raise InputError(f"there is no folder {sources}; name the folder of the sources with --source")
    methods = [place.resolve().name for place in places]
    if len(set(methods)) < len(methods):
        twice = next(m for m in methods if methods.count(m) > 1)
        raise InputError(f"two folders are named {twice}, and a folder's name is its method's; rename one")
    videos = {method: _videos(place) for method, place in zip(methods, places, strict=True)}
    originals = _videos(sources)
    said = _mapping(prompts) if prompts else {}
    names = sorted({name for each in videos.values() for name in each})
    if not names:
        raise InputError(f"there are no videos in {places[0]} ({', '.join(SUFFIXES)})")
    entries = []
    for name in names:
        if prompts and not isinstance(said.get(name), str):
            raise InputError(f"{prompts} has no prompt for {name}; add a line such as {name}: a red boat")
        made = {method: each[name] for method, each in videos.items() if name in each}
        entries.append(Entry(name, originals.get(name, sources / f"{name}.mp4"), made, str(said.get(name, ""))))
    return methods, entries


def _videos(folder: Path) -> dict[str, Path]:
    """The videos of a folder, by name without suffix."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith("."):
            if file.stem in found:
                raise InputError(f"{folder} holds {found[file.stem].name} and {file.name}; delete or rename one")
            found[file.stem] = file
    return found


def _listed(file: Path) -> tuple[list[str], list[Entry]]:
    """The sets of a manifest; paths are seen from its folder."""
    sets = _mapping(file).get("sets")
    if not isinstance(sets, list) or not sets:
        raise InputError(f"{file} lists no sets; it needs a list named sets (docs/study.md)")
    entries: list[Entry] = []
    for number, given in enumerate(sets, 1):
        given = given if isinstance(given, dict) else {}
        videos = given.get("videos")
        texts = {name: given.get(name, "") for name in ("prompt", "source_prompt")}
        strings = [given.get("source"), *texts.values(), *(videos.values() if isinstance(videos, dict) else ())]
        if not isinstance(videos, dict) or not all(isinstance(text, str) for text in strings):
            raise InputError(
                f"set {number} of {file} is not understood; it needs source, prompt, and videos with a path for each "
                "method (docs/study.md)"
            )
        paths = {str(method): file.parent / path for method, path in videos.items()}
        entries.append(Entry(str(given.get("name", number)), file.parent / given["source"], paths, **texts))
    return list(dict.fromkeys(method for entry in entries for method in entry.videos)), entries


def _mapping(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds no names with values (docs/study.md)")
    return {str(name): value for name, value in found.items()}


def _complete(methods: list[str], known: list[str], entries: Iterable[Entry]) -> Collection:
    """The same with the chosen methods only; refuses what has no counterpart."""
    if unknown := [method for method in methods if method not in known]:
        raise InputError(f"there are no videos of {unknown[0]!r}; there are some of {', '.join(known)}")
    methods = list(dict.fromkeys(methods))
    if len(methods) < 2:
        raise InputError(f"a study compares at least two methods, and here is only {', '.join(methods) or 'none'}")
    kept, names = [], set()
    for entry in entries:
        if entry.name in names:
            raise InputError(f"two sets are named {entry.name}; rename one")
        names.add(entry.name)
        for method in methods:
            video = entry.videos.get(method)
            if video is None or not video.is_file():
                others = [m for m in methods if m in entry.videos and m != method] or ["another"]
                raise InputError(
                    f"{method} has no video of {entry.name}, which {others[0]} has"
                    f"{f' ({video} is missing)' if video else ''}; make it, or name the methods to compare in --methods"
                )
        if not entry.source.is_file():
            raise InputError(f"the source of {entry.name} is missing: there is no file {entry.source}")
        videos = {method: entry.videos[method] for method in methods}
        kept.append(Entry(entry.name, entry.source, videos, entry.prompt, entry.source_prompt))
    return Collection(tuple(methods), tuple(kept))
