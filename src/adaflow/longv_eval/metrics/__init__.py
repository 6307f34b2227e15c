"""Measures of an edited video against the known truth of the rendered world: docs/benchmark-metrics.md."""

from .partition import measure_partition
from .truth import measure

__all__ = ["measure", "measure_partition"]
