"""AdaFlow: edit long videos by text, consistently from the first frame to the last, in one inference on one device."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import (
        EditConfig,
        FeatureConfig,
        InjectionConfig,
        KeyframeConfig,
        OutputConfig,
        PropagationConfig,
        RunConfig,
        SlimmingConfig,
    )
    from .errors import AdaFlowError, Cancelled
    from .pipeline import AdaFlowPipeline
    from .progress import Progress
    from .result import EditResult

__version__ = "0.1.0"

_HOME = {
    "AdaFlowError": "errors",
    "AdaFlowPipeline": "pipeline",
    "Cancelled": "errors",
    "EditConfig": "config",
    "EditResult": "result",
    "FeatureConfig": "config",
    "InjectionConfig": "config",
    "KeyframeConfig": "config",
    "OutputConfig": "config",
    "Progress": "progress",
    "PropagationConfig": "config",
    "RunConfig": "config",
    "SlimmingConfig": "config",
}

__all__ = [
    "AdaFlowError",
    "AdaFlowPipeline",
    "Cancelled",
    "EditConfig",
    "EditResult",
    "FeatureConfig",
    "InjectionConfig",
    "KeyframeConfig",
    "OutputConfig",
    "Progress",
    "PropagationConfig",
    "RunConfig",
    "SlimmingConfig",
]


def __getattr__(name: str) -> Any:
    """A public name, imported when first used: torch and diffusers take seconds, `adaflow --help` needs neither."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
