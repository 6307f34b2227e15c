"""The partition of a video and the choice of its keyframes, against float64 references and cases known by hand."""

import json
import math
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaflow import keyframes
from adaflow.config import KeyframeConfig
from adaflow.errors import ConfigError, InputError
from adaflow.keyframes import Clip, Partition

RELEASED = KeyframeConfig(rule="released")
MAPS = {"one token": (1, 1), "3x5": (3, 5), "a row": (1, 9), "4x7": (4, 7), "12x21": (12, 21)}


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scenes(names: str, height: int = 3, width: int = 5) -> list[Tensor]:
    """A frame per letter; frames of the same letter are equal, of different letters orthogonal."""
    axes = torch.eye(26)
    return [axes[ord(name) - ord("a")].repeat(height, width, 1) for name in names]


def turned(degrees: list[float]) -> list[Tensor]:
    """Frames whose similarity is the cosine of the angle between them."""
    angles = [math.radians(d) for d in degrees]
    return [torch.tensor([math.cos(a), math.sin(a)]).repeat(3, 5, 1) for a in angles]


def brute_heatmap(f_i: Tensor, f_j: Tensor) -> np.ndarray:
    a, b = (f.double().numpy() for f in (f_i, f_j))
    a, b = (f / np.linalg.norm(f, axis=-1, keepdims=True) for f in (a, b))
    h, w = a.shape[:2]
    return np.array([[max(a[y, x] @ q for q in b.reshape(-1, b.shape[-1])) for x in range(w)] for y in range(h)])


def brute_windows(heat: np.ndarray, side: int, step: int, flush: bool) -> np.ndarray:
    h, w = heat.shape
    a, b = min(side, h), min(side, w)
    rows, columns = (list(range(0, n - s + 1, step)) for n, s in ((h, a), (w, b)))
    if flush:
        rows, columns = sorted({*rows, h - a}), sorted({*columns, w - b})
    return np.array([[heat[y : y + a, x : x + b].mean() for x in columns] for y in rows])


def published(n: int, fails: Callable[[int, int], bool], longest: int) -> list[int]:
    """The published script's loop as the notes give it; `fails(r, j)` is its check of the two heat map conditions."""
    starts, r = [0], 0
    while r < n:
        if r == n - 1:  # the script hangs here, on a video of one frame
            break
        for j in range(r + 1, n):
            if fails(r, j) or j - r >= longest - 1:
                starts.append(j)
                r = j + 1
                if r == n - 1:
                    r = n
                break
            if j == n - 1:
                r = n
    return starts


# Clips and partitions


def test_a_partition_covers_all_frames_in_order() -> None:
    clips = Partition((Clip(0, 3), Clip(3, 4), Clip(4, 9)))
    assert clips.starts == [0, 3, 4] and clips.frames == 9 and len(clips) == 3
    assert [clips.clip_of(f) for f in range(9)] == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert [f for clip in clips.clips for f in clip.frames] == list(range(9))
    assert [len(clip) for clip in clips.clips] == [3, 1, 5]
    for frame in (-1, 9):
        with pytest.raises(IndexError):
            clips.clip_of(frame)


@pytest.mark.parametrize(
    "clips", [[], [(1, 3)], [(0, 3), (4, 5)], [(0, 3), (2, 5)], [(0, 0)], [(0, 2), (2, 1)], [(-1, 2)]]
)
def test_gaps_and_overlaps_are_refused(clips: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="clip"):
        Partition(tuple(Clip(*ends) for ends in clips))


@given(st.sets(st.integers(1, 99)), st.integers(100, 120))
def test_a_partition_returns_from_json(cuts: set[int], frames: int) -> None:
    clips = Partition.from_starts([0, *sorted(cuts)], frames)
    assert Partition.from_json(json.loads(json.dumps(clips.to_json()))) == clips
    assert all(clips.clip_of(f) == sum(s <= f for s in clips.starts) - 1 for f in range(frames))


