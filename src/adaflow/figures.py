"""Pictures of what the method does to a video, by name: functions from arrays to a figure, an image, or a film.

| function | what it shows | from |
| --- | --- | --- |
| `yt_plot` | one column of pixels over time, with cut lines (Fig. 8) | `timelines` |
| `similarity_curves` | what decided about each frame, with the thresholds | `timelines` |
| `temporal_dynamics`, `heatmap_pair` | where a frame is still found in later ones (Fig. 2b) | `heatmaps` |
| `kept_tokens_masks`, `kept_tokens_sheet` | the keys and values that keyframes keep (Fig. 9) | `kept` |
| `keyframe_sheet`, `contact_sheet`, `side_by_side` | frames beside each other | `sheets` |
| `stage_breakdown` | time and memory by stage | `breakdown` |
| `beside`, `wiped`, `write_comparison` | source and edit in one frame, or in one video | `comparison` |

Of `similarity_curves` and `stage_breakdown`, which are lines and words alone, `element` makes a part of an HTML page in
the colours of its stylesheet, and `recoloured` an SVG file of another theme.

Those that draw axes return a matplotlib `Figure`, made without pyplot and so without global state; those that only put
frames side by side return a PIL image. Each takes a `theme`, `LIGHT` or `DARK`. `png`, `svg` and `webp` give bytes.
"""

from .breakdown import stage_breakdown
from .canvas import DARK, LIGHT, THEMES, Frame, Picture, Theme, colours, element, png, recoloured, svg, webp
from .comparison import beside, comparison_film, wipe_position, wiped, write_comparison
from .heatmaps import Dynamics, heatmap_pair, temporal_dynamics
from .kept import kept_token_tiles, kept_tokens_masks, kept_tokens_sheet
from .sheets import clip_labels, contact_sheet, keyframe_sheet, side_by_side
from .timelines import curve_borders, similarity_curves, yt_plot

__all__ = [
    "DARK",
    "LIGHT",
    "THEMES",
    "Dynamics",
    "Frame",
    "Picture",
    "Theme",
    "beside",
    "clip_labels",
    "colours",
    "comparison_film",
    "contact_sheet",
    "curve_borders",
    "element",
    "heatmap_pair",
    "kept_token_tiles",
    "kept_tokens_masks",
    "kept_tokens_sheet",
    "keyframe_sheet",
    "png",
    "recoloured",
    "side_by_side",
    "similarity_curves",
    "stage_breakdown",
    "svg",
    "temporal_dynamics",
    "webp",
    "wipe_position",
    "wiped",
    "write_comparison",
    "yt_plot",
]
