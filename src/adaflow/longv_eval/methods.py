"""The rows of the benchmark by name: references that bracket measures, AdaFlow, and AdaFlow with one thing changed.

A method is settings and a way to run them. ``BASE+VARIANT`` names a method under another one's settings, as in
``pnp+guidance-3``: what a sweep is made of.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml

from ..config import EditConfig
from ..errors import InputError
from ..peers import PEERS, find
from ..prompts import CHANGE
from .footage import Footage
from .running import Asked, Output, Task, alone, compared, joint, masked, repeated_first, round_trip, unedited

EVERYTHING = 4096
"""A budget that no number of keyframes exceeds."""

ROWS = 48
"""UNet rows a call, where a suite does not say: planned from free memory, they would make results differ by machine."""

MOST_JOINT_FRAMES = 200
"""Frames up to which every frame may be a keyframe: their pass is one batch of three rows a frame."""

BY_LENGTH = {"keyframes.mean_threshold": -1.0, "keyframes.window_threshold": -1.0}
"""No similarity is low enough for a new clip: only the longest clip ends one."""


@dataclass(frozen=True)
class Method:
    """A row of the benchmark.

    Attributes:
        name: As it is asked for, and as its folder is called.
        title: As tables show it.
        about: What it does, in a sentence.
        settings: `EditConfig` fields by dotted name, over those of the suite, the kind and the card.
        runs: Makes the edited frames.
        adapts: Settings that depend on the video.
        needs: Methods whose result on the same edit this one uses.
        most_frames: The longest film it is run on.
        edits: Whether it has settings at all; references that edit nothing have none.
    """

    name: str
    title: str
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: Callable[[Task, EditConfig], Output] = joint
    adapts: Callable[[Asked, EditConfig], Mapping[str, Any]] | None = None
    needs: tuple[str, ...] = ()
    most_frames: int | None = None
    edits: bool = True

    def config(self, asked: Asked) -> EditConfig:
        """Everything set for this method on this edit: the method's own over the suite's, over the kind's.

        The whole picture is edited, as by the paper and all systems compared, but where a method says otherwise.
        """
        case, edit = asked.case, asked.edit
        common: dict[str, Any] = {
            "run.rows": ROWS,
            "seed": case.seed,
            "source_prompt": case.source_prompt,
            "mask.find": "",
        }
        if edit.kind in asked.pipe.backbone.card.kinds:
            common["kind"] = edit.kind
        config = EditConfig.from_fields({**common, **asked.suite_settings, **self.settings})
        return EditConfig.from_fields(self.adapts(asked, config)).over(config) if self.adapts else config

    def refuses(self, frames: int, settings: Mapping[str, Any] = MappingProxyType({})) -> str | None:
        """Why it is not run on a film of so many frames under a suite's settings, if it is not."""
        peer = find(self.settings.get("method"))
        if peer is not None:
            given = {**peer.published, **settings, **self.settings}
            why = peer.missing(EditConfig.from_fields(given).peers)
            if why:
                return why
        if self.most_frames is None or frames <= self.most_frames:
            return None
        return f"too many keyframes for one batch; it is run on films of up to {self.most_frames} frames"

    def with_variant(self, variant: Method) -> Method:
        """This method under `variant`'s settings.

        Raises:
            InputError: `variant` changes what makes this the method it is, or what it has none of.
        """
        fixed = [name for name in variant.settings if name in self.settings]
        if not self.edits or fixed:
            what = fixed[0] if fixed else next(iter(variant.settings))
            raise InputError(f"{self.name}+{variant.name} is no method: {self.name} has a {what} of its own or none")
        return replace(
            self,
            name=f"{self.name}+{variant.name}",
            title=f"{self.title}, {variant.title}",
            about=f"{self.about} {variant.about}",
            settings={**self.settings, **variant.settings},
        )


