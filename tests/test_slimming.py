"""Kept tokens, against a float64 reference that compares every token of every keyframe with every other."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaflow import slimming
from adaflow.config import SlimmingConfig

MARGIN = 1e-5
OPEN = SlimmingConfig(own_tokens=False)
SIZES = {
    "one token": (5, 1, 4, 2),
    "two keyframes": (2, 9, 8, 1),
    "one over budget": (4, 15, 8, 3),
    "many": (11, 15, 16, 4),
    "one channel": (5, 6, 1, 2),
}


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def signs(*shape: int, seed: int = 0) -> Tensor:
    """Tokens of four signs: their lengths and cosines are exact in float32, and many are equal."""
    return torch.randint(0, 2, (*shape, 4), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def heat(keyframes: Tensor) -> np.ndarray:
    """H `[M, M, N]` in float64: [i, j, p] is how well token p of keyframe j is matched in keyframe i."""
    f = keyframes.double().numpy()
    length = np.linalg.norm(f, axis=-1, keepdims=True)
    f = f / np.where(length == 0, 1, length)
    return np.stack([np.stack([(f_j @ f_i.T).max(axis=1) for f_j in f]) for f_i in f])


def brute(keyframes: Tensor, count: int, own: bool) -> tuple[np.ndarray, np.ndarray]:
    """The kept indices of each keyframe, and by how much the last one kept leads the first one left out."""
    lists, leads = [], []
    for i, values in enumerate(heat(keyframes)):
        if own:
            values[i] = np.inf
        flat = values.reshape(-1)
        order = np.lexsort((np.arange(flat.size), -flat))
        lists.append(np.sort(order[:count]))
        leads.append(flat[order[count - 1]] - flat[order[count]])
    return np.stack(lists), np.stack(leads)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("chunk", [0, 1, 3, 100])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_kept_tokens_are_the_best_matched_ones(size: tuple[int, int, int, int], chunk: int, own: bool) -> None:
    frames, tokens, channels, budget = size
    keyframes = features(frames, tokens, channels)
    kept = slimming.kept_tokens(keyframes, budget, SlimmingConfig(own_tokens=own), chunk)
    expected, lead = brute(keyframes, budget * tokens, own)
    assert kept.shape == (frames, budget * tokens) and kept.dtype == torch.int64
    clear = (lead >= MARGIN) | (channels == 1)  # with one channel all similarities are exactly 1 or -1
    assert clear.any()
    assert np.array_equal(kept[clear], expected[clear])


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(2, 7),
    tokens=st.integers(1, 12),
    chunk=st.integers(0, 8),
    share=st.floats(0, 1),
    own=st.booleans(),
    seed=st.integers(0, 99),
)
def test_exact_ties_go_to_the_lower_index(
    frames: int, tokens: int, chunk: int, share: float, own: bool, seed: int
) -> None:
    budget = 1 + int(share * (frames - 2))
    keyframes = signs(frames, tokens, seed=seed)
    kept = slimming.kept_tokens(keyframes, budget, SlimmingConfig(own_tokens=own), chunk)
    assert np.array_equal(kept, brute(keyframes, budget * tokens, own)[0])


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(2, 8), tokens=st.integers(1, 9), budget=st.integers(1, 10), seed=st.integers(0, 99))
def test_rows_are_sorted_unique_and_hold_their_own_tokens(frames: int, tokens: int, budget: int, seed: int) -> None:
    kept = slimming.kept_tokens(features(frames, tokens, 5, seed=seed), budget)
    assert kept.shape == (frames, min(budget, frames) * tokens)
    assert bool((kept.diff(dim=1) > 0).all())
    assert int(kept.min()) >= 0 and int(kept.max()) < frames * tokens
    for i, row in enumerate(kept.tolist()):
        assert set(range(i * tokens, (i + 1) * tokens)) <= set(row)


def test_few_queries_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not all similarities fit, some pairs are computed twice; which tokens are kept stays the same."""
    keyframes = signs(9, 10)
    at_once = slimming.kept_tokens(keyframes, 4)
    for queries in (1, 2, 4):
        monkeypatch.setattr(slimming, "HEAT_BYTES", 4 * 9 * 10 * queries)
        assert torch.equal(slimming.kept_tokens(keyframes, 4), at_once)