@pytest.mark.parametrize("tree", [{}, {"starts": [0]}, {"starts": [], "frames": 3}, {"starts": 0, "frames": 3}, []])
def test_other_json_is_refused(tree: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Partition.from_json(tree)


# Heatmaps and windows


@pytest.mark.parametrize("chunk", [1, 4, 2048])
@pytest.mark.parametrize("size", MAPS.values(), ids=MAPS.keys())
def test_a_heatmap_is_the_best_of_all_tokens(size: tuple[int, int], chunk: int) -> None:
    f_i, f_j = features(*size, 8), features(*size, 8, seed=1)
    there, back = keyframes.heatmaps(f_i, f_j, chunk)
    assert there.dtype == torch.float32 and there.shape == size
    np.testing.assert_allclose(keyframes.heatmap(f_i, f_j, chunk), brute_heatmap(f_i, f_j), atol=1e-6)
    np.testing.assert_allclose(there, brute_heatmap(f_i, f_j), atol=1e-6)
    np.testing.assert_allclose(back, brute_heatmap(f_j, f_i), atol=1e-6)


def test_what_is_new_in_the_second_frame_lowers_only_the_second_heatmap() -> None:
    f_i, f_j = scenes("a")[0], scenes("a")[0].clone()
    f_j[1, 2] = scenes("b")[0][0, 0]
    there, back = keyframes.heatmaps(f_i, f_j)
    assert bool((there == 1).all()) and back[1, 2] == 0 and back.sum() == 14


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize(("window", "stride"), [(0, 0), (1, 1), (2, 1), (4, 3), (5, 5), (40, 40)])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (5, 3), (1, 9), (12, 21), (7, 70), (48, 84)])
def test_window_means_are_those_of_a_loop(size: tuple[int, int], window: int, stride: int, flush: bool) -> None:
    heat = features(*size).double()
    side, step = keyframes.window_size(*size, window, stride)
    expected = brute_windows(heat.numpy(), side, step, flush)
    means = keyframes.window_means(heat, window, stride, flush)
    np.testing.assert_allclose(means, expected, atol=1e-12)
    single = keyframes.window_means(heat.float(), window, stride, flush)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_every_token_lies_in_a_window(height: int, width: int, window: int, stride: int) -> None:
    if stride > keyframes.window_size(height, width, window)[0]:
        with pytest.raises(ConfigError, match="stride"):
            keyframes.window_size(height, width, window, stride)
        return
    heat = torch.rand(height, width, dtype=torch.float64)
    y, x = int(heat.argmin()) // width, int(heat.argmin()) % width
    for place in ((0, 0), (height - 1, width - 1), (height // 2, 0), (y, x)):
        spike = torch.zeros(height, width)
        spike[place] = -1
        assert float(keyframes.window_means(spike, window, stride).min()) < 0


@pytest.mark.parametrize(
    ("size", "expected"),
    [((48, 84), (5, 2)), ((84, 48), (5, 2)), ((3, 5), (3, 1)), ((64, 64), (4, 2)), ((1, 1), (3, 1))],
)
def test_the_rule_for_windows(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert keyframes.window_size(*size) == expected


def test_the_published_windows_miss_the_last_row_and_column() -> None:
    heat = torch.zeros(48, 84)
    heat[47], heat[:, 83] = -1, -1
    assert float(keyframes.window_means(heat, 5, 2, flush=False).min()) == 0
    assert float(keyframes.window_means(heat, 5, 2).min()) < 0


# The partition

VIDEOS = {  # frames, longest clip: starts as repaired, starts as released
    "one frame": ("a", 400, [0], [0]),
    "two equal frames": ("aa", 400, [0], [0]),
    "two different frames": ("ab", 400, [0, 1], [0, 1]),
    "no cut": ("aaaaaa", 400, [0], [0]),
    "one cut": ("aaabbb", 400, [0, 3], [0, 3]),
    "cut at frame 1": ("abbbb", 400, [0, 1], [0, 1]),
    "cut at the last frame": ("aaaab", 400, [0, 4], [0, 4]),
    "cut before the last two": ("aaabb", 400, [0, 3], [0, 3]),
    "short tail, unexamined as released": ("aaabc", 400, [0, 3, 4], [0, 3]),
    "flash": ("aabaa", 400, [0, 2, 3], [0, 2]),
    "flash of the next scene": ("aabccc", 400, [0, 2, 3], [0, 2]),
    "alternating": ("ababab", 400, [0, 1, 2, 3, 4, 5], [0, 1, 3, 5]),
    "all different": ("abcdefg", 400, [0, 1, 2, 3, 4, 5, 6], [0, 1, 3, 5]),
    "length cap": ("aaaaaaaaa", 3, [0, 3, 6], [0, 2, 5, 8]),
    "cap of one": ("aaaa", 1, [0, 1, 2, 3], [0, 1, 3]),
    "cap and cut": ("aaaabbbbb", 3, [0, 3, 4, 7], [0, 2, 4, 7]),
}


@pytest.mark.parametrize("size", [(3, 5), (1, 1)])
@pytest.mark.parametrize(("names", "longest", "repaired", "released"), VIDEOS.values(), ids=VIDEOS.keys())
def test_clips_known_by_hand(
    names: str, longest: int, repaired: list[int], released: list[int], size: tuple[int, int]
) -> None:
    frames = scenes(names, *size)
    for rule, expected in (("repaired", repaired), ("released", released)):
        config = KeyframeConfig(rule=rule, longest_clip=longest)  # type: ignore[arg-type]
        clips = keyframes.partition(frames, config)
        assert clips.starts == expected and clips.frames == len(names)


@settings(max_examples=40, deadline=None)
@given(st.text("abc", min_size=1, max_size=10), st.integers(1, 5))
def test_both_rules_are_their_loops(names: str, longest: int) -> None:
    frames = scenes(names, 1, 2)
    starts, i = [0], 0
    for j in range(1, len(names)):
        if names[i] != names[j] or j - i >= longest:
            starts.append(j)
            i = j
    assert keyframes.partition(frames, KeyframeConfig(longest_clip=longest)).starts == starts
    loop = published(len(names), lambda r, j: names[r] != names[j], longest)
    assert keyframes.partition(frames, KeyframeConfig(longest_clip=longest, rule="released")).starts == loop


def test_a_slow_drift_is_compared_with_the_clips_first_frame() -> None:
    """The cosine falls below 0.75 beyond 41.4 degrees from the first frame, however small each step is."""
    clips = keyframes.partition(turned([10.0 * j for j in range(13)]), KeyframeConfig(window_threshold=-1))
    assert clips.starts == [0, 5, 10]


def test_thresholds_are_reached_not_exceeded() -> None:
    """A similarity of exactly the threshold joins the clip; these numbers are exact in float32."""
    first = torch.zeros(2, 2, 4)
    first[...] = torch.tensor([1.0, 1, 1, 1])
    second = torch.zeros(2, 2, 4)
    second[...] = torch.tensor([1.0, 1, 1, -1])  # cosine 1/2
    for threshold, starts in ((0.5, [0]), (0.5000001, [0, 1])):
        for mean, window in ((threshold, -1), (-1, threshold)):
            config = KeyframeConfig(mean_threshold=mean, window_threshold=window)
            assert keyframes.partition([first, second], config).starts == starts


@pytest.mark.parametrize(("corner", "released"), [((0, 0), [0, 1]), ((9, 9), [0])])
def test_one_changed_region_starts_a_clip(corner: tuple[int, int], released: list[int]) -> None:
    """A ninth of the map in one corner: the mean stays high, a window does not. In the far corner none is published."""
    first, second = torch.zeros(12, 12, 2), torch.zeros(12, 12, 2)
    first[..., 0] = second[..., 0] = 1
    y, x = corner
    first[y : y + 3, x : x + 3] = torch.tensor([0.0, 1.0])
    config = KeyframeConfig(window=4, stride=3, window_threshold=0.48)
    score = keyframes.partition_with_scores([first, second], config)[1][1]
    torch.testing.assert_close(score, torch.tensor([1 - 9 / 144, 1 - 9 / 16], dtype=torch.float64))
    assert keyframes.partition([first, second], config).starts == [0, 1]
    plain = KeyframeConfig(window=4, stride=5, rule="released", window_threshold=0.48)
    with pytest.raises(ConfigError, match="stride"):
        keyframes.partition([first, second], plain)
    plain = KeyframeConfig(window=4, stride=3, rule="released", window_threshold=0.48)
    assert keyframes.partition([first, second], plain).starts == released


def test_the_check_in_both_directions_sees_what_is_new() -> None:
    frames = scenes("aa", 6, 6)
    frames[1] = frames[1].clone()
    frames[1][2:5, 2:5] = scenes("b")[0][0, 0]
    assert keyframes.partition(frames).starts == [0]
    assert keyframes.partition(frames, KeyframeConfig(both_directions=True)).starts == [0, 1]


@pytest.mark.parametrize("rule", ["repaired", "released"])
@pytest.mark.parametrize("both", [False, True])
def test_scores_are_what_decided(rule: str, both: bool) -> None:
    frames = [features(4, 7, 3, seed=s // 2) + 0.4 * features(4, 7, 3, seed=100 + s) for s in range(9)]
    config = KeyframeConfig(rule=rule, both_directions=both, mean_threshold=0.93, window_threshold=0.9)  # type: ignore[arg-type]
    clips, scores = keyframes.partition_with_scores(frames, config)
    assert scores.shape == (9, 2) and scores.dtype == torch.float64 and 2 < len(clips) < 9
    side = 3 if rule == "repaired" else 1
    first, starts = 0, [0]
    for j in range(1, 9):
        if first == j:  # released: the frame after a cut is compared with nothing
            assert scores[j].tolist() == [1, 1]
            continue
        maps = [brute_heatmap(frames[first], frames[j])]
        maps += [brute_heatmap(frames[j], frames[first])] if both else []
        expected = [min(m.mean() for m in maps), min(brute_windows(m, side, 1, rule == "repaired").min() for m in maps)]
        np.testing.assert_allclose(scores[j], expected, atol=1e-6)
        if expected[0] < 0.93 or expected[1] < 0.9:
            starts.append(j)
            first = j + 1 if rule == "released" else j
    assert scores[0].tolist() == [1, 1] and clips.starts == starts
    assert keyframes.partition(frames, config) == clips


def test_the_features_are_read_once_and_not_kept() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def stream() -> Iterator[Tensor]:
        for s in range(12):
            assert sum(ref() is not None for ref in alive) <= 1
            frame = scenes("abc")[s // 4].clone()
            alive.append(weakref.ref(frame))
            yield frame

    done: list[int] = []
    clips = keyframes.partition(stream(), on_frame=done.append)
    assert clips.starts == [0, 4, 8] and done == list(range(1, 13))


def test_one_buffer_may_hold_every_frame() -> None:
    buffer = torch.empty(3, 5, 26)

    def stream() -> Iterator[Tensor]:
        for frame in scenes("aabbbca"):
            buffer.copy_(frame)
            yield buffer

    assert keyframes.partition(stream()).starts == [0, 2, 5, 6]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_will_do(dtype: torch.dtype) -> None:
    assert keyframes.partition([7 * f.to(dtype) for f in scenes("aabba")]).starts == [0, 2, 4]


def test_a_video_without_frames_is_refused() -> None:
    with pytest.raises(InputError, match="no frames"):
        keyframes.partition([])


BAD = {
    "rank": [torch.ones(3, 5)],
    "another shape": [torch.ones(3, 5, 2), torch.ones(5, 3, 2)],
    "empty": [torch.ones(0, 5, 2)],
    "nan": [torch.ones(3, 5, 2), torch.full((3, 5, 2), torch.nan)],
    "infinite": [torch.full((3, 5, 2), torch.inf)],
    "nan in a frame that is compared with nothing": [*scenes("ab", 1, 2), torch.full((1, 2, 26), torch.nan)],
}


@pytest.mark.parametrize("rule", ["repaired", "released"])
@pytest.mark.parametrize("frames", BAD.values(), ids=BAD.keys())
def test_unusable_features_are_refused(frames: list[Tensor], rule: str) -> None:
    with pytest.raises(ValueError, match="frame"):
        keyframes.partition(frames, KeyframeConfig(rule=rule))  # type: ignore[arg-type]


def test_unusable_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        keyframes.heatmap(torch.ones(3, 5), torch.ones(3, 5))
    with pytest.raises(ValueError, match="shape"):
        keyframes.window_means(torch.ones(3, 5, 2))


@pytest.mark.parametrize(
    ("names", "printed"),
    [("aaabbbb", [1]), ("aaaaaa", []), ("aaaab", []), ("abcdef", [1, 3]), ("aabbcc", [1, 4]), ("a", [])],
)
def test_algorithm_1_as_printed(names: str, printed: list[int]) -> None:
    """It names the clips that ended, the failing frame stays behind, and the last frame is never looked at."""
    assert keyframes.printed_algorithm_1(scenes(names)) == printed


# The schedule

CLIPS = Partition.from_starts([0, 1, 4, 5], 30)


@pytest.mark.parametrize("strategy", ["uniform", "middle", "medoid"])
@pytest.mark.parametrize("timesteps", [1, 7, [981, 961, 941]])
def test_keyframes_lie_in_their_clips(strategy: keyframes.Strategy, timesteps: int | list[int]) -> None:
    drawn = keyframes.schedule(CLIPS, timesteps, 3, strategy, features(30, 6))
    steps = timesteps if isinstance(timesteps, int) else len(timesteps)
    assert drawn.shape == (steps, 4) and drawn.dtype == torch.int64 and drawn.device.type == "cpu"
    for column, clip in zip(drawn.T.tolist(), CLIPS.clips, strict=True):
        assert all(frame in clip.frames for frame in column)


def test_draws_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = keyframes.schedule(CLIPS, 50, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, keyframes.schedule(CLIPS, 50, seed=0))
    assert not torch.equal(drawn, keyframes.schedule(CLIPS, 50, seed=1))
    assert drawn.shape == keyframes.schedule(CLIPS, 50, seed=2**63 - 1).shape


def test_draws_are_uniform() -> None:
    drawn = keyframes.schedule(Partition.from_starts([0, 7], 10), 6000, seed=0)
    for column, length in ((drawn[:, 0], 7), (drawn[:, 1] - 7, 3)):
        counts = torch.bincount(column, minlength=length).double()
        expected = 6000 / length
        assert float(((counts - expected) ** 2 / expected).sum()) < 25  # chi squared, p below 1e-3 at 6 degrees


def test_the_middle_is_the_earlier_of_two() -> None:
    assert keyframes.schedule(CLIPS, 2, 0, "middle").tolist() == [[0, 2, 4, 17]] * 2
    assert keyframes.schedule(Partition.from_starts([0], 4), 1, 0, "middle").tolist() == [[1]]


def test_the_medoid_is_nearest_to_the_mean() -> None:
    pooled = features(30, 6)
    expected = []
    for clip in CLIPS.clips:
        part = pooled[clip.start : clip.stop].double()
        expected.append(clip.start + int((part - part.mean(0)).norm(dim=1).argmin()))
    assert keyframes.schedule(CLIPS, 1, 0, "medoid", pooled)[0].tolist() == expected
    assert keyframes.schedule(CLIPS, 1, 0, "medoid", lambda frame: pooled[frame])[0].tolist() == expected
    same = keyframes.schedule(CLIPS, 1, 0, "medoid", torch.ones(30, 2))
    assert same.tolist() == [CLIPS.starts]


def test_a_pooled_frame_is_the_mean_of_its_unit_tokens() -> None:
    frame = features(3, 5, 4)
    expected = torch.stack([t / t.norm() for t in frame.view(15, 4)]).mean(0)
    torch.testing.assert_close(keyframes.pool(frame), expected)


def test_unusable_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="timestep"):
        keyframes.schedule(CLIPS, 0, 0)
    with pytest.raises(ValueError, match="features"):
        keyframes.schedule(CLIPS, 1, 0, "medoid")
    with pytest.raises(ValueError, match="shape"):
        keyframes.schedule(CLIPS, 1, 0, "medoid", torch.ones(29, 3))
    with pytest.raises(ConfigError, match="nearest"):
        keyframes.schedule(CLIPS, 1, 0, "nearest")  # type: ignore[arg-type]
