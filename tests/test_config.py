from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaflow.cards import cards
from adaflow.config import EditConfig, FeatureConfig, KeyframeConfig, ResolvedConfig, SlimmingConfig, resolve
from adaflow.errors import ConfigError
from adaflow.presets import PRESETS

FIELDS = dict(EditConfig._known())


def hint(name: str) -> Any:
    """The type of a setting's values."""
    cls: Any = EditConfig
    *groups, last = name.split(".")
    for group in groups:
        cls = typing.get_type_hints(cls)[group]
    return typing.get_type_hints(cls)[last]


def values(name: str) -> st.SearchStrategy[Any]:
    """Any value that a setting may have."""
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    if choices := typing.get_args(hint(name)):
        return st.sampled_from(choices)
    if hint(name) is str:
        return st.text(st.characters(exclude_categories=["Cs"]))
    if hint(name) is bool:
        return st.booleans()
    if hint(name) is int:
        return st.integers(low, high)
    return st.floats(low, high)


configs = st.fixed_dictionaries({}, optional={name: values(name) for name in FIELDS}).map(EditConfig.from_fields)


def test_every_setting_has_a_type_help_and_a_default_within_its_bounds() -> None:
    assert len(FIELDS) > 30
    for name, f in FIELDS.items():
        assert f.metadata["help"], name
        assert f.default is None, f"{name} must be open until somebody sets it"
        if not f.metadata["null"]:
            assert EditConfig.from_fields({name: f.metadata["default"]}).set_fields() == {name: f.metadata["default"]}


# -- what is refused --------------------------------------------------------------------------------------------------

BOUNDS = [
    (name, bound, by)
    for name, f in FIELDS.items()
    for bound, by in (("low", -1), ("high", 1))
    if f.metadata[bound] is not None
]


@pytest.mark.parametrize(("name", "bound", "by"), BOUNDS)
def test_bounds_are_allowed_and_what_lies_beyond_is_refused(name: str, bound: str, by: int) -> None:
    value = FIELDS[name].metadata[bound]
    assert EditConfig.from_fields({name: value}).set_fields() == {name: value}
    beyond = value + by if hint(name) is int else value + by * 1e-6
    with pytest.raises(ConfigError, match=rf"^{name} is .*; it must be (between|at least)"):
        EditConfig.from_fields({name: beyond})


@pytest.mark.parametrize("name", [n for n in FIELDS if hint(n) is float])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_number_is_infinite_or_undefined(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match="must be"):
        EditConfig.from_fields({name: value})


WRONG: dict[Any, list[Any]] = {
    int: ["3", 3.0, True, [3]],
    float: ["0.5", True, [0.5]],
    bool: ["true", 1, 0.0],
    str: [3, True, ["a"]],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in FIELDS for v in WRONG.get(hint(n), ["nothing", 3, True])])
def test_wrong_types_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is .*; it must be"):
        EditConfig.from_fields({name: value})


def test_a_whole_number_will_do_for_a_number() -> None:
    set_ = EditConfig(guidance_scale=7).set_fields()["guidance_scale"]
    assert set_ == 7.0 and isinstance(set_, float)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("step", "steps"),
        ("guidance_scal", "guidance_scale"),
        ("keyframes.mean_treshold", "keyframes.mean_threshold"),
        ("slimming.bugdet", "slimming.budget"),
        ("injection", None),
        ("zzz", None),
        ("features.zzz", None),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, nearest: str | None) -> None:
    with pytest.raises(ConfigError, match=f"there is no setting '{name}'") as raised:
        EditConfig.from_fields({name: 1})
    if nearest:
        assert f"did you mean '{nearest}'?" in str(raised.value)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EditConfig().seed = 3  # type: ignore[misc]


# -- files ------------------------------------------------------------------------------------------------------------


@given(configs)
def test_what_is_set_survives_yaml(tmp_path_factory: pytest.TempPathFactory, config: EditConfig) -> None:
    file = tmp_path_factory.getbasetemp() / "edit.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert EditConfig.load(file) == config


@given(configs, configs)
def test_settings_lie_over_others(upper: EditConfig, lower: EditConfig) -> None:
    assert upper.over(lower).set_fields() == lower.set_fields() | upper.set_fields()