@pytest.mark.parametrize("budget", [3, 4, 99])
@pytest.mark.parametrize("count", ["exact", "released"])
def test_within_the_budget_everything_is_kept(budget: int, count: str) -> None:
    kept = slimming.kept_tokens(features(3, 5, 2), budget, SlimmingConfig(count=count))  # type: ignore[arg-type]
    assert torch.equal(kept, torch.arange(15).repeat(3, 1))


def test_permuting_the_keyframes_permutes_what_is_kept() -> None:
    keyframes = features(7, 12, 16)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    assert brute(keyframes, 36, True)[1].min() >= MARGIN
    kept, permuted = slimming.kept_tokens(keyframes, 3), slimming.kept_tokens(keyframes[order], 3)
    for i, row in enumerate(permuted):
        back = order[row // 12] * 12 + row % 12
        assert torch.equal(back.sort().values, kept[order[i]])


def test_permuting_a_frames_tokens_permutes_what_is_kept_of_it() -> None:
    keyframes = features(6, 10, 16)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    shuffled = keyframes.clone()
    shuffled[2] = keyframes[2, order]
    place = torch.arange(60).view(6, 10)
    place[2] = place[2, order]
    kept, permuted = slimming.kept_tokens(keyframes, 3), slimming.kept_tokens(shuffled, 3)
    assert torch.equal(place.flatten()[permuted].sort(dim=1).values, kept)


@pytest.mark.parametrize(
    ("frames", "count"), [(21, 20 * 4032 - 1), (22, 20 * 4032 - 1), (25, 20 * 4032), (26, 20 * 4032 - 1)]
)
def test_the_released_count_loses_a_token_to_rounding(frames: int, count: int) -> None:
    released = SlimmingConfig(count="released")
    assert slimming.kept_count(frames, 4032, 20, released) == count
    assert slimming.kept_count(frames, 4032, 20) == 20 * 4032
    kept = slimming.kept_tokens(features(frames, 3, 2), 20, released)
    assert kept.shape[1] == slimming.kept_count(frames, 3, 20, released)
    assert slimming.kept_count(frames, 4032, 1, released) == 4032  # never fewer than its own


def test_a_static_video_keeps_its_own_and_the_first_copies() -> None:
    kept = slimming.kept_tokens(signs(1, 5).repeat(6, 1, 1), 2)
    counts = slimming.kept_per_keyframe(kept, 5)
    expected = torch.zeros(6, 6, dtype=torch.int64)
    expected[0, [0, 1]] = 5
    for i in range(1, 6):
        expected[i, [0, i]] = 5
    assert torch.equal(counts, expected)


def test_counts_per_keyframe() -> None:
    keyframes = features(6, 8, 4)
    kept = slimming.kept_tokens(keyframes, 2, OPEN)
    counts = slimming.kept_per_keyframe(kept, 8)
    for i in range(6):
        for j in range(6):
            assert counts[i, j] == sum(j * 8 <= k < (j + 1) * 8 for k in kept[i].tolist())
    with pytest.raises(ValueError, match="belong"):
        slimming.kept_per_keyframe(kept, 4)


@pytest.mark.parametrize("chunk", [0, 1, 4])
def test_similarity_to_a_keyframe(chunk: int) -> None:
    keyframes = features(6, 8, 4)
    for i in (0, 3, 5):
        np.testing.assert_allclose(slimming.similarity_to(keyframes, i, chunk), heat(keyframes)[i], atol=1e-6)
    with pytest.raises(IndexError):
        slimming.similarity_to(keyframes, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_similarities_are_float32_whatever_the_input(dtype: torch.dtype) -> None:
    keyframes = features(5, 8, 16).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = slimming.kept_tokens(keyframes, 2)
    assert torch.equal(kept, slimming.kept_tokens(keyframes.float(), 2))


def test_zero_tokens_are_kept_last() -> None:
    keyframes = torch.ones(4, 3, 2)
    keyframes[1] = 0
    kept = slimming.kept_tokens(keyframes, 3)
    assert kept[0].tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert kept[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]


# -- other rules -----------------------------------------------------------------------------------------------------


def cosines(keyframes: Tensor) -> np.ndarray:
    """`[M, M, N, N]` in float64: [i, j, p, q] is the similarity of token p of keyframe j and token q of keyframe i."""
    f = keyframes.double().numpy()
    length = np.linalg.norm(f, axis=-1, keepdims=True)
    f = f / np.where(length == 0, 1, length)
    return np.einsum("jpd,iqd->ijpq", f, f)


def similarity(every: np.ndarray, i: int, own: bool) -> np.ndarray:
    """H `[M, N]` to keyframe i, which is as similar to itself as can be."""
    value = np.minimum(every[i].max(axis=2), 1)
    value[i] = np.inf if own else 1
    return value


def apart(higher: float, lower: float) -> float:
    """By how much a choice between two is clear; between two of a keyframe's own tokens it is the lower index."""
    return np.inf if higher == lower == 1 or higher == lower == np.inf else higher - lower


def brute_quota(keyframes: Tensor, count: int, own: bool) -> tuple[list[list[int]], float]:
    """By taking turns: in each turn, the keyframes with the best next token first, each gives one."""
    frames, tokens = keyframes.shape[:2]
    every, lists, lead = cosines(keyframes), [], np.inf
    for i in range(frames):
        value = similarity(every, i, own)
        kept = [i * tokens + p for p in range(tokens)] if own else []
        queues = {j: sorted(range(tokens), key=lambda p: (-value[j, p], p)) for j in range(frames) if not own or j != i}
        while len(kept) < count:
            turn = sorted(queues, key=lambda j: (-value[j, queues[j][0]], j))
            room = count - len(kept)
            if room < len(turn):
                lead = min(lead, apart(*(value[j, queues[j][0]] for j in turn[room - 1 : room + 1])))
            kept += [j * tokens + queues[j].pop(0) for j in turn[:room]]
        for j, queue in queues.items():
            given = [value[j, p] for p in range(tokens) if p not in queue]
            if queue and given:
                lead = min(lead, apart(min(given), value[j, queue[0]]))
        lists.append(sorted(kept))
    return lists, lead


def brute_distinct(keyframes: Tensor, count: int, own: bool) -> tuple[list[list[int]], float]:
    """By writing down every thing and its copies; and the least difference that a choice rests on."""
    frames, tokens = keyframes.shape[:2]
    every, lists, lead = cosines(keyframes), [], np.inf
    for i in range(frames):
        value = similarity(every, i, own)
        things: dict[object, list[tuple[int, int]]] = {q: [(i, q)] for q in range(tokens)}
        for j in range(frames):
            for p in range(tokens):
                if j == i:
                    continue
                row = every[i, j, p]
                q = int(np.flatnonzero(row == row.max())[0])
                column = every[i, j, :, q]
                mutual = int(np.flatnonzero(column == column.max())[0]) == p
                things.setdefault(q if mutual else (j, p), []).append((j, p))
                for best in (np.sort(row), np.sort(column)):
                    if len(best) > 1:
                        lead = min(lead, best[-1] - best[-2])
        entries = []
        for copies in things.values():
            copies.sort(key=lambda c: (-value[c], c))
            entries += [(rank, -value[c], c) for rank, c in enumerate(copies)]
            lead = min([lead, *(apart(value[a], value[b]) for a, b in pairwise(copies))])
        entries.sort()
        lists.append(sorted(j * tokens + p for _, _, (j, p) in entries[:count]))
        (last, _, kept), (first, _, left) = entries[count - 1], entries[count]
        if last == first:
            lead = min(lead, apart(value[kept], value[left]))
    return lists, lead


RULES = {"quota": brute_quota, "distinct": brute_distinct}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("chunk", [0, 1, 3, 100])
@pytest.mark.parametrize("size", [(2, 9, 8, 1), (4, 15, 8, 3), (9, 12, 16, 4), (6, 7, 24, 2)])
@pytest.mark.parametrize("rule", RULES)
def test_other_rules_are_what_they_say(rule: str, size: tuple[int, int, int, int], chunk: int, own: bool) -> None:
    frames, tokens, channels, budget = size
    found = 0
    for seed in range(4):
        keyframes = features(frames, tokens, channels, seed=seed)
        expected, lead = RULES[rule](keyframes, budget * tokens, own)
        config = SlimmingConfig(own_tokens=own, selection=rule)  # type: ignore[arg-type]
        if lead >= MARGIN:
            found += 1
            assert slimming.kept_tokens(keyframes, budget, config, chunk).tolist() == expected
    assert found


@settings(max_examples=40, deadline=None)
@given(
    rule=st.sampled_from(sorted(RULES)),
    frames=st.integers(2, 6),
    tokens=st.integers(1, 10),
    chunk=st.integers(0, 8),
    share=st.floats(0, 1),
    own=st.booleans(),
    count=st.sampled_from(["exact", "released"]),
    seed=st.integers(0, 99),
)
def test_exact_ties_go_to_the_lower_index_under_other_rules(
    rule: str, frames: int, tokens: int, chunk: int, share: float, own: bool, count: str, seed: int
) -> None:
    budget = 1 + int(share * (frames - 2))
    keyframes = signs(frames, tokens, seed=seed)
    config = SlimmingConfig(own_tokens=own, selection=rule, count=count)  # type: ignore[arg-type]
    kept = slimming.kept_tokens(keyframes, budget, config, chunk)
    assert kept.tolist() == RULES[rule](keyframes, slimming.kept_count(frames, tokens, budget, config), own)[0]


@pytest.mark.parametrize("rule", RULES)
def test_few_queries_at_a_time_change_nothing_under_other_rules(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keyframes, config = signs(9, 10), SlimmingConfig(selection=rule)  # type: ignore[arg-type]
    at_once = slimming.kept_tokens(keyframes, 4, config)
    for queries in (1, 2, 4, 8):
        monkeypatch.setattr(slimming, "HEAT_BYTES", 4 * 9 * 10 * queries)
        assert torch.equal(slimming.kept_tokens(keyframes, 4, config), at_once)


@pytest.mark.parametrize("rule", RULES)
def test_within_the_budget_other_rules_keep_everything(rule: str) -> None:
    config = SlimmingConfig(selection=rule)  # type: ignore[arg-type]
    assert torch.equal(slimming.kept_tokens(features(3, 5, 2), 3, config), torch.arange(15).repeat(3, 1))


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(2, 8), tokens=st.integers(1, 9), share=st.floats(0, 1), own=st.booleans())
def test_under_a_quota_keyframes_give_equally_many(frames: int, tokens: int, share: float, own: bool) -> None:
    budget = 1 + int(share * (frames - 2))
    config = SlimmingConfig(own_tokens=own, selection="quota")
    kept = slimming.kept_tokens(features(frames, tokens, 5), budget, config)
    for i, counts in enumerate(slimming.kept_per_keyframe(kept, tokens).tolist()):
        assert sum(counts) == budget * tokens
        others = [c for j, c in enumerate(counts) if j != i or not own]
        assert max(others) - min(others) <= 1
        assert not own or counts[i] == tokens


def test_what_is_new_goes_before_copies() -> None:
    """Five keyframes of one background, the last token of keyframe 3 something else: no copy is kept before it."""
    background = torch.eye(8)[:6]
    keyframes = background.repeat(5, 1, 1)
    keyframes[3, 5] = torch.tensor([0, 0, 0, 0, 0, 0.1, 1, 0])  # a little like the token that it hides
    keyframes[2, 4] = torch.tensor([0, 0, 0, 0.1, 0.05, 0, 0, 1])  # most like token 3, which has a better match
    kept = {
        rule: set(slimming.kept_tokens(keyframes, 2, SlimmingConfig(selection=rule))[0].tolist())  # type: ignore[arg-type]
        for rule in ("score", "distinct", "quota")
    }
    assert kept["score"] == {*range(6), *range(6, 12)}  # the first copies, and nothing new
    assert 2 * 6 + 4 in kept["distinct"]
    assert len(kept["distinct"] & set(range(6, 30))) == 6
    counts = [len([k for k in kept["quota"] if k // 6 == j]) for j in range(5)]
    assert counts == [6, 2, 2, 1, 1]  # 6 of others: one of each, and one more of the first of equally good


def test_unusable_input_is_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        slimming.kept_tokens(features(3, 4, 2), 0)
    with pytest.raises(ValueError, match="shape"):
        slimming.kept_tokens(features(3, 4), 1)
    with pytest.raises(ValueError, match="finite"):
        slimming.kept_tokens(torch.full((3, 4, 2), torch.nan), 1)
    with pytest.raises(ValueError, match="chunk"):
        slimming.kept_tokens(features(3, 4, 2), 1, chunk=-1)
