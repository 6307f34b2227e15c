"""The suites of `adaflow eval`: always the same videos, apart from each other, with edits that are what they say."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from adaflow.config import EditConfig
from adaflow.errors import InputError
from adaflow.longv_eval.suites import SUITES, Case, Edit, seen_share, suite
from adaflow.miniature.sprites import AIRBORNE, sprite
from adaflow.miniature.world import PLACES, held_out, masks, parse_caption, shadows, similar_objects, video

THREE = ("foreground", "background", "style")
CASES = [case for name in SUITES for case in suite(name).cases]


def edit_of(case: Case, kind: str) -> Edit | None:
    return next((edit for edit in case.edits if edit.kind == kind), None)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_always_the_same(name: str) -> None:
    assert suite(name) == suite(name)
    EditConfig.from_fields(suite(name).settings)  # the settings exist and are within their bounds
    assert suite(name).settings.get("steps") == suite(name).steps


def test_suites_have_the_sizes_they_promise() -> None:
    sizes = {name: [(len(c.film), len(c.edits)) for c in suite(name).cases] for name in SUITES}
    assert sizes["ci"] == [(24, 1)] * 2
    assert sizes["brief"] == sizes["recheck"] == [(40, 3)] * 12
    assert sizes["report"] == [(96, 3)] * 12 + [(1000, 1)] * 2
    assert sizes["validation"] == sizes["confirm"] == [(96, 3)] * 12
    assert len(sizes["full"]) == 24 and {edits for _, edits in sizes["full"]} == {3}
    assert (sizes["full"][0][0], sizes["full"][-1][0]) == (240, 1500)
    every = {"static", "pan", "zoom", "cuts", "enter-leave", "occlusion", "lighting", "fast", "still"}
    for name in ("report", "validation", "confirm", "full"):
        assert every <= {case.motion for case in suite(name).cases}


def test_unknown_suites_are_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="ci, brief, recheck, report, validation, confirm, full"):
        suite("reports")


def test_no_two_suites_share_a_video() -> None:
    seeds = {name: {case.seed for case in suite(name).cases} for name in SUITES}
    assert all(not seeds[a] & seeds[b] for a, b in combinations(SUITES, 2))
    assert len({case.id for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.film == video(case.id, len(case.film), split="test", style="photo")
        assert case.id == f"{case.motion}-{case.seed}"


def test_videos_are_held_out_of_training() -> None:
    for case in CASES:
        for scene in (shot.scene for shot in case.film.shots):
            assert scene.place in PLACES["test"] and scene.style == "photo"
            assert all(held_out(thing.kind, thing.colour, scene.background) for thing in scene.objects)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_edit_changes_what_it_names(case: Case) -> None:
    """The prompts say so, and the captions of source and target differ in that one word."""
    said = parse_caption(case.source_prompt)
    assert case.source_prompt == case.film.caption
    assert tuple(edit.name for edit in case.edits) in (THREE, *((name,) for name in THREE))
    for edit in case.edits:
        assert edit.target == case.film.edit(**edit.changes) and edit.target.cuts == case.film.cuts
        asked = parse_caption(edit.prompt)
        (attribute, value), *more = edit.changes.items()
        assert edit.prompt == edit.target.caption and not more and attribute == edit.kind
        assert edit.name == ("foreground" if edit.kind in ("colour", "object") else edit.kind)
        (colour, thing), others = said["objects"][0], said["objects"][1:]
        expected = {
            "colour": {**said, "objects": [(value, thing), *others]},
            "object": {**said, "objects": [(colour, value), *others]},
            "background": {**said, "background": value},
            "style": {**said, "style": value},
        }[attribute]
        assert asked == expected and asked != said
        if attribute == "object":
            assert value in similar_objects(thing) and (value in AIRBORNE) == (thing in AIRBORNE)
        assert len({kind for _, kind in asked["objects"]}) == len(asked["objects"])  # one can tell them apart
        assert len({word for word, _ in asked["objects"]}) == len(asked["objects"])


def test_foreground_edits_alternate() -> None:
    for name in SUITES:
        kinds = [case.edits[0].kind for case in suite(name).cases if case.edits[0].name == "foreground"]
        assert kinds == [("colour", "object")[i % 2] for i in range(len(kinds))]


@pytest.mark.parametrize("case", [c for c in CASES if len(c.film) == 96], ids=lambda case: case.id)
def test_the_object_is_there_to_be_edited(case: Case) -> None:
    """By the true masks: half of the object or more shows in at least half of the frames, before and after."""
    films = [case.film, *(edit.target for edit in case.edits if edit.kind == "object")]
    for film in films:
        shown = []
        for i in range(0, 96, 6):
            shot = film.shot(i)
            thing = shot.scene.objects[0]
            full = shot.scene.scale(i - shot.start) ** 2 * whole_area(thing.kind, thing.colour, thing.size)
            shown.append(film.masks(i)[0].sum() >= 0.5 * full)
        assert np.mean(shown) >= 0.5
    assert seen_share(case.film) >= 0.5


def whole_area(kind: str, colour: str, size: float) -> float:
    """Pixels that an object of a size covers when all of it is to be seen."""
    alpha = sprite(kind, colour)[3]
    return float(alpha.mean() * size**2)


@pytest.mark.parametrize("case", suite("validation").cases, ids=lambda case: case.id)
def test_targets_differ_from_sources_just_where_they_should(case: Case) -> None:
    """Foreground edits touch the object and its shadow alone; background edits leave the pure object; motion stays."""
    for index in (20, 60):
        source = case.film.frame(index).astype(int)
        shot = case.film.shot(index)
        t = index - shot.start
        for edit in case.edits:
            target = edit.target.shot(index).scene
            differs = np.abs(source - edit.target.frame(index)).max(-1) > 0
            before, after = masks(shot.scene, t), masks(target, t)
            if edit.name == "foreground":
                touched = before[0] + after[0] + shadows(shot.scene, t)[0] + shadows(target, t)[0]
                assert not differs[touched == 0].any()
                hidden_or_out = before[0].max() < 0.98
                assert hidden_or_out or differs[(before[0] > 0.98) & (after[0] > 0.98)].mean() > 0.3
                assert edit.kind == "object" or np.array_equal(before, after)
            else:
                assert np.array_equal(before, after)
                pure = before.sum(0) > 0.999
                assert differs[before.sum(0) == 0].mean() > 0.9
                assert edit.name == "style" or not pure.any() or not differs[pure & (before.max(0) == 1)].any()
            if edit.kind != "object":
                for ours, theirs in zip(
                    case.film.flow(index, index + 1), edit.target.flow(index, index + 1), strict=True
                ):
                    assert np.array_equal(ours, theirs)


def test_named_motions_happen() -> None:
    for case in CASES:
        if case.motion in ("cuts", "enter-leave"):
            assert case.film.cuts
        elif case.motion not in ("mixed", "crossing"):
            assert not case.film.cuts
