"""What a setting is: a field with bounds and help that is not set until somebody sets it, and groups of such fields."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import Self

from .errors import ConfigError


def setting(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, optional: bool = False
) -> Any:
    """A field that is not set until somebody sets it; `default` is the package's value, for `Settings.completed`."""
    return field(default=None, metadata={"default": default, "help": help, "low": low, "high": high, "null": optional})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A group of settings that knows its bounds, and which of its fields are set."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if not f.metadata or value is None:
                continue
            object.__setattr__(self, f.name, _checked(f, hints[f.name], value))

    def set_fields(self) -> dict[str, Any]:
        """The fields that are set, by dotted name, nested groups included."""
        flat: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Settings):
                flat |= {f"{f.name}.{name}": v for name, v in value.set_fields().items()}
            elif value is not None:
                flat[f.name] = value
        return flat

    @classmethod
    def from_fields(cls, flat: Mapping[str, Any]) -> Self:
        """The inverse of `set_fields`. Raises `ConfigError` for a name that does not exist, with the nearest one."""
        known = dict(cls._known())
        for name in flat:
            if name not in known:
                inside = [n for n in known if n.startswith(f"{name}.")]
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                hint = f"; it is a group of settings, such as {inside[0]!r}" if inside else hint
                raise ConfigError(f"there is no setting {name!r}{hint}")
        values: dict[str, Any] = {}
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            if f.metadata:
                values[f.name] = flat.get(f.name)
            else:
                prefix = f"{f.name}."
                part = {n.removeprefix(prefix): v for n, v in flat.items() if n.startswith(prefix)}
                try:
                    values[f.name] = hints[f.name].from_fields(part)
                except ConfigError as error:
                    raise ConfigError(f"{prefix}{error}") from None
        return cls(**values)

    @classmethod
    def names(cls) -> list[str]:
        """The dotted names of all settings, in order."""
        return [name for name, _ in cls._known()]

    @classmethod
    def _known(cls) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            if f.metadata:
                yield f.name, f
            else:
                yield from ((f"{f.name}.{name}", inner) for name, inner in hints[f.name]._known())

    def completed(self) -> Self:
        """A copy in which every field that is not set has the package's default."""
        defaults = {name: f.metadata["default"] for name, f in type(self)._known()}
        return type(self).from_fields({k: v for k, v in defaults.items() if v is not None} | self.set_fields())


def _checked(f: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    """`value` as the field's type, or a `ConfigError` that says what is allowed."""
    options = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    if options:
        if value not in options:
            raise ConfigError(f"{f.name} is {value!r}; it must be one of {', '.join(map(str, options))}")
        return value
    kinds = [t for t in typing.get_args(hint) if t is not type(None)] if _is_union(hint) else [hint]
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    plain = tuple(typing.get_origin(t) or t for t in kinds)
    if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
        names = " or ".join(t.__name__ for t in plain)
        raise ConfigError(f"{f.name} is {value!r}; it must be of type {names}")
    low, high = f.metadata["low"], f.metadata["high"]
    if not isinstance(value, bool | str) and not _within(value, low, high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{f.name} is {value}; it must be {bounds}")
    return value


def _within(value: float, low: float | None, high: float | None) -> bool:
    return value == value and (low is None or value >= low) and (high is None or value <= high)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
