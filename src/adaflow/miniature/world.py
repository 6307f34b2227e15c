"""The rendered, captioned world of the miniature: everything about it that other modules use, in one place.

```python
scene = random_scene(seed=7, split="test")
frame = render(scene, t=0)  # uint8 (128, 224, 3)
truth = render(edit_scene(scene, colour="blue"), t=0)  # what a perfect edit of it looks like
film = video("cuts", frames=200)  # a Film: shots, cuts, masks, flow; every name in RECIPES is one
```
"""

from .film import ACTIONS, RECIPES, Film, Shot, video
from .panorama import panorama
from .render import flow, masks, render, render_video, shadows
from .scene import (
    HEIGHT,
    PLACES,
    WIDTH,
    ZOOM_MOST,
    Light,
    Scene,
    SceneObject,
    Zoom,
    caption,
    edit_scene,
    held_out,
    random_scene,
)
from .sprites import silhouette_iou, similar_objects
from .vocabulary import BACKGROUNDS, COLOURS, OBJECTS, STYLES, VOCABULARY, parse_caption

__all__ = [
    "ACTIONS",
    "BACKGROUNDS",
    "COLOURS",
    "HEIGHT",
    "OBJECTS",
    "PLACES",
    "RECIPES",
    "STYLES",
    "VOCABULARY",
    "WIDTH",
    "ZOOM_MOST",
    "Film",
    "Light",
    "Scene",
    "SceneObject",
    "Shot",
    "Zoom",
    "caption",
    "edit_scene",
    "flow",
    "held_out",
    "masks",
    "panorama",
    "parse_caption",
    "random_scene",
    "render",
    "render_video",
    "shadows",
    "silhouette_iou",
    "similar_objects",
    "video",
]
