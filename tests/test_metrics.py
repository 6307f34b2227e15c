"""The benchmark's measures give what is known beforehand: of the truth, of the source, of faults put in on purpose."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaflow.errors import InputError
from adaflow.longv_eval.metrics import measure, measure_partition
from adaflow.longv_eval.metrics.answers import alone, true_words, visible_share, without_others
from adaflow.longv_eval.metrics.correspondence import Correspondence
from adaflow.longv_eval.metrics.images import PSNR_CAP, psnr, sample, ssim
from adaflow.longv_eval.metrics.motion import ROUNDING, tracks
from adaflow.longv_eval.metrics.partition import matched_cuts, spearman
from adaflow.miniature.classifier import AttributeClassifier
from adaflow.miniature.scene import Light, Zoom
from adaflow.miniature.world import HEIGHT, OBJECTS, WIDTH, Film, Scene, SceneObject, Shot, video

# -- pictures -------------------------------------------------------------------------------------------------------


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_psnr_of_a_constant_error() -> None:
    a = np.full((16, 20, 3), 100, np.uint8)
    assert psnr(a, a + np.uint8(10)) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(a, a) == PSNR_CAP
    b = a.copy()
    b[:, :10] += 5
    left = np.zeros((16, 20), bool)
    left[:, :10] = True
    assert psnr(a, b, left) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(a, b, ~left) == PSNR_CAP
    assert psnr(a, b) == pytest.approx(20 * math.log10(255 / 5) + 10 * math.log10(2))
    for other, where in ((a[:8], None), (a, np.zeros((16, 20), bool))):
        with pytest.raises(ValueError):
            psnr(a, other, where)


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang 2004 by its definition: window by window, weighted variances about the weighted mean, in float64."""
    g = np.array([[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in range(-5, 6)] for i in range(-5, 6)])
    g /= g.sum()
    values = []
    for channel in range(3):
        for top in range(a.shape[0] - 10):
            for left in range(a.shape[1] - 10):
                x, y = (image[top : top + 11, left : left + 11, channel].astype(np.float64) for image in (a, b))
                mx, my = (g * x).sum(), (g * y).sum()
                vx, vy, xy = (g * (x - mx) ** 2).sum(), (g * (y - my) ** 2).sum(), (g * (x - mx) * (y - my)).sum()
                c1, c2 = 6.5025, 58.5225
                values.append((2 * mx * my + c1) * (2 * xy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("name", ["noise", "flat and bright", "a render and its edit"])
def test_ssim_is_the_definition(name: str) -> None:
    film = video("pan-1", 1)
    a, b = {
        "noise": (noise(1, 24, 30, 3), noise(2, 24, 30, 3)),
        "flat and bright": (np.full((20, 20, 3), 250, np.uint8), 250 - noise(3, 20, 20, 3) // 64),
        "a render and its edit": (film.frame(0)[60:90, 70:110], film.edit(colour="purple").frame(0)[60:90, 70:110]),
    }[name]
    assert ssim(a, b) == pytest.approx(plain_ssim(a, b), abs=2e-5)
    assert ssim(a, a) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError):
        ssim(a[:10], b[:10])


def test_sampling_is_bilinear() -> None:
    """Against the formula, one value at a time, also on and beyond the borders."""
    image = noise(4, 7, 9, 2, 3)
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.uniform(-2, 10, 60), [0, 8, 3, 8.5]]).astype(np.float32)
    y = np.concatenate([rng.uniform(-2, 8, 60), [0, 6, 2, 6.5]]).astype(np.float32)
    found = sample(image, x, y)
    assert found.shape == (64, 2, 3) and found.dtype == np.float32
    for i in range(64):
        cx, cy = min(max(float(x[i]), 0), 8), min(max(float(y[i]), 0), 6)
        wanted = sum(
            max(0, 1 - abs(cx - column)) * max(0, 1 - abs(cy - row)) * image[row, column].astype(float)
            for row in range(7)
            for column in range(9)
        )
        np.testing.assert_allclose(found[i], wanted, atol=1e-3)


# -- stand-ins for a suite's cases ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnEdit:
    name: str
    kind: str
    changes: Mapping[str, str]
    prompt: str
    target: Film


@dataclass(frozen=True)
class ACase:
    film: Film
    edits: tuple[AnEdit, ...] = ()
    id: str = "pan-001"
    motion: str = "pan"
    source_prompt: str = ""
    seed: int = 0


