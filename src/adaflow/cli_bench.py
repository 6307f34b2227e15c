"""The commands about editing rather than of it: the benchmark, prompts for videos, the user study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

from tyro.conf import Positional

from .cli_parsing import option

JSON = option("print one JSON document on stdout, and nothing else", name="json")
_SUITE = option("which videos and edits (adaflow eval list), or an index of real ones", metavar="SUITE")
_WEIGHTS = option("folder of the metrics' networks (default: weights in adaflow's cache)", metavar="FOLDER")
_METHODS = option("comma-separated methods or groups (adaflow eval list)", metavar="METHOD,…")
_RESULTS = option("folder for the results; the same folder again goes on with them", metavar="FOLDER", aliases=["-o"])
_PART = option("only the K-th of every N videos; other processes do the others, with the same --out", metavar="K/N")
_EVAL_MODEL = option("a known name, a hub id, or a folder (default: miniature, whose world it is)", metavar="MODEL")
_IN = option("the folder of the run that A and B are methods of", name="in", metavar="FOLDER")
_COMPARED = "a method of the run in --in, the folder of a run, or its results/METHOD"


def eval_run(
    suite: Annotated[str, _SUITE],
    out: Annotated[Path, _RESULTS],
    methods: Annotated[str, _METHODS] = "references",
    model: Annotated[Optional[str], _EVAL_MODEL] = None,  # noqa: UP045
    keep_work: Annotated[bool, option("leave the workspaces of finished videos in the folder")] = False,
    weights: Annotated[Optional[Path], _WEIGHTS] = None,  # noqa: UP045
    part: Annotated[str, _PART] = "1/1",
    json_output: Annotated[bool, JSON] = False,
) -> None:
    """Edit videos by several methods, and score them: rendered ones, of a suite, or those of an index.

    Of rendered ones the right answers are known. Resumes if stopped.
    """
    from .eval_commands import run_eval

    run_eval(suite, methods, out, model, keep_work, weights, part, json_output)


def eval_compare(
    a: Annotated[Positional[str], option(_COMPARED, metavar="A")],
    b: Annotated[Positional[str], option("likewise", metavar="B")],
    /,
    folder: Annotated[Optional[Path], _IN] = None,  # noqa: UP045
    json_output: Annotated[bool, JSON] = False,
) -> None:
    """Which differences between A and B hold, and whether A is non-inferior to B."""
    from .eval_commands import compare_methods

    compare_methods(a, b, folder, json_output)


_EDITED = option("the edited video, or a folder of its frames as lossless pictures (better)", metavar="VIDEO")
_SOURCE = option("the video that it was made from", metavar="VIDEO")
_SHOWS = option("what the edited video should show", metavar="TEXT")
_SHOWED = option("what the source shows", metavar="TEXT")
_FETCH = option("fetch missing networks from the hub, where it has them as safetensors")
_BORDERS = option("first frames of the chunks the video was made in, such as 128,256", metavar="FRAME,…")
_ONLY = option("only these metrics (docs/benchmark-metrics.md)", metavar="METRIC,…")
_INDEX = option("where the index goes (default: FOLDER/index.jsonl)", metavar="FILE", aliases=["-o"])
_FPS = option("pace of a folder of frames (default: the source's, else 30)", metavar="FPS")


def eval_score(
    video: Annotated[Positional[Path], _EDITED],
    /,
    prompt: Annotated[Optional[str], _SHOWS] = None,  # noqa: UP045
    source: Annotated[Optional[Path], _SOURCE] = None,  # noqa: UP045
    source_prompt: Annotated[Optional[str], _SHOWED] = None,  # noqa: UP045
    weights: Annotated[Optional[Path], _WEIGHTS] = None,  # noqa: UP045
    fetch: Annotated[bool, _FETCH] = False,
    borders: Annotated[Optional[str], _BORDERS] = None,  # noqa: UP045
    only: Annotated[Optional[str], _ONLY] = None,  # noqa: UP045
    fps: Annotated[Optional[float], _FPS] = None,  # noqa: UP045
    seed: Annotated[int, option("of what DOVER draws (default: 0)")] = 0,
    json_output: Annotated[bool, JSON] = False,
) -> None:
    """Score one edited video with the paper's metrics, as far as their networks are here."""
    from .eval_commands import score_video

    score_video(video, prompt, source, source_prompt, weights, fetch, borders, only, fps, seed, json_output)