def written(folder: Path, text: str) -> Path:
    file = folder / "edit.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_groups_may_be_nested_or_dotted(tmp_path: Path) -> None:
    nested = EditConfig.load(written(tmp_path, "steps: 10\nkeyframes:\n  window: 7\n"))
    assert nested == EditConfig.load(written(tmp_path, "steps: 10\nkeyframes.window: 7\n"))
    assert nested.set_fields() == {"steps": 10, "keyframes.window": 7}


@pytest.mark.parametrize("text", ["", "# nothing\n", "steps:\n", "keyframes:\n", "keyframes: {}\n", "kind: null\n"])
def test_what_is_left_empty_is_not_set(tmp_path: Path, text: str) -> None:
    assert EditConfig.load(written(tmp_path, text)) == EditConfig()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- steps\n- 10\n", "must hold 'name: value' lines"),
        ("steps", "must hold 'name: value' lines"),
        ("steps: [", "is not valid YAML"),
        ("stepz: 10", "did you mean 'steps'"),
        (
            "keyframes: 3",
            "there is no setting 'keyframes'; it is a group of settings, such as 'keyframes.mean_threshold'",
        ),
        ("keyframes: {window: -1}", "keyframes.window is -1; it must be at least 0"),
        ("steps: {a: 3}", "there is no setting 'steps.a'"),
        ("3: 4", "there is no setting '3'"),
        ("keyframes: {3: 4}", "there is no setting 'keyframes.3'"),
        ("steps: ten", "steps is 'ten'; it must be"),
        ("seed: 2020-01-01", "seed is"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path: Path, text: str, reason: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError, match=reason) as raised:
        EditConfig.load(file)
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        EditConfig.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        EditConfig.load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"negative_prompt: caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read"):
        EditConfig.load(tmp_path / "latin.yaml")


# -- precedence -------------------------------------------------------------------------------------------------------

CARD = {"steps": 25, "guidance_scale": 3.0, "slimming.budget": 10, "negative_prompt": "source"}
KINDS = {"colour": {"guidance_scale": 2.0, "slimming.budget": 11, "steps": 20}}


def test_each_layer_goes_before_the_next(tmp_path: Path) -> None:
    """flag > file > kind > preset > card > package: `slimming.budget` is in every layer, and they are taken away."""
    file = EditConfig.load(written(tmp_path, "slimming: {budget: 12}\nkind: colour\npreset: released"))
    flag = EditConfig(slimming=SlimmingConfig(budget=13))

    def budget(config: EditConfig, card: Any = CARD) -> int:
        return resolve(config, card, KINDS).slimming.budget

    assert budget(flag.over(file)) == 13
    assert budget(file) == 12
    assert budget(EditConfig(kind="colour", preset="released")) == 11
    assert budget(EditConfig(preset="released")) == PRESETS["released"]["slimming.budget"] == 20
    assert budget(EditConfig()) == 10
    assert budget(EditConfig(), card={}) == FIELDS["slimming.budget"].metadata["default"] == 14


def test_a_layer_hides_only_what_it_sets() -> None:
    resolved = resolve(EditConfig(kind="colour", preset="released", steps=20, inversion_steps=40), CARD, KINDS)
    assert (resolved.steps, resolved.guidance_scale) == (20, 2.0)
    assert resolved.negative_prompt == PRESETS["released"]["negative_prompt"]
    assert resolved.keyframes.mean_threshold == 0.75


def test_a_value_set_to_the_packages_default_still_goes_before_the_card() -> None:
    resolved = resolve(EditConfig(negative_prompt="", steps=50), CARD)
    assert (resolved.negative_prompt, resolved.steps) == ("", 50)


@given(configs)
def test_nothing_is_left_open_and_nothing_set_is_lost(config: EditConfig) -> None:
    config = dataclasses.replace(config, steps=25, inversion_steps=50, guidance_start=0.0)
    config = dataclasses.replace(config, features=dataclasses.replace(config.features, dimensions=0))
    resolved = resolve(config, CARD, dict.fromkeys(["colour", "object", "background", "style"], KINDS["colour"]))
    assert isinstance(resolved, ResolvedConfig)
    assert set(resolved.set_fields()) >= {name for name, f in FIELDS.items() if not f.metadata["null"]}
    assert resolved.set_fields().items() >= config.set_fields().items()


