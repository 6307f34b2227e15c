"""Local edits: how masks are read and softened, and that nothing but what they show is edited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as checks
from hypothesis import strategies as st
from models import save_tiny, tiny_pipeline
from PIL import Image
from torch import Tensor
from video_files import make

from adaflow import AdaFlowPipeline, EditConfig
from adaflow.cli import main
from adaflow.config import InjectionConfig, KeyframeConfig, MaskConfig, OutputConfig, RunConfig
from adaflow.errors import Cancelled, ConfigError, InputError
from adaflow.inversion import invert
from adaflow.mask_source import SLACK, levels, open_mask
from adaflow.masks import Kept, mixed, softened
from adaflow.progress import Progress
from adaflow.video import ArraySource, read_frames, write_video

PROMPT, SIZE, STEPS, N = "a red square", (32, 48), 3, 9


def settings(**given: Any) -> EditConfig:
    """Three clips of 4, 4 and 1 frames; two frames a run; a mask with hard edges."""
    usual = {
        "steps": STEPS,
        "keyframes": KeyframeConfig(longest_clip=4, mean_threshold=-1.0, window_threshold=-1.0),
        "run": RunConfig(rows=4),
        "mask": MaskConfig(feather=0),
    }
    return EditConfig(**(usual | given))


def video(n: int = N, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Coloured blobs that wander."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((size[1] + n, size[0]), Image.Resampling.BICUBIC))
    return np.stack([image[:, i : i + size[1]] for i in range(n)])


def moving(n: int = N, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A white square that goes to the right, and is not there in the last frame."""
    mask = np.zeros((n, *size), np.uint8)
    for i in range(n - 1):
        mask[i, 8:20, 8 + 2 * i : 20 + 2 * i] = 255
    return mask


@pytest.fixture(scope="module")
def pipe() -> AdaFlowPipeline:
    torch.set_num_threads(1)
    return AdaFlowPipeline.from_pipe(tiny_pipeline())


def stored(workspace: Path, stage: str, name: str, dtype: Any, *shape: int) -> Tensor:
    (file,) = (workspace / "stages").glob(f"{stage}-*/{name}.bin")
    return torch.from_numpy(np.fromfile(file, dtype).reshape(shape))


# -- masks -----------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 4),
    st.integers(0, 4),
    st.booleans(),
)
@checks(deadline=None, max_examples=60)
def test_a_mask_is_grown_and_feathered_as_pixel_by_pixel(
    seed: int, h: int, w: int, grow: int, feather: int, invert: bool
) -> None:
    given_mask = np.random.default_rng(seed).integers(0, 5, (h, w)) / 4.0
    mask = 1 - given_mask if invert else given_mask
    reach = grow + feather

    def around(values: np.ndarray, y: int, x: int, r: int) -> np.ndarray:
        return values[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]

    grown = np.array([[around(mask, y, x, reach).max() for x in range(w)] for y in range(h)])
    wide = np.pad(grown, feather, mode="edge")
    wanted = [[wide[y : y + 2 * feather + 1, x : x + 2 * feather + 1].mean() for x in range(w)] for y in range(h)]
    config = MaskConfig(grow=grow, feather=feather, invert=invert, restore=True)
    found = softened(torch.from_numpy(given_mask).float()[None], config)[0].numpy()
    assert np.abs(found - 255 * np.array(wanted)).max() <= 0.51
    assert (found[mask == 1] == 255).all()


def test_what_a_codec_leaves_of_black_and_white_is_black_and_white() -> None:
    picture = np.zeros((1, 5, 3), np.uint8)
    picture[0, :, 1] = [0, SLACK, 128, 255 - SLACK, 255]  # of a coloured mask the brightest channel counts
    assert levels(picture)[0].tolist() == pytest.approx([0, 0, 112 / 223, 1, 1])