CHANGES = {
    "colour": {"colour": "blue"},
    "object": {"object": "truck"},
    "background": {"background": "snow"},
    "style": {"style": "watercolor"},
}


def edited(film: Film, kind: str = "colour") -> tuple[ACase, AnEdit]:
    changes = CHANGES[kind]
    edit = AnEdit(
        {"colour": "foreground", "object": "foreground"}.get(kind, kind), kind, changes, "", film.edit(**changes)
    )
    return ACase(film, (edit,)), edit


CAR = SceneObject("car", "red", x=112, y=116, size=70)


def shots(*lengths: int, thing: SceneObject = CAR, pan: float = 0.0, **changes: Any) -> Film:
    """Shots one after another, each of another place; nothing moves unless told."""
    stops = np.cumsum(lengths).tolist()
    return Film(
        tuple(
            Shot(Scene("grass", 170 + k, (thing,), offset=60.0, pan=pan, **changes), stop - length, stop)
            for k, (length, stop) in enumerate(zip(lengths, stops, strict=True))
        )
    )


MOVING = replace(CAR, x=70, vx=1.3)


class Words:
    """A classifier that reads what the first pixel of a frame says: bit 1 another colour, bit 2 another background.

    Pixels above 3, as real frames have there, say nothing.
    """

    def __init__(self, words: Mapping[str, str]) -> None:
        self.words = words

    def classify(self, frames: np.ndarray) -> dict[str, list[str]]:
        codes = [code if code < 4 else 0 for code in frames[:, 0, 0, 0].tolist()]
        read = {name: [word] * len(codes) for name, word in self.words.items()}
        read["colour"] = ["white" if code & 1 else self.words["colour"] for code in codes]
        read["background"] = ["sea" if code & 2 else self.words["background"] for code in codes]
        return read


def score(
    film: Film, frames: Any, kind: str = "colour", borders: Sequence[int] | None = None, classifier: Any = None
) -> dict[str, float | None]:
    case, edit = edited(film, kind)
    return measure(case, edit, frames, borders=borders, classifier=classifier or Words(true_words(edit.target, 0)))


def given_value(value: float | None) -> float:
    assert value is not None
    return value


@pytest.fixture(scope="module")
def classifier() -> AttributeClassifier:
    return AttributeClassifier.load()


# -- the truth, the source, a frozen picture ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CHANGES)
def test_the_target_is_perfect(kind: str, classifier: AttributeClassifier) -> None:
    film = shots(14, 12, thing=MOVING, pan=0.6)
    target = film.edit(**CHANGES[kind])
    found = score(film, target, kind, borders=[7, 14, 20], classifier=classifier)
    to_source = np.mean([psnr(a, b) for a, b in zip(film, target, strict=True)])
    assert found["frames"] == 26
    assert found["success"] == 1 and found["kept"] == 1 and given_value(found["readable"]) >= 0.95
    assert found["psnr"] == PSNR_CAP and found["ssim"] == pytest.approx(1, abs=1e-6)
    assert found["gain"] == pytest.approx(PSNR_CAP - to_source)
    assert found["unedited_psnr"] == (None if kind == "style" else PSNR_CAP)
    assert found["warp_relative"] == 1 and found["motion"] == 1
    assert found["flicker"] == 0 and found["drift"] == 0
    assert found["seam"] == pytest.approx(1)
    assert 0 < given_value(found["warp"]) < (12 if kind == "style" else 4)


@pytest.mark.parametrize("kind", CHANGES)
def test_the_source_is_no_edit(kind: str, classifier: AttributeClassifier) -> None:
    film = shots(12, thing=MOVING, pan=0.6)
    found = score(film, film, kind, classifier=classifier)
    assert found["success"] == 0 and given_value(found["kept"]) >= 0.9
    assert found["gain"] == 0 and given_value(found["psnr"]) < 35
    assert found["unedited_psnr"] == (None if kind == "style" else PSNR_CAP)
    assert found["seam"] is None
    if kind == "colour":
        assert found["warp_relative"] == pytest.approx(1, abs=0.15)


def test_a_frozen_video_does_not_move() -> None:
    film = shots(16, thing=MOVING, pan=0.6)
    found = score(film, [film.frame(0)] * 16)
    assert found["motion"] == 0
    assert given_value(found["warp_relative"]) > 3  # the true motion is known: standing still does not pass for steady


def test_a_still_scene_has_no_motion_to_compare_with() -> None:
    film = shots(12)
    found = score(film, film.edit(**CHANGES["colour"]))
    assert found["motion"] is None
    assert found["warp"] == 0 and found["warp_relative"] == 1  # neither is below what rounding alone makes