def eval_verify(
    weights: Annotated[Optional[Path], _WEIGHTS] = None,  # noqa: UP045
    record: Annotated[bool, option("keep the scores found, for later checks to compare with")] = False,
    fetch: Annotated[bool, _FETCH] = False,
    json_output: Annotated[bool, JSON] = False,
) -> None:
    """Check the paper's metrics by what is known of them beforehand, and their networks where they are here."""
    from .eval_commands import verify_metrics

    verify_metrics(weights, record, fetch, json_output)


def eval_convert(
    file: Annotated[Positional[Path], option("DOVER, LAION's head, raft_large, or pytorch_model.bin", metavar="FILE")],
    /,
    weights: Annotated[Optional[Path], _WEIGHTS] = None,  # noqa: UP045
) -> None:
    """Make safetensors of published pickled weights, read as weights only, once."""
    from .eval_commands import convert_weights

    convert_weights(file, weights)


def eval_index(
    folder: Annotated[Positional[Path], option("a folder of videos, with tables of prompts", metavar="FOLDER")],
    /,
    out: Annotated[Optional[Path], _INDEX] = None,  # noqa: UP045
    hub: Annotated[Optional[str], option("fetch this data set into FOLDER first", metavar="OWNER/NAME")] = None,  # noqa: UP045
    json_output: Annotated[bool, JSON] = False,
) -> None:
    """Make an index of a folder of videos for `eval run --suite`, and say what found no place in it."""
    from .eval_commands import index_videos

    index_videos(folder, out, hub, json_output)


def eval_list(json_output: Annotated[bool, JSON] = False) -> None:
    """The suites, and the methods by name."""
    from .eval_commands import list_eval

    list_eval(json_output)


_VIDEOS = option("an index of videos, or a folder of them", metavar="INDEX")
_ENDPOINT = option("an OpenAI-compatible one, such as https://api.example.com/v1", metavar="URL")
_WRITER = option("makes the prompts, and the captions too if it is alone: its name there", metavar="NAME")
_CAPTIONER = option("makes the captions, from frames (default: as --model)", metavar="NAME")
_ELSEWHERE = option("where the captioner is (default: as --endpoint)", metavar="URL")
_ANNOTATED = option("where the index with the prompts goes (default: INDEX itself)", metavar="FILE", aliases=["-o"])
_SOME = option("only these videos of the index", metavar="ID,…")


def annotate(
    videos: Annotated[Positional[Path], _VIDEOS],
    /,
    endpoint: Annotated[str, _ENDPOINT],
    model: Annotated[str, _WRITER],
    captioner: Annotated[Optional[str], _CAPTIONER] = None,  # noqa: UP045
    captioner_endpoint: Annotated[Optional[str], _ELSEWHERE] = None,  # noqa: UP045
    out: Annotated[Optional[Path], _ANNOTATED] = None,  # noqa: UP045
    frames: Annotated[int, option("frames of a video that the captioner is shown (default: 8)")] = 8,
    frame_size: Annotated[int, option("their longer side in pixels, at most (default: 512)", metavar="PIXELS")] = 512,
    only: Annotated[Optional[str], _SOME] = None,  # noqa: UP045
    asks: Annotated[int, option("how often a question is put whose answers cannot be used (default: 4)")] = 4,
    retries: Annotated[int, option("how often one is sent again when the server fails (default: 6)")] = 6,
    timeout: Annotated[float, option("seconds in which an answer must come (default: 120)", metavar="SECONDS")] = 120,
    json_output: Annotated[bool, JSON] = False,
) -> None:
    """Have models make captions and LongV-EVAL's prompts for videos, as the paper did.

    The key is taken from ADAFLOW_API_KEY, else OPENAI_API_KEY. The same command again asks only what is missing.
    """
    from .annotate_commands import annotate_videos

    annotate_videos(
        videos,
        endpoint,
        model,
        captioner,
        captioner_endpoint,
        out,
        frames,
        frame_size,
        only,
        asks,
        retries,
        timeout,
        json_output,
    )