def test_a_mask_is_a_picture_a_video_a_folder_or_an_array(tmp_path: Path) -> None:
    planes = moving()

    def shown(mask: Any) -> np.ndarray:
        return np.stack([levels(p) for p in open_mask(mask).frames()])

    exact = shown(planes)
    assert exact.shape == (N, *SIZE) and set(np.unique(exact)) == {0, 1}
    assert np.array_equal(shown(planes == 255), exact) and np.array_equal(shown(planes / 255), exact)
    assert np.array_equal(shown([Image.fromarray(p) for p in planes]), exact)
    assert np.array_equal(shown(planes[0]), exact[:1])
    Image.fromarray(planes[0]).save(tmp_path / "one.png")
    assert np.array_equal(shown(tmp_path / "one.png"), exact[:1])
    Image.fromarray(planes[0] == 255).save(tmp_path / "bits.png")
    assert np.array_equal(shown(str(tmp_path / "bits.png")), exact[:1])
    Image.fromarray(planes[0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(shown(tmp_path / "deep.png"), exact[:1])
    (tmp_path / "many").mkdir()
    for i, plane in enumerate(planes):
        Image.fromarray(plane).save(tmp_path / "many" / f"mask-{i + 3}.png")  # 10 and 11 come after 9
    assert np.array_equal(shown(tmp_path / "many"), exact)
    write_video(tmp_path / "mask.mp4", [np.repeat(p[..., None], 3, 2) for p in planes], fps=12)
    assert np.abs(shown(tmp_path / "mask.mp4") - exact).mean() < 0.02


def _half_clear(path: Path) -> None:
    Image.fromarray(np.full((8, 8, 4), (255, 255, 255, 100), np.uint8)).save(path)


@pytest.mark.parametrize(
    "write, words",
    [
        (lambda path: path.write_text("no picture"), "cannot be read"),
        (lambda path: None, "cannot be read (No such file"),
        (_half_clear, "partly transparent"),
        (lambda path: path.mkdir(), "no pictures in the folder"),
    ],
)
def test_what_is_no_mask_is_refused(write: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    write(tmp_path / "mask.png")
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        open_mask(tmp_path / "mask.png")


# -- edits -----------------------------------------------------------------------------------------------------------


def test_nothing_but_the_mask_is_edited(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    frames, mask = video(), moving()
    result = pipe(frames, PROMPT, mask=mask, config=settings(), workspace=tmp_path / "w")
    edited = np.asarray(result.frames)
    assert np.array_equal(edited[mask == 0], frames[mask == 0])  # to the last bit
    assert (edited[mask == 255] != frames[mask == 255]).any(axis=1).mean() > 0.9
    h, w = SIZE[0] // 4, SIZE[1] // 4
    clean = stored(tmp_path / "w", "latents", "latents", np.float32, N, 4, h, w)
    last = stored(tmp_path / "w", "edit", ("even", "odd")[(STEPS - 1) % 2], np.float32, N, 4, h, w)
    cells = mask.reshape(N, h, 4, w, 4).max(axis=(2, 4)) == 255
    assert torch.equal(last.movedim(1, 3)[~cells], clean.movedim(1, 3)[~cells])
    changed = (last != clean).any(dim=1)
    assert changed[torch.from_numpy(cells)].all() and not changed[-1].any()
    assert result.record["mask"] == open_mask(mask).fingerprint()


def test_a_white_mask_changes_nothing(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    whole = pipe(video(), PROMPT, config=settings(), workspace=tmp_path / "w")
    white = np.full(SIZE, 255, np.uint8)
    masked = pipe(video(), PROMPT, mask=white, config=settings(), workspace=tmp_path / "w")
    black = pipe(
        video(),
        PROMPT,
        mask=255 - white,
        config=settings(mask=MaskConfig(feather=0, invert=True)),
        workspace=tmp_path / "w",
    )
    assert np.array_equal(whole.frames, masked.frames) and np.array_equal(whole.frames, black.frames)
    assert "mask" not in whole.record


def test_a_step_is_one_of_sampling_with_the_rest_set_back(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    """One frame, no injection, no guidance: sampling by hand, the inversion put back outside after every step."""
    frame, mask = video(1), np.zeros(SIZE, np.uint8)
    mask[8:24, 12:36] = 128
    config = settings(
        injection=InjectionConfig(features=0.0, attention=0.0),
        guidance_scale=1.0,
        guidance_end=0.0,
        mask=MaskConfig(feather=0, restore=False),
    )
    result = pipe(frame, PROMPT, mask=mask, config=config, workspace=tmp_path / "w")
    backbone = pipe.backbone
    texts = backbone.conditioning("", "", PROMPT)
    with torch.inference_mode():
        clean = backbone.encode(torch.from_numpy(frame))
        noised = {t: z.to(torch.float16).float() for t, z in invert(backbone, clean, texts, STEPS).items()}
        scheduler = backbone.scheduler(STEPS)
        steps = scheduler.timesteps.tolist()
        share = torch.from_numpy(levels(np.repeat(mask[..., None], 3, 2))).mul(255).round() / 255
        share = share.reshape(SIZE[0] // 4, 4, SIZE[1] // 4, 4).amax(dim=(1, 3))
        z = noised[steps[0]]
        for i, t in enumerate(steps):
            z = scheduler.step(backbone.predict(z, t, texts.rows([0], "prompt")), t, z, return_dict=False)[0]
            z = share * z + (1 - share) * (noised[steps[i + 1]] if i + 1 < STEPS else clean)
    h, w = SIZE[0] // 4, SIZE[1] // 4
    last = stored(tmp_path / "w", "edit", ("even", "odd")[(STEPS - 1) % 2], np.float32, 1, 4, h, w)
    assert torch.allclose(last, z, atol=1e-4), (last - z).abs().max()
    assert not torch.allclose(last, clean, atol=1e-2)
    assert np.array_equal(result.frames[0], backbone.decode(last)[0].numpy())  # nothing restored
    restored = pipe(
        frame,
        PROMPT,
        mask=mask,
        config=EditConfig(mask=MaskConfig(restore=True)).over(config),
        workspace=tmp_path / "w",
    )
    assert np.array_equal(restored.frames[0][mask == 0], frame[0][mask == 0])


def test_a_stopped_local_edit_goes_on_to_the_same_bytes(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    mask = moving()
    usual = pipe(video(), PROMPT, mask=mask, config=settings(), workspace=tmp_path / "usual")
    for stage, at in (("mask", 1), ("edit", N + 5), ("decode", 5)):

        def stop(progress: Progress, stage: str = stage, at: int = at) -> None:
            if progress.stage == stage and progress.done >= at:
                raise Cancelled("stopped")

        with pytest.raises(Cancelled):
            pipe(video(), PROMPT, mask=mask, config=settings(), workspace=tmp_path / "w", on_progress=stop)
    again = pipe(video(), PROMPT, mask=mask, config=settings(), workspace=tmp_path / "w")
    assert np.array_equal(again.frames, usual.frames)


def test_another_mask_is_another_edit_and_the_same_is_found(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    def steps_done(given_mask: np.ndarray, **config: Any) -> int:
        steps: list[int] = []
        pipe(
            video(2), PROMPT, mask=given_mask, config=settings(**config), workspace=tmp_path / "w",
            callback_on_step_end=lambda p, step, t, more: steps.append(step),
        )  # fmt: skip
        return len(steps)

    assert steps_done(moving(2)) == STEPS
    assert steps_done(moving(2)) == 0
    assert steps_done(moving(2)[:1]) == STEPS
    assert steps_done(moving(2), mask=MaskConfig(feather=0, grow=1)) == STEPS
    assert steps_done(moving(2), mask=MaskConfig(feather=0, restore=False)) == 0  # decoded anew, not edited


def test_at_the_sources_size_its_own_pixels_are_kept_sharp(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    large = video(3, (64, 96))
    mask = moving(3, (64, 96))
    config = settings(height=32, output=OutputConfig(size="source", quality=0, keep="none"))
    result = pipe(large, PROMPT, mask=mask, config=config, workspace=tmp_path / "w")
    assert result.kept is not None and result.frames.shape == (3, *SIZE, 3)
    full = np.stack(list(result.kept.full_size(iter(result.frames))))
    far = np.stack([np.asarray(Image.fromarray(m).resize((96, 64))) for m in mask]) == 0
    for i in range(3):  # a margin of a pixel of the small frame
        far[i] &= np.roll(far[i], 4, 0) & np.roll(far[i], -4, 0) & np.roll(far[i], 4, 1) & np.roll(far[i], -4, 1)
    assert far.mean() > 0.5 and np.array_equal(full[far], large[far])
    assert not np.array_equal(full[0], large[0])
    written = np.stack(list(read_frames(result.save(tmp_path / "out.mp4"))))
    assert written.shape == large.shape and np.abs(written[far].astype(int) - large[far]).mean() < 3


def test_pictures_are_mixed_by_shares() -> None:
    a, b = torch.full((1, 1, 3, 3), 200, dtype=torch.uint8), torch.full((1, 1, 3, 3), 101, dtype=torch.uint8)
    found = mixed(a, b, torch.tensor([[[0.0, 0.5, 1.0]]]))
    assert found[0, 0, :, 0].tolist() == [101, 150, 200] and found.dtype == torch.uint8


def test_a_source_that_became_shorter_is_not_passed_over(tmp_path: Path, pipe: AdaFlowPipeline) -> None:
    result = pipe(video(3), PROMPT, mask=moving(3), config=settings(), workspace=tmp_path / "w")
    assert result.kept is not None
    shorter = Kept(ArraySource(video(2)), result.kept.mask, result.kept.content)
    with pytest.raises(ValueError):
        list(shorter.full_size(iter(result.frames)))


def test_a_preview_shows_the_local_edit(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    frames, mask = video(), moving()
    found = pipe.preview(frames, PROMPT, mask=mask, keyframes=2, config=settings(), workspace=tmp_path / "w")
    for key, edited in zip(found.keys, found.edited, strict=True):
        assert np.array_equal(edited[mask[key] == 0], frames[key][mask[key] == 0])
        assert mask[key].any() == (not np.array_equal(edited, frames[key]))


@pytest.mark.parametrize(
    "mask, words",
    [
        (np.zeros(SIZE, np.uint8), "nothing to edit: what is white"),
        (np.full((4, *SIZE), 255, np.uint8), "4 frames and the video 9"),
        (np.full((48, 32), 255, np.uint8), "32x48 and the video 48x32"),
        (np.zeros(7), r"shape \(7,\)"),
        (np.full(SIZE, 2.0), "outside"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_any_work(
    mask: np.ndarray, words: str, pipe: AdaFlowPipeline, tmp_path: Path
) -> None:
    for ask in (
        lambda: pipe(video(), PROMPT, mask=mask, config=settings(), workspace=tmp_path / "w"),
        lambda: pipe.inspect(video(), mask=mask, config=settings(), workspace=tmp_path / "w"),
        lambda: pipe.preview(video(), PROMPT, mask=mask, config=settings(), workspace=tmp_path / "w"),
    ):
        with pytest.raises(InputError, match=words):
            ask()
    assert not list((tmp_path / "w").glob("stages/latents-*"))


def test_a_compared_system_takes_no_mask(pipe: AdaFlowPipeline, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AdaFlow's own method, not with tokenflow"):
        pipe(video(), PROMPT, method="tokenflow", mask=moving(), config=settings(), workspace=tmp_path / "w")


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`adaflow edit` of a short video by a tiny model."""
    monkeypatch.setenv("ADAFLOW_CACHE", str(tmp_path / "cache"))
    model, film = save_tiny(tmp_path / "tiny"), make(tmp_path / "in.mp4", n=3)
    more = ["--steps", "2", "--height", "32", "--no-report", "-o", str(tmp_path / "out.mp4")]
    return ["edit", str(film), PROMPT, "--model", str(model), *more]


def test_the_command_line_takes_a_mask(asked: list[str], tmp_path: Path) -> None:
    Image.fromarray(np.full((36, 64), 255, np.uint8)).save(tmp_path / "all.png")
    info = open_mask(Path(asked[1])).info
    half = np.zeros((info.height, info.width), np.uint8)
    half[:, : info.width // 2] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    main([*asked, "--mask", str(tmp_path / "half.png"), "--mask.invert", "--mask.feather", "0"])
    assert (tmp_path / "out.mp4").stat().st_size


@pytest.mark.parametrize("name", ["none.png", "none.mp4", "text.mp4", "black.png"])
def test_the_command_line_refuses_what_is_no_mask(
    name: str, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    info = open_mask(Path(asked[1])).info
    Image.fromarray(np.zeros((info.height, info.width), np.uint8)).save(tmp_path / "black.png")
    with pytest.raises(SystemExit) as end:
        main([*asked, "--mask", str(tmp_path / name)])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and said.startswith("adaflow: ")
    assert ("nothing to edit" if name == "black.png" else name) in said
    assert not (tmp_path / "out.mp4").exists()