def test_short_features_are_of_latents() -> None:
    with pytest.raises(ConfigError, match=r"set features\.ensemble 1 and features\.input_range signed"):
        resolve(EditConfig(preset="released", features=FeatureConfig(dimensions=64)))


def test_a_kind_that_the_card_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="no settings for kind 'style'; leave --kind away"):
        resolve(EditConfig(kind="style"), CARD, KINDS)
    with pytest.raises(ConfigError, match="no settings for kind 'colour'"):
        resolve(EditConfig(kind="colour"))


def test_inversion_steps_are_fewer_than_the_steps_or_a_multiple_of_them() -> None:
    assert resolve(EditConfig(steps=20)).inversion_steps == 20
    assert resolve(EditConfig(steps=20, inversion_steps=60)).inversion_steps == 60
    with pytest.raises(ConfigError, match="inversion_steps 50 is not a multiple of steps 20; use 40"):
        resolve(EditConfig(steps=20, inversion_steps=50))
    assert resolve(EditConfig(steps=20, inversion_steps=7)).inversion_steps == 7


def test_guidance_ends_after_it_starts() -> None:
    assert resolve(EditConfig(guidance_start=0.5, guidance_end=0.5)).guidance_end == 0.5
    with pytest.raises(ConfigError, match=r"guidance_start 0\.6 exceeds guidance_end 0\.4; exchange them"):
        resolve(EditConfig(guidance_start=0.6, guidance_end=0.4))


def test_the_released_preset_inverts_in_twice_its_steps() -> None:
    assert resolve(EditConfig(preset="released")).inversion_steps == 100
    with pytest.raises(ConfigError, match="inversion_steps 100 is not a multiple of steps 30; use 90"):
        resolve(EditConfig(preset="released", steps=30))


# -- presets and cards ------------------------------------------------------------------------------------------------


def differences(preset: str) -> dict[str, Any]:
    """What a preset changes, on a model without a card."""
    default = resolve(EditConfig()).set_fields()
    asked = resolve(EditConfig(preset=preset)).set_fields()  # type: ignore[arg-type]
    return {name: value for name, value in asked.items() if value != default[name] and name != "preset"}


def test_presets_are_what_the_notes_say() -> None:
    """The table of docs/method.md, and what the benchmark measured."""
    assert differences("default") == {}
    assert differences("paper") == {"slimming.own_tokens": False}
    assert differences("released") == {
        "keyframes.rule": "released",
        "features.input_range": "unit",
        "features.ensemble": 8,
        "inversion_steps": 100,
        "slimming.budget": 20,
        "slimming.count": "released",
        "slimming.own_tokens": False,
        "negative_prompt": "ugly, blurry, low res, unrealistic, unaesthetic",
    }
    fast = {"propagation.deep_from": 0.2, "propagation.blend": 4, "inversion_reuse": 3}
    assert differences("fast") == fast
    assert differences("draft") == {**fast, "steps": 20, "inversion_steps": 20, "reuse": 2}


def test_the_paper_numbers_are_the_package_defaults() -> None:
    resolved = resolve(EditConfig())
    assert (resolved.steps, resolved.inversion_steps, resolved.guidance_scale) == (50, 50, 7.5)
    assert (resolved.keyframes.mean_threshold, resolved.keyframes.window_threshold) == (0.75, 0.6)
    assert (resolved.keyframes.longest_clip, resolved.slimming.budget) == (400, 14)
    assert (resolved.injection.features, resolved.injection.attention) == (0.8, 0.8)
    assert (resolved.features.block, resolved.features.timestep, resolved.features.ensemble) == (-2, 0, 1)
    assert KeyframeConfig().completed() == resolved.keyframes


@pytest.mark.parametrize("name", list(cards()))
def test_cards_hold_only_valid_settings(name: str) -> None:
    card = cards()[name]
    EditConfig.from_fields(card.settings)
    for kind, settings in card.kinds.items():
        assert resolve(EditConfig(kind=kind), card.settings, card.kinds).set_fields().items() >= settings.items()  # type: ignore[arg-type]
    for preset in PRESETS:
        resolve(EditConfig(preset=preset), card.settings, card.kinds)  # type: ignore[arg-type]
