"""What is where on the page: gradio's parts, before anything happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

from ..canvas import DARK, LIGHT, colours
from ..cards import find_card
from . import drawing
from .controls import CONTROLS, MAIN, MORE, PRESETS, THRESHOLDS, WORDS, Control, defaults, kinds_of
from .library import SAMPLES

TICK = 1.0
"""Seconds between two looks at what has changed."""
SCRIPT = '<script src="/studio/page.js"></script>'
"""The head of parts that need the page's own script."""


def theme() -> gr.themes.Base:
    """Gradio's plainest look in the system's own fonts: nothing is fetched."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    base = gr.themes.Base(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=sans, font_mono=mono)
    return base.set(  # where gradio's own colours are fainter than 4.5 to 1
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
    )


def stylesheet() -> str:
    """The page's own rules, and the colours of figures on its two grounds."""
    grounds = f".gradio-container {{ {colours(LIGHT)} }}\n.dark .gradio-container {{ {colours(DARK)} }}\n"
    return grounds + files(__package__).joinpath("page.css").read_text(encoding="utf-8")


class Parts:
    """The parts of the page, made in the `gr.Blocks` that is open.

    Args:
        models: Names of those that may be chosen, the first one chosen.
        most_bytes: The largest upload.
    """

    def __init__(self, models: Sequence[str], most_bytes: int) -> None:
        first = models[0]
        usual = defaults(first, "default", "")
        self.session = gr.State({})  # what this tab shows: digests of views, clips, and the edit compared
        self.usual = gr.State(usual)
        self.timer = gr.Timer(TICK)
        _html(_title(first), "title")
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self._video(most_bytes)
            with gr.Column(scale=6, min_width=320):
                parts = self._words(models, usual)
        _html("<h2>3. Clips and keyframes</h2>")
        with gr.Row():
            parts |= {control.name: _control(control, usual) for control in THRESHOLDS}
        self.drawn = gr.Textbox(visible=False)  # which clips are on the page: a digest, sent along with them
        self.timeline = _html("")  # below the sliders, which must not move while it grows
        self.figures = _html("")
        self.settings = [parts[control.name] for control in CONTROLS]
        self.low = [parts[control.name] for control in THRESHOLDS]
        self._jobs()
        _html("<h2>5. Before and after</h2>")
        self.compare = _html("")
        _html("<h2>6. Edits so far</h2>")
        self.history = _scripted("", "window.studioHistory(element, trigger)", "history")

    def _video(self, most_bytes: int) -> None:
        _html("<h2>1. The video</h2>")
        self.drop = _scripted(drawing.drop_zone(most_bytes), "window.studioDropZone(element, trigger)")
        self.video = gr.Dropdown([], label="Videos here", info="Uploaded before, or a sample.", filterable=False)
        with gr.Row():
            self.sample = gr.Dropdown(
                [(words, name) for name, words in SAMPLES.items()],
                value=next(iter(SAMPLES)),
                label="Samples",
                info="Rendered, for the miniature.",
                filterable=False,
                min_width=180,
            )
            self.take = gr.Button("Take this sample", min_width=140)
        self.about = _html("")
        self.remove = gr.Button("Delete this video …", size="sm", interactive=False)
        with gr.Group(visible=False) as self.doubt:
            self.doubted = _html("")
            with gr.Row():
                self.sure = gr.Button("Delete for good", variant="stop", size="sm")
                self.keep = gr.Button("Keep it", size="sm")
        self.removed = _html("")

    def _words(self, models: Sequence[str], usual: Mapping[str, Any]) -> dict[str, Any]:
        _html("<h2>2. What it should show</h2>")
        self.prompt = gr.Textbox(
            label="Prompt", info="What the edited video shows, as one plain sentence.", lines=2, max_length=2000
        )
        self.unknown = _html("")
        with gr.Row():
            self.kind = gr.Dropdown(
                kinds_of(models[0]), value="", label="What changes", info="Chooses fitting values.",
                filterable=False, min_width=150,
            )  # fmt: skip
            self.preset = gr.Dropdown(
                list(PRESETS), value="default", label="Preset", info="Whose numbers are taken.",
                filterable=False, min_width=150,
            )  # fmt: skip
            self.model = gr.Dropdown(
                list(models), value=models[0], label="Model", info="Those on this machine.",
                filterable=False, min_width=150,
            )  # fmt: skip
        parts = {control.name: _control(control, usual) for control in WORDS}
        with gr.Accordion("Settings", open=False):
            for row in (MAIN, MORE):
                with gr.Row():
                    parts |= {control.name: _control(control, usual) for control in row}
        return parts

    def _jobs(self) -> None:
        _html("<h2>4. See before you pay</h2>")
        self.estimate = _html("")
        with gr.Row():
            self.update = gr.Button("Update the estimate", min_width=150)
            self.try_out = gr.Button("Preview 4 keyframes", min_width=150)
            self.run = gr.Button("Edit the whole video", variant="primary", min_width=150)
        self.said = _html("")
        self.job = _html("")
        with gr.Row():
            self.pause = gr.Button("Pause", interactive=False, min_width=90)
            self.resume = gr.Button("Resume", interactive=False, min_width=90)
            self.cancel = gr.Button("Cancel", interactive=False, min_width=90)
        self.preview = _html("")


def _html(value: str, name: str | None = None) -> gr.HTML:
    return gr.HTML(value, elem_id=name, elem_classes="studio")


def _scripted(value: str, begin: str, name: str | None = None) -> gr.HTML:
    """A part that the page's own script works on; gradio waits for a part's `head`, not for the page's."""
    return gr.HTML(value, elem_id=name, elem_classes="studio", head=SCRIPT, js_on_load=begin)


def _control(control: Control, usual: Mapping[str, Any]) -> Any:
    value = usual[control.name]
    words: dict[str, Any] = {"label": control.label, "info": control.info}
    if control.choices:
        return gr.Dropdown(list(control.choices), value=value, filterable=False, min_width=200, **words)
    if control.low is None or control.high is None:
        return gr.Textbox(value=value, lines=control.lines, max_length=2000, **words)
    if control.name in ("seed", "height"):
        return gr.Number(value=value, minimum=control.low, maximum=control.high, precision=0, min_width=200, **words)
    return gr.Slider(control.low, control.high, value=value, step=control.step, min_width=200, **words)


def _title(model: str) -> str:
    """The page's name, and which model it works with."""
    card = find_card(model)
    badge = f"{card.name}: {card.title}"
    more = "; for real footage: adaflow models get sd21" if card.embedded else ""
    return f'<h1>AdaFlow studio</h1><p><span class="badge">{drawing.safe(badge + more)}</span></p>'
