"""Real videos: indexes of them, made of what lies in a folder, and a run of the benchmark on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from models import tiny_pipeline
from PIL import Image

from adaflow import AdaFlowPipeline
from adaflow.cli import main
from adaflow.errors import InputError
from adaflow.longv_eval.dataset import Index, Record, index_text, load_index, open_frames
from adaflow.longv_eval.footage import Footage, real_suite
from adaflow.longv_eval.indexing import fetch_dataset, make_index
from adaflow.longv_eval.methods import choose
from adaflow.longv_eval.metrics.weights import Weights
from adaflow.longv_eval.runner import Evaluation
from adaflow.video import write_video

PROMPTS = {"foreground": "a blue boat", "background": "a boat on grass", "style": "a drawing of a boat"}


def film(path: Path, frames: int = 6, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wide = np.random.default_rng(seed).integers(0, 256, (9, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    write_video(path, (wide[:64, 2 * k : 2 * k + 96] for k in range(frames)), fps=12)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short videos, and a third one in another folder."""
    place = tmp_path_factory.mktemp("set")
    for number, name in enumerate(("0001", "0002", "more/0003")):
        film(place / "videos" / f"{name}.mp4", seed=number)
    return place


@pytest.fixture
def folder(videos: Path, tmp_path: Path) -> Path:
    shutil.copytree(videos, tmp_path, dirs_exist_ok=True)
    return tmp_path


# -- an index ---------------------------------------------------------------------------------------------------------


def test_an_index_is_read_as_it_is_written(folder: Path) -> None:
    records = (
        Record("0001", folder / "videos/0001.mp4", PROMPTS, "a red boat", 25),
        Record("b-2", folder / "videos/0002.mp4", {"winter": "a boat in the snow"}),
    )
    index = Index(folder / "index.jsonl", records)
    index.file.write_text(index_text(index))
    assert load_index(folder) == load_index(index.file) == index and index.edits == 4
    yaml = folder / "other.yaml"
    lines = [json.loads(line) for line in index.file.read_text().splitlines()]
    yaml.write_text(json.dumps({"videos": lines}))  # JSON is YAML
    assert load_index(yaml).records == records


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("[]", "a video is an object"),
        ("{", "no JSON"),
        ('{"id": "a/b", "video": "videos/0001.mp4"}', "the id must be"),
        ('{"id": "..", "video": "videos/0001.mp4"}', "the id must be"),
        ('{"video": "videos/0001.mp4"}', "the id must be"),
        ('{"id": "a"}', "video must name a file"),
        ('{"id": "a", "video": "videos/9.mp4"}', "there is no video"),
        ('{"id": "a", "video": "videos/0001.mp4", "edit": {}}', "'edit' is unknown"),
        ('{"id": "a", "video": "videos/0001.mp4", "edits": ["x"]}', "edits must map"),
        ('{"id": "a", "video": "videos/0001.mp4", "edits": {"style": " "}}', "the prompt of style is empty"),
        ('{"id": "a", "video": "videos/0001.mp4", "edits": {"a.b": "x"}}', "the name of an edit"),
        ('{"id": "a", "video": "videos/0001.mp4", "fps": 0}', "fps must be"),
        ('{"id": "a", "video": "videos/0001.mp4", "fps": true}', "fps must be"),
        ('{"id": "a", "video": "videos/0001.mp4", "caption": 3}', "caption must be text"),
        ("", "lists no video"),
        ('{"id": "a", "video": "videos/0001.mp4"}\n' * 2, "two videos with the id 'a'"),
    ],
)
def test_a_wrong_record_is_refused_with_its_place(record: str, words: str, folder: Path) -> None:
    (folder / "index.jsonl").write_text(record)
    with pytest.raises(InputError, match=words) as caught:
        load_index(folder)
    assert "index.jsonl" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "videos: 3", "must hold a list"),
        ("a.yaml", "a: [", "is no YAML"),
        ("a.csv", "id", "is no index"),
        ("none.jsonl", None, "cannot be read"),
    ],
)
def test_what_is_no_index_is_refused(name: str, text: str | None, words: str, folder: Path) -> None:
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(InputError, match=words):
        load_index(folder / name)
    with pytest.raises(InputError, match="adaflow eval index"):
        load_index(folder)


