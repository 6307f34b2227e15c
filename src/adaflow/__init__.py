"""AdaFlow: edit long videos by text, consistently from the first frame to the last, in one inference on one device."""

from .config import (
    EditConfig,
    FeatureConfig,
    InjectionConfig,
    KeyframeConfig,
    OutputConfig,
    RunConfig,
    SlimmingConfig,
)
from .errors import AdaFlowError, Cancelled
from .pipeline import AdaFlowPipeline
from .progress import Progress
from .result import EditResult

__version__ = "0.1.0"

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
    "RunConfig",
    "SlimmingConfig",
]
