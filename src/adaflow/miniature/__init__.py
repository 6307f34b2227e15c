"""The miniature: a small Stable-Diffusion-format model and the rendered, captioned world it was trained on.

``world`` renders scenes with exact ground truth for every edit; ``WEIGHTS`` is a folder that
``diffusers.StableDiffusionPipeline.from_pretrained`` loads; ``train`` makes the weights. See docs/miniature.md.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