def test_a_folder_of_frames_is_a_video_in_natural_order(tmp_path: Path) -> None:
    for number in (2, 10, 1):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("")
    source = open_frames(tmp_path, 5)
    assert [int(frame[0, 0, 0]) for frame in source.frames()] == [1, 2, 10]
    assert (source.info.frames, source.info.height, float(source.info.frame_rate)) == (3, 6, 5.0)
    (tmp_path / "frame3.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"frame3\.png cannot be read"):
        open_frames(tmp_path)


# -- made of a folder -------------------------------------------------------------------------------------------------


def placed(folder: Path, **tables: str) -> tuple[dict[str, Record], list[str]]:
    for name, text in tables.items():
        (folder / name.replace("__", ".")).write_text(text)
    found = make_index(folder)
    return {record.id: record for record in found.index.records}, list(found.unplaced)


@pytest.mark.parametrize(
    "table",
    [
        {"prompts__csv": "Video,Foreground,background prompt,style_prompt,caption\n0001.mp4,f,b,s,c\n"},
        {"prompts__tsv": "id\tobject\tbg\tstyle\tdescription\n0001\tf\tb\ts\tc\n"},
        {
            "a__json": '[{"file": "videos/0001.mp4", "edits": {"foreground": "f", "bg": "b", "style": "s"}, '
            '"caption": "c"}]'
        },
        {"a__json": '{"0001": {"prompts": ["f", "b", "s"], "caption": "c"}}'},
        {"a__json": '{"version": 1, "data": [{"id": "0001", "fg": "f", "bg": "b", "style": "s", "caption": "c"}]}'},
        {
            "a__jsonl": '{"id": "0001", "type": "object", "prompt": "f"}\n{"id": "0001", "type": "background", '
            '"prompt": "b"}\n{"id": "0001", "type": "style", "prompt": "s", "source prompt": "c"}\n'
        },
        {"a__yaml": "- {video: 0001.mp4, foreground: f, background: b, style: s, caption: c}\n"},
    ],
)
def test_prompts_are_found_in_the_tables_people_make(table: dict[str, str], folder: Path) -> None:
    records, unplaced = placed(folder, **table)
    assert list(records) == ["0001", "0002", "0003"]
    assert records["0001"].edits == {"foreground": "f", "background": "b", "style": "s"}
    assert records["0001"].caption == "c"
    assert unplaced == ["videos/0002.mp4 has no prompts", "videos/more/0003.mp4 has no prompts"]


def test_lines_beside_a_video_are_its_prompts(folder: Path) -> None:
    records, unplaced = placed(folder, **{"0001__txt": "f\nb\n\ns\n", "0002__txt": "c\n", "readme__txt": "a\nb\n"})
    assert list(records["0001"].edits.values()) == ["f", "b", "s"] and records["0002"].caption == "c"
    assert any(said.startswith("readme.txt cannot be read (2 lines") for said in unplaced)


def test_what_finds_no_place_is_said(folder: Path) -> None:
    (folder / "prompts.parquet").touch()
    (folder / "broken.json").write_text("{")
    table = "video,style,mood,fps\n0001.mp4,s,glad,25\n0009.mp4,x,,\n0001.mp4,other,,\n"
    records, unplaced = placed(folder, a__csv=table)
    assert records["0001"].edits == {"style": "s"}
    said = "\n".join(unplaced)
    for words in (
        "prompts.parquet is not read here; export it as CSV or JSON",
        "broken.json cannot be read",
        "a.csv: 1 of 3 rows names no video of the folder",
        "a.csv: no place for the column 'mood'",
        "a.csv: a second style for 0001 is left out: 'other'",
        "videos/0001.mp4 has no prompt for foreground and background",
    ):
        assert words in said
    assert "fps" not in said


def test_videos_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    for part in ("a", "b"):
        film(tmp_path / part / "one clip.mp4", frames=2)
    records, _ = placed(tmp_path)
    assert list(records) == ["one-clip", "b-one-clip"]
    (tmp_path / "index.jsonl").write_text(index_text(make_index(tmp_path).index))
    assert [r.video.parent.name for r in load_index(tmp_path).records] == ["a", "b"]


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no videos"):
        make_index(tmp_path)
    with pytest.raises(InputError, match="--hub zhangsh2001/LongV-EVAL"):
        make_index(tmp_path / "nowhere")
    with pytest.raises(Exception, match="could not be fetched"):
        fetch_dataset("zhangsh2001/LongV-EVAL", tmp_path)  # the tests are offline


def test_the_command_writes_an_index_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.csv").write_text("video,style\n0001,s\n")
    main(["eval", "index", str(folder)])
    said = capsys.readouterr()
    assert said.out.strip() == str(folder / "index.jsonl") and "3 videos with 1 edits" in said.err
    assert "note: videos/0002.mp4 has no prompts" in said.err
    assert len(load_index(folder).records) == 3
    with pytest.raises(SystemExit) as end:
        main(["eval", "index", str(folder)])
    assert end.value.code == 2 and "is there already" in capsys.readouterr().err
    main(["eval", "index", str(folder), "-o", str(folder / "b.jsonl"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert (document["videos"], document["edits"]) == (3, 1) and document["unplaced"]


# -- a run ------------------------------------------------------------------------------------------------------------


def test_footage_is_shown_at_the_size_of_the_edit(videos: Path) -> None:
    shown = Footage(open_frames(videos / "videos/0001.mp4"), (32, 48))
    assert len(shown) == 6 and shown.fps == 12 and not shown.cuts
    assert [frame.shape for frame in shown] == [(32, 48, 3)] * 6
    assert all(np.array_equal(a, b) for a, b in zip(shown, shown, strict=True))


def test_real_videos_are_edited_and_scored_without_truth(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = AdaFlowPipeline.from_pipe(tiny_pipeline())
    record = {"id": "0001", "video": "videos/0001.mp4", "caption": "a red boat", "edits": {"style": PROMPTS["style"]}}
    (folder / "index.jsonl").write_text(json.dumps(record))
    monkeypatch.setattr("adaflow.eval_commands.load", lambda model: pipe)
    monkeypatch.setattr(pipe.backbone, "card", pipe.backbone.card)
    suite = real_suite(load_index(folder), (32, 48))
    assert [(c.id, c.film.fps, c.edits[0].prompt) for c in suite.cases] == [("0001", 12, PROMPTS["style"])]  # type: ignore[attr-defined]
    few = type(suite)(suite.name, suite.cases, 2, {"steps": 2})
    monkeypatch.setattr("adaflow.eval_commands.real_suite", lambda index, size: few)
    (folder / "weights").mkdir()
    out = folder / "out"
    arguments = ["--suite", str(folder), "--methods", "source,vae,adaflow", "--weights", str(folder / "weights")]
    main(["eval", "run", *arguments, "-o", str(out)])
    said = capsys.readouterr()
    assert "# Real videos:" in said.out and "Measured on real videos: 1 with 6 frames and 1 edits" in said.out
    assert "skipped: vq, vq_dense" in said.err
    rows = {file.parent.name: json.loads(file.read_text()) for file in out.glob("results/*/*.json")}
    source = rows["source"]["measures"]
    assert (
        source["warp_error_relative"]
        == source["motion"]
        == source["temporal_flickering"] / source["temporal_flickering"]
    )
    assert source["motion_alignment"] == 0 and rows["source"]["partition"] is None
    assert rows["adaflow"]["measures"]["warp_error_relative"] > 1 and rows["adaflow"]["motion"] == "real"
    assert rows["adaflow"]["method_facts"]["matches_right"] is None and rows["adaflow"]["cost"]["unet_rows"] > 0
    assert {clip.name for clip in (out / "clips").iterdir()} >= {"0001.source.mp4", "0001.style.adaflow.mp4"}
    assert not list((out / "clips").glob("*.truth.mp4")) and "Real videos" in (out / "index.html").read_text()
    main(["eval", "compare", "adaflow", "vae", "--in", str(out)])
    assert "measured on real videos" in capsys.readouterr().out
    again = Evaluation(few, choose("source,vae,adaflow"), out, pipe, weights=Weights(folder / "weights")).run()
    assert again.made == 0


def test_a_video_without_edits_cannot_be_run(folder: Path) -> None:
    (folder / "index.jsonl").write_text('{"id": "a", "video": "videos/0001.mp4"}')
    with pytest.raises(InputError, match="a has no edits"):
        real_suite(load_index(folder), (32, 48))
