"""The page at work: which action of `Desk` a control calls, and what is shown then.

No part of gradio's takes or gives files: uploads and films have addresses of their own (`app.py`), so that gradio's
file addresses can stay closed. The page asks once a second what has changed, so any tab shows the same state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from ..errors import AdaFlowError
from . import drawing, views
from .controls import CONTROLS, defaults, kinds_of, models_here, values_of
from .desk import Desk, Shown, unknown_to
from .layout import Parts
from .queue import Video
from .views import Asked, Session

STATES = ("waiting", "running", "pausing", "paused", "cancelling")

Values = tuple[Any, ...]


def build(desk: Desk) -> gr.Blocks:
    """The page for a studio."""
    return _Page(desk).blocks


class _Page:
    """What happens when the parts of the page are used."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.models = models_here()
        with gr.Blocks(title="AdaFlow studio", analytics_enabled=False) as self.blocks:
            self.parts = Parts(self.models, desk.library.most_bytes)
            self._wire()

    def _wire(self) -> None:
        on = self.parts
        asked = [on.video, on.prompt, on.model, on.preset, on.kind, *on.settings]
        shown = [on.about, on.timeline, on.figures, on.estimate, on.job, on.preview, on.compare, on.history]
        watched: dict[str, Any] = dict(
            fn=self._watch,
            inputs=[on.session, on.drawn, *asked],
            outputs=[on.session, on.drawn, *shown, on.pause, on.resume, on.cancel, on.remove, on.video],
        )
        quiet: dict[str, Any] = dict(show_progress="hidden", queue=False)
        # without the queue, gradio 6 forgets to send what was put off by "always_last" a second time
        last: dict[str, Any] = dict(show_progress="hidden", concurrency_limit=None, trigger_mode="always_last")
        choose = [on.video, *on.low]
        self.blocks.load(self._opened, None, choose, **quiet).then(**watched, **quiet)
        on.timer.tick(**watched, **quiet, trigger_mode="once")
        on.drop.upload(self._uploaded, [on.model], choose, **quiet).then(**watched, **quiet)
        on.take.click(self._sampled, [on.sample, on.model], [*choose, on.said], show_progress="hidden").then(
            **watched, **quiet
        )
        on.video.input(self._selected, [on.video], [*on.low, on.doubt, on.removed], **quiet).then(**watched, **quiet)
        on.remove.click(self._doubt, [on.session, on.video], [on.session, on.doubt, on.doubted, on.removed], **quiet)
        on.keep.click(lambda: gr.update(visible=False), None, on.doubt, **quiet)
        on.sure.click(self._remove, [on.session], [*choose, on.doubt, on.removed], show_progress="hidden").then(
            **watched, **quiet
        )
        on.prompt.change(
            lambda prompt, model: drawing.unknown(unknown_to(self._model(model), prompt or "")),
            [on.prompt, on.model],
            on.unknown,
            **last,
        )
        for part in (on.model, on.preset, on.kind):
            part.input(
                self._usual,
                [on.model, on.preset, on.kind, on.usual, *on.settings],
                [on.usual, on.kind, on.unknown, *on.settings],
                **quiet,
            )
        for slider in on.low:
            clips = [on.session, on.drawn, on.timeline]
            slider.input(self._moving, [on.session, *asked], clips, **last)
            slider.release(self._exact, [on.session, *asked], clips, **last)
        for button, action in ((on.update, "look"), (on.try_out, "preview"), (on.run, "edit")):
            button.click(self._asking(action), asked, on.said, **quiet).then(**watched, **quiet)
        for button, wish in ((on.pause, "pause"), (on.resume, "resume"), (on.cancel, "cancel")):
            button.click(self._wishing(wish), [on.session], on.said, **quiet).then(**watched, **quiet)
        again = [on.session, on.video, on.prompt, on.model, on.preset, on.kind, on.usual]
        on.history.select(self._picked, [on.session], [*again, on.said, *on.settings], **quiet).then(**watched, **quiet)

    # -- videos

    def _opened(self) -> Values:
        """A page is opened, or opened again: the video of the job at hand is shown."""
        job = self.desk.focus()
        return self._choose(job.video if job else None)

    def _choose(self, id: str | None) -> Values:
        """The list of videos with one chosen, by default the newest, and its thresholds."""
        videos = self.desk.queue.videos()
        id = id if id is not None or not videos else videos[0].id
        return gr.update(choices=_listed(videos), value=id), *self._low(id)

    def _low(self, id: str | None) -> Values:
        video = self.desk.queue.video(id)
        looked = video.about.get("looked") if video else None
        return (looked["mean_threshold"], looked["window_threshold"]) if looked else (gr.skip(), gr.skip())

    def _selected(self, id: str | None) -> Values:
        return *self._low(id), gr.update(visible=False), drawing.NOTHING

    def _uploaded(self, model: str, event: gr.EventData) -> Values:
        return self._begin(self.desk.video(event.id), model)

    def _sampled(self, name: str, model: str) -> Values:
        try:
            return *self._begin(self.desk.library.sample(name), model), drawing.NOTHING
        except AdaFlowError as error:
            return *(gr.skip(),) * 3, drawing.note(str(error), "error")

    def _begin(self, video: Video, model: str) -> Values:
        """A new video is shown, and looked at without being asked."""
        if not video.about.get("looked") and not self.desk.last("inspect", video.id, *STATES):
            self.desk.look(video, self._model(model), {})
        return self._choose(video.id)

    def _doubt(self, session: Session, id: str | None) -> Values:
        """Ask whether a video shall really be deleted; the answer is taken for this one, whatever is chosen then."""
        video = self.desk.queue.video(id)
        if video is None:
            return session, gr.update(visible=False), drawing.NOTHING, drawing.note("Choose a video first.")
        edits = sum(1 for job in self.desk.queue.jobs("edit", video.id, limit=10**6))
        question = drawing.doubt(video, edits)
        return {**session, "doubted": video.id}, gr.update(visible=True), question, drawing.NOTHING

    def _remove(self, session: Session) -> Values:
        video = self.desk.queue.video(session.get("doubted"))
        try:
            said = self.desk.remove(video) if video else "It is not here any more."
        except AdaFlowError as error:
            return *(gr.skip(),) * 3, gr.update(visible=False), drawing.note(str(error), "error")
        return *self._choose(None), gr.update(visible=False), drawing.note(said)

    # -- settings

    def _usual(self, model: str, preset: str, kind: str, before: dict[str, Any], *values: Any) -> Values:
        """Another model, preset or kind: controls that nobody moved go to their new places."""
        model = self._model(model)
        kinds = kinds_of(model)
        kind = kind if kind in {name for _, name in kinds} else ""
        now = defaults(model, preset, kind)
        moved = [
            now[c.name] if value == before.get(c.name) else gr.skip() for c, value in zip(CONTROLS, values, strict=True)
        ]
        return now, gr.update(choices=kinds, value=kind), drawing.NOTHING, *moved

    def _model(self, name: Any) -> str:
        return name if name in self.models else self.models[0]

    def _asked(self, id: Any, prompt: Any, model: Any, preset: Any, kind: Any, *values: Any) -> Asked:
        return Asked(id, prompt, self._model(model), preset, kind, values)

    # -- clips

    def _moving(self, session: Session, *asked: Any) -> Values:
        return self._clips(session, self._asked(*asked), self.desk.moving)

    def _exact(self, session: Session, *asked: Any) -> Values:
        exact = functools.partial(self.desk.exact, before=session.get("clips"))
        return self._clips(session, self._asked(*asked), exact)

    def _clips(self, session: Session, asked: Asked, find: Callable[..., Shown | None]) -> Values:
        video = self.desk.queue.video(asked.video)
        try:
            shown = find(video, *asked.low, asked.model, asked.settings()) if video else None
        except AdaFlowError as error:
            return gr.skip(), "", drawing.note(str(error), "error")
        if video is None or shown is None:
            return (gr.skip(),) * 3
        view = drawing.timeline(video, shown.found, shown.scores, shown.config, shown.said)
        return {**session, "clips": shown}, views.digest(view), view

    # -- jobs

    def _asking(self, action: str) -> Callable[..., str]:
        def ask(id: str, prompt: str, model: str, *rest: Any) -> str:
            try:
                video, name = self.desk.video(id), self.desk.model(model)
                settings = self._asked(id, prompt, name, *rest).settings()
                if action == "look":
                    self.desk.look(video, name, settings)
                    return drawing.NOTHING
                (self.desk.preview if action == "preview" else self.desk.edit)(video, prompt, name, settings)
                return drawing.NOTHING
            except AdaFlowError as error:
                return drawing.note(str(error), "error")

        return ask

    def _wishing(self, wish: str) -> Callable[[Session], str]:
        def do(session: Session) -> str:
            return self._wish(wish, str(session.get("focus", "")))

        return do

    def _wish(self, wish: str, id: str) -> str:
        job = self.desk.queue.find(id)
        done = job is not None and getattr(self.desk.queue, wish)(job.id)
        self.desk.worker.wake()
        return drawing.NOTHING if done else drawing.note(f"There is nothing to {wish} now.")

    def _picked(self, session: Session, event: gr.EventData) -> Values:
        """A button in the list of edits."""
        same = (gr.skip(),) * (7 + len(self.parts.settings))
        act, job = str(event.act), self.desk.queue.find(event.job)
        if job is None:
            return session, *same
        if act == "show":
            choice, *_ = self._choose(job.video)
            return {**session, "result": job.id}, choice, *same[1:6], drawing.NOTHING, *same[7:]
        if act == "use":
            model = self._model(job.model)
            preset, kind, values = values_of(job.settings, model)
            choice, *_ = self._choose(job.video)
            kinds = gr.update(choices=kinds_of(model), value=kind)
            usual = defaults(model, preset, kind)
            said = drawing.note("These are the settings of that edit.")
            return {**session, "clips": None}, choice, job.prompt, model, preset, kinds, usual, said, *values
        if act in ("pause", "resume", "cancel"):
            return session, *same[:6], self._wish(act, job.id), *same[7:]
        return session, *same

    # -- what has changed

    def _watch(self, session: Session, drawn: Any, *asked: Any) -> Values:
        """All views that differ from those on the page, the buttons, and the list of videos."""
        chosen = self._asked(*asked)
        news = views.news(self.desk, session, drawn, chosen)
        shown = [news.views.get(name, gr.skip()) for name in views.NAMES]
        able = [gr.skip()] * 4 if news.able is None else [gr.update(interactive=one) for one in news.able]
        videos: Any = gr.skip()
        if news.videos is not None:
            gone = chosen.video is not None and chosen.video not in {video.id for video in news.videos}
            videos = gr.update(choices=_listed(news.videos), **({"value": None} if gone else {}))
        return news.session, news.drawn, *shown, *able, videos


def _listed(videos: list[Video]) -> list[tuple[str, str]]:
    return [(f"{video.name} ({video.id[:4]})", video.id) for video in videos]