_FROM = option("a folder of adaflow eval run, a manifest, or a folder of videos for each method", metavar="FROM …")
_SOURCES = option("folder of the sources, for folders of methods", metavar="FOLDER")
_PROMPTS = option("YAML or JSON file with a prompt for each name, for folders of methods", metavar="FILE")
_ONLY_METHODS = option("comma-separated methods to compare (default: all that edit)", metavar="METHOD,…")
_DESIGN = option("all methods side by side (sets), or two at a time (pairs); default: sets", metavar="{sets,pairs}")
_AGAINST = option("with pairs: only those with this method", metavar="METHOD")
_PASSWORD_FILE = option("the password that other machines need (or ADAFLOW_STUDY_PASSWORD)", metavar="FILE")
_TALLIED = option("where the tables go (default: STUDY)", metavar="FOLDER", aliases=["-o"])
_STUDY = option("a folder that adaflow study build made", metavar="STUDY")


def study_build(
    places: Annotated[Positional[tuple[Path, ...]], _FROM],
    /,
    out: Annotated[Path, option("a new folder (default: study)", metavar="STUDY", aliases=["-o"])] = Path("study"),
    source: Annotated[Optional[Path], _SOURCES] = None,  # noqa: UP045
    prompts: Annotated[Optional[Path], _PROMPTS] = None,  # noqa: UP045
    methods: Annotated[Optional[str], _ONLY_METHODS] = None,  # noqa: UP045
    design: Annotated[str, _DESIGN] = "sets",
    against: Annotated[Optional[str], _AGAINST] = None,  # noqa: UP045
    sets: Annotated[Optional[int], option("draw as many sources and prompts (default: all)", metavar="N")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], option("of all draws (default: a random one)", metavar="SEED")] = None,  # noqa: UP045
    title: Annotated[str, option("what stands above the page (default: Edited videos)", metavar="TEXT")] = (
        "Edited videos"
    ),
) -> None:
    """Make a blind set of edited videos, in random order and under names that say nothing."""
    from .study.commands import build_study

    build_study(places, out, source, prompts, methods, design, against, sets, seed, title)


def study_serve(
    study: Annotated[Positional[Path], _STUDY],
    /,
    host: Annotated[str, option("address (default: 127.0.0.1); others need a password", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, option("port (default: 8321); 0: any that is free", metavar="PORT")] = 8321,
    password_file: Annotated[Optional[Path], _PASSWORD_FILE] = None,  # noqa: UP045
) -> None:
    """Show the sets to participants in their browsers, and store their answers."""
    from .study.commands import serve_study

    serve_study(study, host, port, password_file)


def study_tally(
    study: Annotated[Positional[Path], _STUDY],
    /,
    out: Annotated[Optional[Path], _TALLIED] = None,  # noqa: UP045
    unfinished: Annotated[bool, option("count those as well who have not finished")] = False,
    json_output: Annotated[bool, JSON] = False,
) -> None:
    """Percentages of choices with their intervals, and agreement, as Markdown and CSV."""
    from .study.commands import tally_study

    tally_study(study, out, unfinished, json_output)


_FOLDER = option("where videos and edits are kept (default: studio in the cache)", metavar="FOLDER")
_EXPOSE = option("let other machines in, by a password; needs --host too")


def studio(
    host: Annotated[str, option("address (default: 127.0.0.1); others need --expose", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, option("port (default: 8320); 0: any that is free", metavar="PORT")] = 8320,
    expose: Annotated[bool, _EXPOSE] = False,
    password_file: Annotated[
        Optional[Path],  # noqa: UP045
        option("the password that other machines need (or ADAFLOW_STUDIO_PASSWORD)", metavar="FILE"),
    ] = None,
    folder: Annotated[Optional[Path], _FOLDER] = None,  # noqa: UP045
    max_upload_mb: Annotated[int, option("largest upload (default: 4000)", metavar="MB")] = 4000,
) -> None:
    """Open the studio, a local page: look at a video, edit it, compare."""
    from .studio.commands import serve_studio

    serve_studio(host, port, expose, password_file, folder, max_upload_mb)
