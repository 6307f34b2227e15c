"""Matches between frames, against a float64 reference that compares every token with every other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaflow import correspondence

MARGIN = 1e-5
CHUNKS = [1, 5, 16, 2048]
SIZES = {
    "one token each": (1, 1, 3),
    "one target": (7, 1, 4),
    "one query": (1, 7, 4),
    "more queries": (61, 33, 16),
    "more targets": (33, 61, 64),
    "one channel": (12, 12, 1),
}


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def signs(*shape: int, seed: int = 0) -> Tensor:
    """Tokens of four signs: their lengths and cosines are exact in float32, and many are equal."""
    return torch.randint(0, 2, (*shape, 4), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def cosines(f_i: Tensor, f_j: Tensor) -> np.ndarray:
    """All similarities in float64, token by token."""
    a, b = f_i.double().numpy(), f_j.double().numpy()
    result = np.zeros((len(a), len(b)))
    for p, x in enumerate(a):
        for q, y in enumerate(b):
            length = np.linalg.norm(x) * np.linalg.norm(y)
            result[p, q] = x @ y / length if length else 0.0
    return result


def margins(similarity: np.ndarray) -> np.ndarray:
    """By how much the best candidate of each row leads."""
    if similarity.shape[1] == 1:
        return np.full(len(similarity), np.inf)
    best = np.sort(similarity, axis=1)
    return best[:, -1] - best[:, -2]


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_matches_are_the_best_of_all_pairs(size: tuple[int, int, int], chunk: int) -> None:
    queries, targets, channels = size
    f_i, f_j = features(queries, channels), features(targets, channels, seed=1)
    expected = cosines(f_i, f_j)
    index, similarity = correspondence.match_with_similarity(f_i, f_j, chunk)
    assert index.dtype == torch.int64 and similarity.dtype == torch.float32 and index.shape == (queries,)
    clear = margins(expected) >= MARGIN
    assert np.array_equal(index.numpy()[clear], expected.argmax(axis=1)[clear])
    np.testing.assert_allclose(similarity, expected.max(axis=1), atol=1e-6)
    assert torch.equal(index, correspondence.match(f_i, f_j, chunk))
    assert torch.equal(similarity, correspondence.best_similarity(f_i, f_j, chunk))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_chunk_changes_no_clear_match(chunk: int) -> None:
    f_i, f_j = features(301, 24), features(205, 24, seed=1)
    clear = torch.from_numpy(margins(cosines(f_i, f_j)) >= MARGIN)
    assert torch.equal(correspondence.match(f_i, f_j, chunk)[clear], correspondence.match(f_i, f_j)[clear])


@pytest.mark.parametrize("chunk", CHUNKS)
def test_of_equally_similar_tokens_the_first_is_named(chunk: int) -> None:
    f_i, f_j = signs(50), signs(70, seed=1)
    assert np.array_equal(correspondence.match(f_i, f_j, chunk), cosines(f_i, f_j).argmax(axis=1))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(0, 99))
def test_exact_features_match_alike_in_every_chunk(queries: int, targets: int, chunk: int, seed: int) -> None:
    f_i, f_j = signs(queries, seed=seed), signs(targets, seed=seed + 1)
    index, similarity = correspondence.match_with_similarity(f_i, f_j, chunk)
    expected = cosines(f_i, f_j)
    assert np.array_equal(index, expected.argmax(axis=1))
    assert np.array_equal(similarity, expected.max(axis=1))


def test_a_frame_of_different_tokens_matches_itself() -> None:
    frame = features(40, 8)
    assert torch.equal(correspondence.match(frame, frame), torch.arange(40))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(order[correspondence.match(frame, frame[order])], torch.arange(40))


def test_a_frame_of_equal_tokens_matches_its_first() -> None:
    assert torch.equal(correspondence.match(torch.ones(9, 4), torch.ones(9, 4)), torch.zeros(9, dtype=torch.int64))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_both_directions_are_the_two_single_ones(chunk: int) -> None:
    f_i, f_j = features(37, 6), features(23, 6, seed=1)
    there, back = correspondence.best_similarities(f_i, f_j, chunk)
    torch.testing.assert_close(there, correspondence.best_similarity(f_i, f_j), atol=1e-6, rtol=0)
    torch.testing.assert_close(back, correspondence.best_similarity(f_j, f_i), atol=1e-6, rtol=0)


def test_padding_never_wins() -> None:
    """Where every similarity is negative, the zeros that fill up the last chunk must not be the maximum."""
    f_i = torch.tensor([[1.0, 0.0]]).repeat(5, 1)
    f_j = torch.tensor([[-1.0, 0.0]]).repeat(3, 1)
    there, back = correspondence.best_similarities(f_i, f_j, chunk=4)
    assert torch.equal(there, -torch.ones(5)) and torch.equal(back, -torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_similarities_are_float32_whatever_the_input(dtype: torch.dtype) -> None:
    f_i, f_j = features(30, 16).to(dtype), features(30, 16, seed=1).to(dtype)
    plain = correspondence.match_with_similarity(f_i.float(), f_j.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given_type = correspondence.match_with_similarity(f_i, f_j)
    assert all(torch.equal(a, b) for a, b in zip(given_type, plain, strict=True))


def test_nothing_is_asked_of_autograd() -> None:
    assert not correspondence.best_similarity(features(3, 4).requires_grad_(), features(3, 4)).requires_grad


def test_a_zero_token_is_similar_to_nothing() -> None:
    index, similarity = correspondence.match_with_similarity(torch.zeros(2, 3), features(4, 3))
    assert index.tolist() == [0, 0] and similarity.tolist() == [0, 0]
    assert torch.equal(correspondence.normalise(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_normalise_copies_and_gives_unit_length() -> None:
    frame = correspondence.normalise(features(4, 5, 6))
    torch.testing.assert_close(frame.norm(dim=-1), torch.ones(4, 5))
    again = correspondence.normalise(frame)
    assert again.data_ptr() != frame.data_ptr()
    torch.testing.assert_close(again, frame, atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", [(2, 3), (6, 10), (1, 1), (7, 4)])
def test_resize_is_bilinear_without_antialias(grid: tuple[int, int]) -> None:
    frame = features(4, 6, 3)
    expected = torch.zeros(*grid, 3)
    for y in range(grid[0]):
        for x in range(grid[1]):
            v = min(max((y + 0.5) * 4 / grid[0] - 0.5, 0), 3)
            u = min(max((x + 0.5) * 6 / grid[1] - 0.5, 0), 5)
            top, left = int(v), int(u)
            low, right = min(top + 1, 3), min(left + 1, 5)
            a, b = v - top, u - left
            upper = (1 - b) * frame[top, left] + b * frame[top, right]
            lower = (1 - b) * frame[low, left] + b * frame[low, right]
            expected[y, x] = (1 - a) * upper + a * lower
    expected = correspondence.normalise(expected).flatten(0, 1)
    torch.testing.assert_close(correspondence.resize(frame, grid), expected, atol=1e-5, rtol=0)


def test_resize_to_its_own_grid_only_normalises() -> None:
    frame = features(3, 5, 4)
    assert torch.equal(correspondence.resize(frame, (3, 5)), correspondence.normalise(frame).view(15, 4))


BAD = {
    "rank": (torch.ones(2, 2, 3), torch.ones(4, 3)),
    "channels": (torch.ones(4, 3), torch.ones(4, 2)),
    "empty": (torch.ones(0, 3), torch.ones(4, 3)),
    "nan": (torch.ones(4, 3), torch.full((4, 3), torch.nan)),
    "infinite": (torch.full((4, 3), torch.inf), torch.ones(4, 3)),
}


@pytest.mark.parametrize("pair", BAD.values(), ids=BAD.keys())
def test_unusable_features_are_refused(pair: tuple[Tensor, Tensor]) -> None:
    for function in (correspondence.match, correspondence.best_similarity, correspondence.best_similarities):
        with pytest.raises(ValueError, match="features"):
            function(*pair)


def test_unusable_chunks_and_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk"):
        correspondence.match(torch.ones(2, 2), torch.ones(2, 2), chunk=0)
    with pytest.raises(ValueError, match="grid"):
        correspondence.resize(torch.ones(2, 2, 2), (0, 2))
    with pytest.raises(ValueError, match="shape"):
        correspondence.resize(torch.ones(2, 2), (2, 2))
