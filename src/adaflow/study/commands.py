"""What `adaflow study` does: build, serve, tally."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast, get_args

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..console import err, print_json
from ..errors import ConfigError, InputError
from .answers import Answers
from .build import Choices, Design, build
from .collect import collect
from .plan import ANSWERS, QUESTIONS, load_study
from .server import StudyServer
from .site import Site
from .tally import markdown, tally, write_tally

PASSWORD = "ADAFLOW_STUDY_PASSWORD"


def build_study(
    places: tuple[Path, ...],
    out: Path,
    source: Path | None,
    prompts: Path | None,
    methods: str | None,
    design: str,
    against: str | None,
    sets: int | None,
    seed: int | None,
    title: str,
) -> None:
    """`adaflow study build`."""
    if design not in get_args(Design):
        raise ConfigError(f"--design is {design!r}; choose {' or '.join(get_args(Design))}")
    wanted = [word.strip() for word in (methods or "").split(",") if word.strip()]
    found = collect(places, source, prompts, wanted)
    choices = Choices(cast(Design, design), against, sets, seed, title)
    columns = TextColumn("copying videos"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task("")
        built = build(found, out, choices, lambda done, of: bar.update(task, completed=done, total=of))
    for note in built.notes:
        err.print(f"note: {note}")
    err.print(
        f"sets: {len(built.study.items)}, of {len(found.methods) if design == 'sets' else 2} videos each, with "
        f"{len(built.study.items) * len(QUESTIONS)} questions in all; keep {out / 'key.json'} to yourself, and go on "
        f"with: adaflow study serve {out}"
    )
    print(out)


def serve_study(folder: Path, host: str, port: int, password_file: Path | None) -> None:
    """`adaflow study serve`."""
    study = load_study(folder)
    password = _password(password_file)
    site = Site(study, Answers(folder / ANSWERS, study.id), folder)
    with StudyServer(site, host, port, password) as server:
        print(server.url, flush=True)
        err.print(f"answers go to {folder / ANSWERS}; stop with Ctrl+C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            finished = sum(p.finished for p in site.answers.participants())
            err.print(f"stopped; participants who have finished: {finished}")


def tally_study(folder: Path, out: Path | None, unfinished: bool, as_json: bool) -> None:
    """`adaflow study tally`."""
    found = tally(folder, unfinished)
    files = write_tally(found, out or folder)
    if as_json:
        print_json({**found.to_json(), "files": [str(file) for file in files]})
        return
    print(markdown(found), end="")
    err.print(f"written: {', '.join(str(file) for file in files)}")


def _password(file: Path | None) -> str | None:
    """From the file, else from the environment; None for none."""
    if file is None:
        return os.environ.get(PASSWORD)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"the password cannot be read from {file} ({error})") from error