def test_another_object_is_followed_only_where_both_move_alike() -> None:
    """The new outline is not the old one: where they differ, no pixel is followed, and a perfect edit stays perfect."""
    case, edit = edited(shots(4, thing=MOVING, pan=0.5), "object")
    path = tracks(case, edit, 1, 2)
    followed = np.zeros((HEIGHT, WIDTH), bool)
    followed.flat[path.here] = True
    covered = [film.masks(1)[0] for film in (case.film, edit.target)]
    assert not followed[np.abs(covered[0] - covered[1]) > 0.05].any()
    moves = path.x - path.here % WIDTH
    assert np.allclose(np.unique(np.round(moves, 3)), [-0.5, 1.3])


# -- faults put in on purpose ---------------------------------------------------------------------------------------


def shaken(frames: int, amount: int, levels: Sequence[int] | None = None) -> list[np.ndarray]:
    """Grey frames, of level 128 unless told, each pixel `amount` up or down."""
    rng = np.random.default_rng(0)
    return [
        np.uint8((128 if levels is None else levels[i]) + amount * rng.choice([-1, 1], (HEIGHT, WIDTH, 3)))
        for i in range(frames)
    ]


@pytest.mark.parametrize(("pan", "share"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5)])
def test_noise_raises_warp_and_flicker_by_what_it_must(pan: float, share: float) -> None:
    """Noise of +-a that is new in every frame, on grey that follows any motion.

    Sampling between pixels leaves ((1 - s)^2 + s^2) a^2 of its variance. On whole pixels n1 - 2 n2 + n3 is 0, 2a or 4a
    in size, with chances 1/4, 1/2, 1/4.
    """
    film = shots(8, thing=replace(CAR, y=70, size=20), pan=pan)
    found = score(film, shaken(8, 6))
    assert found["warp"] == pytest.approx(6 * math.sqrt(1 + (1 - share) ** 2 + share**2), rel=0.01)
    if share == 0:  # the target itself keeps every pixel's level along whole pixels
        assert found["flicker"] == pytest.approx(12, rel=0.01)


def test_a_step_at_a_border_is_a_seam_only_there() -> None:
    """Noise of +-1 makes sqrt(2) everywhere; 8 levels from frame 10 on make sqrt(2 + 64) of that one pair.

    Nothing moves, so the target's own error is 0; one level is added to each.
    """
    film = shots(12)
    frames = shaken(12, 1, [120] * 7 + [128] * 5)
    ratio = (math.sqrt(66) + 1) / (math.sqrt(2) + 1)
    assert score(film, frames, borders=[7])["seam"] == pytest.approx(ratio, rel=0.01)
    assert score(film, frames, borders=[5, 7])["seam"] == pytest.approx((1 + ratio) / 2, rel=0.01)
    assert score(film, frames, borders=[5])["seam"] == pytest.approx(10 / (9 + ratio), rel=0.01)
    for none in (None, [], range(1, 12)):  # the last has nothing to compare the seams with
        assert score(film, frames, borders=none)["seam"] is None


def test_a_true_cut_is_no_seam() -> None:
    film = shots(10, 10)
    frames = shaken(20, 1, [120] * 10 + [128] * 10)
    assert score(film, frames, borders=[10])["seam"] is None
    found = score(film, frames, borders=[5, 10])
    assert found["seam"] == pytest.approx(1, rel=0.01) and found["warp"] == pytest.approx(math.sqrt(2), rel=0.01)


@pytest.mark.parametrize(
    ("lengths", "drift"),
    [((66,), 32), ((40,), 20), ((20, 20), 10), ((12, 20), (6 * 2 + 10 * 3) / 5), ((9,), 4), ((7, 7), None)],
)
def test_drift_of_one_level_a_frame_is_its_lag(lengths: tuple[int, ...], drift: float | None) -> None:
    """Lag 32, or half of a shorter shot; every fourth frame starts a pair: 12 frames have 2 of lag 6, 20 have 3."""
    n = sum(lengths)
    frames = [np.full((HEIGHT, WIDTH, 3), 60 + i, np.uint8) for i in range(n)]
    found = score(shots(*lengths), frames)["drift"]
    assert found == (None if drift is None else pytest.approx(drift))