def _uniform(asked: Asked, config: EditConfig) -> Mapping[str, Any]:
    """As many clips as AdaFlow found in this video, but all equally long."""
    clips = int(asked.adaflow["method_facts"]["clips"]) if asked.adaflow else 1
    return {"keyframes.longest_clip": -(-len(asked.case.film) // clips)}


def _limited(asked: Asked, config: EditConfig) -> Mapping[str, Any]:
    """As many clips as fit the budget, all equally long."""
    budget = asked.pipe.resolve(config).slimming.budget or 1
    return {"keyframes.longest_clip": -(-len(asked.case.film) // budget)}


def _grown(asked: Asked, config: EditConfig) -> Mapping[str, Any]:
    """Around an object a little room for what is larger; a background does not grow into what stands before it."""
    return {"mask.grow": 0 if asked.edit.kind == "background" else 3}


def _sought(asked: Asked, config: EditConfig) -> Mapping[str, Any]:
    """What a user would have looked for: the change, or the objects before a background; nothing for a style."""
    film, kind = asked.case.film, asked.edit.kind
    if kind in ("colour", "object"):
        return {"mask.find": CHANGE}
    if kind == "style" or isinstance(film, Footage):  # whose objects nobody has named
        return {}
    things = [thing.kind for thing in film.shots[0].scene.objects]
    return {"mask.find": " and ".join(f"a {name}" for name in things), "mask.invert": True, "mask.threshold": 0.5}


REFERENCES: Mapping[str, Method] = {
    m.name: m
    for m in (
        Method("source", "source", "The source, unedited.", runs=unedited, edits=False),
        Method(
            "vae",
            "target through the VAE",
            "The ground-truth target, encoded and decoded: nothing that this model makes comes nearer.",
            runs=round_trip,
            edits=False,
        ),
        Method(
            "frame1",
            "first frame repeated",
            "The first frame of AdaFlow's edit, held: still, and therefore consistent.",
            runs=repeated_first,
            needs=("adaflow",),
            edits=False,
        ),
        Method(
            "pnp",
            "PnP per frame",
            "Every frame edited by itself, with the same inversion and injection.",
            {"slimming.budget": 0},
            runs=alone,
        ),
        Method(
            "full",
            "full attention",
            "AdaFlow without slimming: every keyframe attends to all of every other.",
            {"slimming.budget": EVERYTHING},
            most_frames=MOST_JOINT_FRAMES,
        ),
        Method(
            "uniform",
            "uniform keyframes",
            "AdaFlow without adaptive keyframes: as many clips, all equally long.",
            BY_LENGTH,
            adapts=_uniform,
            needs=("adaflow",),
        ),
        Method(
            "limited",
            "as many keyframes as the budget",
            "Full attention among as many keyframes as the budget allows, evenly spread.",
            BY_LENGTH,
            adapts=_limited,
        ),
        Method(
            "no-propagation",
            "no propagation",
            "Every frame a keyframe, edited jointly under the budget.",
            runs=alone,
            most_frames=MOST_JOINT_FRAMES,
        ),
        Method(
            "masked",
            "AdaFlow, told where",
            "AdaFlow with the true mask: of the object to be edited, for a new background of all but the objects.",
            {"mask.feather": 2},
            runs=masked,
            adapts=_grown,
        ),
        Method(
            "found",
            "AdaFlow, finding where",
            "AdaFlow that finds by itself what the prompt changes, or for a new background the objects to be kept.",
            {"mask.feather": 2},
            adapts=_sought,
        ),
    )
}
"""What every measure is read against."""

COMPARED: Mapping[str, Method] = {
    name: Method(name, peer.title, peer.about, {"method": name}, runs=compared)
    for name, peer in PEERS.items()
    if name not in REFERENCES
}
"""The compared systems (docs/peers.md), under the same settings as AdaFlow; Plug-and-Play is among the references."""

ADAFLOW = Method("adaflow", "AdaFlow", "AdaFlow as the model's card sets it.")


@cache
def variants() -> Mapping[str, Method]:
    """AdaFlow with one thing changed, by name (`variants.yaml`)."""
    data = yaml.safe_load(resources.files(__package__).joinpath("variants.yaml").read_text(encoding="utf-8"))
    return {name: Method(name, **entry) for name, entry in data.items()}


def methods() -> Mapping[str, Method]:
    """Every method that has a name of its own, in the order of tables."""
    return {**REFERENCES, **COMPARED, ADAFLOW.name: ADAFLOW, **variants()}


def groups() -> Mapping[str, tuple[str, ...]]:
    """Names that stand for several methods."""
    references = (*REFERENCES, ADAFLOW.name)
    return {
        "references": references,
        "compared": (*PEERS, ADAFLOW.name),
        "all": (*REFERENCES, *COMPARED, ADAFLOW.name),
        "ablations": (ADAFLOW.name, *variants()),
        "everything": tuple(methods()),
    }


def choose(names: str) -> list[Method]:
    """The methods asked for, with those whose results they need, each once and in the order of tables.

    Args:
        names: Comma-separated names, groups, and ``BASE+VARIANT``.

    Raises:
        InputError: a name is unknown; the nearest is named.
    """
    known, chosen = methods(), dict[str, Method]()
    for name in (word.strip() for word in names.split(",")):
        for one in groups().get(name, (name,)):
            method = _method(one)
            chosen |= {needed: known[needed] for needed in method.needs if needed not in chosen}
            chosen[method.name] = method
    order = {name: place for place, name in enumerate(known)}
    return sorted(chosen.values(), key=lambda m: order[m.name.partition("+")[0]])


def _method(name: str) -> Method:
    base, *changes = name.split("+")
    method = _known(base, methods())
    for change in changes:
        method = method.with_variant(_known(change, variants()))
    return method


def _known(name: str, among: Mapping[str, Method]) -> Method:
    if name not in among:
        near = difflib.get_close_matches(name, [*among, *groups()], n=1)
        hint = f"did you mean {near[0]!r}? All of them: " if near else "see: "
        raise InputError(f"there is no method {name!r}; {hint}adaflow eval list")
    return among[name]