def test_blur_passes_for_steadiness_and_fidelity_tells() -> None:
    """The trap of all measures of steadiness, stated in the docs."""
    film = shots(12, thing=MOVING, pan=0.6)
    grey = [np.full((HEIGHT, WIDTH, 3), 128, np.uint8)] * 12
    found = score(film, grey)
    target_warp = given_value(score(film, film.edit(**CHANGES["colour"]))["warp"])
    assert found["warp"] == 0 and found["warp_relative"] == pytest.approx(ROUNDING / target_warp)
    assert given_value(found["flicker"]) < 0 and given_value(found["drift"]) < 0
    assert found["motion"] == 0 and given_value(found["gain"]) < -3


# -- answers to the prompt ------------------------------------------------------------------------------------------


def test_success_and_kept_are_shares_of_frames() -> None:
    """Of 20 frames 5 have another colour, 4 another background, 1 of them both."""
    film = shots(20)
    frames = []
    for i in range(20):
        frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        frame[0, 0, 0] = 1 * (i < 5) + 2 * (4 <= i < 8)
        frames.append(frame)
    found = score(film, frames, "colour")
    assert found["success"] == pytest.approx(15 / 20) and found["kept"] == pytest.approx(16 / 20)
    found = score(film, frames, "background")
    assert found["success"] == pytest.approx(16 / 20) and found["kept"] == pytest.approx(15 / 20)
    pencil = film.edit(style="pencil")  # which shows no colours
    edit = AnEdit("style", "style", {"style": "pencil"}, "", pencil)
    found = measure(ACase(film), edit, frames, borders=None, classifier=Words(true_words(pencil, 0)))
    assert found["success"] == 1 and found["kept"] == pytest.approx(16 / 20)


def test_what_is_misread_on_the_truth_is_not_counted() -> None:
    """Of 8 target frames 2 have another colour read, 4 another background; all edited frames have both."""
    film = shots(8)
    target = film.edit(**CHANGES["colour"])
    words = true_words(target, 0)

    class Misreading(Words):
        """Told apart from the target by a black corner, the edited frames are read wrong; the target now and then."""

        def classify(self, frames: np.ndarray) -> dict[str, list[str]]:
            if not frames[0, 0, 0].any():
                return super().classify(np.full_like(frames, 3))
            return super().classify(np.array([1, 1, 2, 2, 2, 2, 0, 0], np.uint8)[:, None, None, None])

    found = score(film, [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 8, classifier=Misreading(words))
    assert found["readable"] == 6 / 8 and found["success"] == 0
    assert found["kept"] == pytest.approx(4 / 8)  # where the background is misread, object and style alone decide


@pytest.mark.parametrize("kind", OBJECTS)
def test_share_of_an_object_that_is_seen(kind: str) -> None:
    """All of it in the middle; as much as lies inside at a border, of what the middle shows."""
    thing = SceneObject(kind, "red", x=112, y=110, size=64)
    whole = shots(1, thing=thing)
    assert visible_share(whole, 0) == pytest.approx(1, abs=0.01)
    coverage = whole.masks(0)[0]
    left = shots(1, thing=replace(thing, x=0))
    assert visible_share(left, 0) == pytest.approx(coverage[:, 112:].sum() / coverage.sum(), abs=0.01)
    assert visible_share(shots(1, thing=replace(thing, x=-200)), 0) == 0


def test_zoom_does_not_make_an_object_more_visible() -> None:
    """At scale 1.6 the object fills more of the frame and is still seen whole; half outside it is seen by half."""
    small = replace(CAR, y=80, size=40)
    zoomed = shots(2, thing=small, zoom=Zoom(rate=0.0, phase=math.pi))
    assert zoomed.masks(0)[0].sum() == pytest.approx(1.6**2 * shots(1, thing=small).masks(0)[0].sum(), rel=0.01)
    assert visible_share(zoomed, 0) == pytest.approx(1, abs=0.01)


def test_a_changing_light_is_in_the_target_too() -> None:
    """A perfect edit of a fading scene stays perfect, though colours change along the motion."""
    film = shots(24, thing=MOVING, light=Light(stops=1.0, warmth=0.1, period=60))
    found = score(film, film.edit(**CHANGES["colour"]))
    assert found["warp_relative"] == 1 and found["drift"] == 0 and found["flicker"] == 0
    assert given_value(found["warp"]) > 1


def test_other_objects_are_painted_over(classifier: AttributeClassifier) -> None:
    """The classifier names one object and cannot know which is meant: it is shown the edited one alone."""
    right = SceneObject("car", "red", x=170, y=116, size=56)
    left = SceneObject("boat", "yellow", x=50, y=116, size=56)
    base = shots(3, thing=right)
    film = Film(tuple(replace(s, scene=replace(s.scene, objects=(right, left))) for s in base.shots))
    target = film.edit(colour="blue")
    assert np.array_equal(alone(target).frame(0), base.edit(colour="blue").frame(0))
    frame = target.frame(0)
    painted = without_others(film.frame(0), frame, alone(target).frame(0))
    seen = film.masks(0)
    assert np.array_equal(painted[seen[1] > 0], alone(target).frame(0)[seen[1] > 0])  # the other is gone
    assert np.array_equal(painted[:, 120:], film.frame(0)[:, 120:])  # the edited one is as the method left it
    assert score(film, target, classifier=classifier)["success"] == 1
    assert score(film, film, classifier=classifier)["success"] == 0


def test_frames_without_the_object_do_not_count() -> None:
    away = shots(3, thing=replace(CAR, x=-200))
    frames = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 3
    found = score(away, frames)
    assert found["success"] is None and found["kept"] is None and found["frames"] == 3
    leaving = shots(9, thing=replace(CAR, x=112, vx=-28))
    seen = sum(visible_share(leaving, i) >= 0.5 for i in range(9))
    asked: list[int] = []

    class Counting(Words):
        def classify(self, frames: np.ndarray) -> dict[str, list[str]]:
            asked.append(len(frames))
            return super().classify(frames)

    score(leaving, frames * 3, classifier=Counting(true_words(leaving, 0)))
    assert sum(asked) == 2 * seen == 10  # each with the target's


# -- what is read, and how ------------------------------------------------------------------------------------------


class Reader:
    """Frames that exist only while someone holds them."""

    def __init__(self, count: int) -> None:
        self.count, self.living, self.most = count, 0, 0

    def __len__(self) -> int:
        return self.count

    def _died(self) -> None:
        self.living -= 1

    def __iter__(self) -> Iterator[np.ndarray]:
        for level in range(self.count):
            frame = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
            weakref.finalize(frame, self._died)
            self.living += 1
            self.most = max(self.most, self.living)
            yield frame


def test_frames_are_read_once_and_let_go() -> None:
    reader = Reader(40)
    assert score(shots(45), reader)["frames"] == 40
    assert reader.most <= 20


def test_other_lengths_and_bad_frames() -> None:
    film = shots(6)
    assert score(film, [film.frame(0)] * 9)["frames"] == 6
    one = score(film, [film.frame(0)])
    assert one["frames"] == 1 and all(
        one[name] is None for name in ("warp", "warp_relative", "flicker", "drift", "motion")
    )
    with pytest.raises(InputError):
        score(film, [])
    for bad in (film.frame(0)[:64], film.frame(0).astype(np.float32)):
        with pytest.raises(ValueError, match="wanted uint8"):
            score(film, [bad])


# -- the division into clips ----------------------------------------------------------------------------------------

CUTS = {  # cuts, clip starts, cuts found
    "exact": ((10, 20), (10, 20), 2),
    "one late": ((10, 20), (11, 21), 2),
    "two late": ((10, 20), (12, 22), 0),
    "early": ((10,), (9,), 0),
    "twice counts once": ((10,), (10, 11), 1),
    "none placed": ((10,), (), 0),
    "two cuts in a row": ((10, 11), (10, 11), 2),
    "two cuts in a row, the first late": ((10, 11), (11, 12), 2),
    "two cuts, one clip": ((10, 11), (11,), 1),
    "three in a row": ((10, 11, 12), (11, 12), 2),
}


@pytest.mark.parametrize("name", CUTS)
def test_cuts_found(name: str) -> None:
    cuts, starts, found = CUTS[name]
    assert matched_cuts(cuts, starts) == found


@given(st.sets(st.integers(1, 14)), st.sets(st.integers(1, 14)))
@settings(max_examples=60, deadline=None)
def test_as_many_cuts_are_found_as_can_be(cuts: set[int], starts: set[int]) -> None:
    """The greedy match is as large as the largest, found by trying every assignment."""

    def most(left: tuple[int, ...], free: frozenset[int]) -> int:
        if not left:
            return 0
        cut, rest = left[0], left[1:]
        return max([most(rest, free)] + [1 + most(rest, free - {s}) for s in (cut, cut + 1) if s in free])

    assert matched_cuts(sorted(cuts), sorted(starts)) == most(tuple(sorted(cuts)), frozenset(starts))


def test_measures_of_a_division() -> None:
    film = shots(20, 20, 10)
    found = measure_partition(ACase(film), [0, 8, 20, 33, 41])
    assert found["cut_recall"] == 1 and found["cut_precision"] == 2 / 4
    assert found["false_cuts_per_1000"] == pytest.approx(1000 * 2 / 50)
    assert found["keyframes_per_100"] == pytest.approx(10)
    assert found["motion_correlation"] is None  # two windows say nothing
    single = measure_partition(ACase(shots(10)), [0])
    assert single["cut_recall"] is None and single["cut_precision"] is None and single["false_cuts_per_1000"] == 0


def test_keyframes_that_follow_the_motion() -> None:
    """Shots of 24 frames, faster and faster; keyframes by speed, and the other way round."""
    speeds = (0.0, 0.5, 1.0, 2.0)
    base = shots(24, 24, 24, 24)
    film = Film(tuple(replace(s, scene=replace(s.scene, pan=p)) for s, p in zip(base.shots, speeds, strict=True)))
    # a cut counts in every window but the first; the car stands still, its share of the picture does not pan
    case = ACase(film)
    assert measure_partition(case, [0, 24, 30, 48, 56, 64, 72, 78, 84, 90])["motion_correlation"] == pytest.approx(1)
    assert measure_partition(case, [24, 30, 48])["motion_correlation"] == pytest.approx(-3 / math.sqrt(4.5 * 5))
    assert measure_partition(case, [0, 24, 48, 72])["motion_correlation"] is None  # as many everywhere
    assert measure_partition(case, [0, 2, 4, 6, 24, 30, 48, 50])["motion_correlation"] == pytest.approx(
        -0.9487, abs=1e-3
    )
    share = 1 - float((film.masks(0)[0] > 0.5).mean())
    wanted = share * sum(speeds) * 23 / 96
    assert measure_partition(case, [0])["motion_mean"] == pytest.approx(wanted, rel=0.01)


def test_spearman() -> None:
    """A textbook example, ties worked out by hand, and order alone deciding."""
    iq = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
    hours = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]
    assert spearman(iq, hours) == pytest.approx(-29 / 165)
    assert spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([1, 2, 3], [math.exp(v) for v in (1, 2, 3)]) == pytest.approx(1)
    assert spearman([3, 2, 1], [10, 20, 21]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(ValueError):
        spearman([1], [1, 2])


# -- correspondence ---------------------------------------------------------------------------------------------------

GRID = (HEIGHT // 8, WIDTH // 8)
IDENTITY = np.arange(GRID[0] * GRID[1]).reshape(GRID)


def moving(pan: float = 0.0, vx: float = 0.0) -> Film:
    """A car on a field; a token is 8 x 8 pixels."""
    car = SceneObject("car", "red", x=100.0, y=110.0, size=70.0, vx=vx)
    return Film((Shot(Scene("grass", 3, (car,), pan=pan), 0, 8),))


def counted(film: Film, phi: np.ndarray, key: int = 2) -> dict[str, float | None]:
    found = Correspondence(film, GRID)
    found.add(0, key, phi)
    return found.results()


def test_matches_are_right_where_the_truth_takes_them() -> None:
    leftward = np.roll(IDENTITY, 2, axis=1)  # token (r, c) is matched with (r, c - 2)
    both = {"matches_right": 1.0, "matches_right_on_objects": 1.0}
    none = {"matches_right": 0.0, "matches_right_on_objects": 0.0}
    assert counted(moving(), IDENTITY) == both
    assert counted(moving(), np.roll(IDENTITY, -2, axis=0)) == none
    one_off = counted(moving(), np.roll(IDENTITY, -1, axis=1))
    assert one_off["matches_right"] == pytest.approx(
        1, abs=1.2 / GRID[1]
    )  # all but what comes round from the other side
    # two frames of 8 pixels take everything two tokens to the left, or the car alone
    assert counted(moving(pan=8.0, vx=-8.0), leftward) == both
    assert counted(moving(pan=8.0, vx=-8.0), IDENTITY) == none
    assert counted(moving(vx=-8.0), leftward) == {"matches_right": pytest.approx(0.1, abs=0.1)} | {
        "matches_right_on_objects": 1.0
    }
    still = counted(moving(vx=-8.0), IDENTITY)
    assert still["matches_right_on_objects"] == 0.0 and still["matches_right"] > 0.8


def test_matches_across_a_cut_are_not_counted() -> None:
    film = moving()
    two = Film((*film.shots, replace(film.shots[0], start=8, stop=16)))
    assert counted(two, IDENTITY, key=9) == {"matches_right": None, "matches_right_on_objects": None}
