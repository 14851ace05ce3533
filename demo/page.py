"""The page: what is where, and what happens when something is pressed. Its state is the tab's `Visit`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from omni.assistant import Assistant
from omni.audio.io import read_bytes
from omni.demo import panels
from omni.demo.studio import Studio
from omni.demo.visits import Visit, Visits
from omni.errors import OmniError, UsageError
from omni.models.style import style_for
from omni.turns import STYLES, Style

log = logging.getLogger(__name__)

EXAMPLES = Path(__file__).parents[1] / "examples"
#: Shown name of each sample: the same sentence in three tones, and two others.
SAMPLES = {
    "The letter, happy": "letter_happy.wav",
    "The letter, sad": "letter_sad.wav",
    "The letter, angry": "letter_angry.wav",
    "A failed test": "driving_test.wav",
    "Good news": "promotion.wav",
}
_SOUND_FILES = ["audio", ".amr", ".m4a", ".webm", ".wma", ".opus"]


class Page:
    """The components of the page and its handlers."""

    def __init__(self, studio: Studio, visits: Visits) -> None:
        self.studio, self.visits = studio, visits

    # -- layout --------------------------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """The whole page."""
        with gr.Blocks(title="Omni", analytics_enabled=False, delete_cache=(60, 60)) as page:
            self.token = gr.State("", delete_callback=self.visits.close)
            gr.HTML(panels.HEADER)
            self.mark = gr.HTML(elem_classes="offstage")
            with gr.Row(elem_classes="columns"):
                with gr.Column(scale=5, min_width=320):
                    gr.HTML(panels.TALK)
                    self._ways_in()
                    self.card = gr.HTML(elem_id="card")
                    self.dialogue = gr.HTML()
                    self._keeping()
                with gr.Column(scale=6, min_width=320):
                    self.tone, self.thought = gr.HTML(), gr.HTML()
                    self._style()
                    self.sounds = gr.HTML()
            gr.HTML(panels.NOTICE)
            self.refresh = gr.Button("Refresh", elem_id="refresh", elem_classes="offstage")
            self._wire(page)
        return page

    def _ways_in(self) -> None:
        with gr.Column(elem_classes="ways"):
            self.upload = gr.UploadButton("Upload a recording", file_types=_SOUND_FILES, elem_id="upload", size="sm")
            gr.HTML('<p class="hint">Or try a sample: the same sentence in three tones, and two others</p>')
            with gr.Row(elem_classes="samples"):
                self.samples = [(gr.Button(n, size="sm", min_width=90), EXAMPLES / f) for n, f in SAMPLES.items()]

    def _keeping(self) -> None:
        with gr.Accordion("Conversations and preset", open=False, elem_classes="keeping"):
            self.names = gr.Dropdown([], label="Conversation", elem_id="names")
            self.name = gr.Textbox(label="New name for it", max_length=80, elem_id="name")
            with gr.Row():
                self.rename = gr.Button("Rename", size="sm", min_width=80, elem_id="rename")
                self.new = gr.Button("New", size="sm", min_width=80, elem_id="new")
                self.delete = gr.Button("Delete", size="sm", min_width=80, variant="stop", elem_id="delete")
            self.export = gr.HTML(elem_id="export")
            self.preset = gr.Dropdown(self.studio.presets, value=self.studio.first, label="Preset", elem_id="preset")

    def _style(self) -> None:
        with gr.Column(elem_classes="style"):
            gr.HTML('<h2>Say it another way</h2><p class="hint">The same words in another voice</p>')
            self.style = gr.Radio(list(STYLES), value="neutral", label="Style", elem_id="style")
            with gr.Row():
                self.rate = gr.Slider(0.7, 1.4, 1.0, step=0.01, label="Rate", elem_id="rate", min_width=140)
                self.pitch = gr.Slider(0.7, 1.4, 1.0, step=0.01, label="Pitch", elem_id="pitch", min_width=140)
                self.energy = gr.Slider(-8, 6, 0.0, step=0.1, label="Energy", elem_id="energy", min_width=140)
            self.speak = gr.Button("Say it again like this", elem_id="speak", size="sm")
            self.again = gr.HTML(elem_id="again")

    def _wire(self, page: gr.Blocks) -> None:
        shown = self.shown
        sliders = [self.style, self.rate, self.pitch, self.energy]
        settled = [*shown, *sliders]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        page.load(self.open, None, [self.token, self.mark, *settled], **quiet)
        page.unload(self.leave)
        self.refresh.click(self.look, self.token, settled, trigger_mode="always_last", **quiet)
        token = self.token
        self.upload.upload(self.uploaded, [token, self.upload], settled, **quiet)
        for button, path in self.samples:
            button.click(self._sampled(path), token, settled, **quiet)
        self.style.input(self.styled, self.style, sliders[1:], **quiet)
        self.speak.click(self.respeak, [token, *sliders], shown, **quiet)
        self.names.input(self._doing(Visit.choose), [self.token, self.names], settled, **quiet)
        gr.on(
            [self.rename.click, self.name.submit],
            self._doing(Visit.rename, ""),
            [self.token, self.name],
            settled,
            **quiet,
        )
        self.new.click(self._doing(Visit.new), self.token, settled, **quiet)
        self.delete.click(self._doing(Visit.delete), self.token, settled, **quiet)
        self.preset.input(self.chosen, [token, self.preset], [*shown, self.preset], **quiet)

    @property
    def shown(self) -> list[Any]:
        """The components that `_show` fills, in its order."""
        return [
            self.card, self.dialogue, self.tone, self.thought, self.sounds, self.again, self.export, self.names, self.name
        ]  # fmt: skip

    # -- handlers ------------------------------------------------------------------------------------------------

    def open(self) -> list[Any]:
        """A tab opens: a visit of its own."""
        visit = self.visits.open()
        return [visit.token, panels.token(visit), *self._settled(visit)]

    def leave(self, request: gr.Request) -> None:
        """A tab closes. Its state's delete_callback forgets the visit."""

    def look(self, token: str) -> list[Any]:
        """Show what a spoken turn changed."""
        try:
            return self._settled(self.visits.get(token))
        except UsageError as error:
            return self._failed(error)

    def uploaded(self, token: str, path: str) -> Iterator[list[Any]]:
        """A recording was sent. Its file is removed at once."""
        data = Path(path).read_bytes()
        Path(path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(path).parent.rmdir()
        yield from self._answer(token, data, "this recording")

    def _sampled(self, path: Path) -> Callable[[str], Iterator[list[Any]]]:
        def sampled(token: str) -> Iterator[list[Any]]:
            yield from self._answer(token, path.read_bytes(), "the sample")

        return sampled

    def _answer(self, token: str, data: bytes, name: str) -> Iterator[list[Any]]:
        try:
            visit = self.visits.get(token)
            talk = visit.talk
            assistant = self._assistant(visit)
            query = read_bytes(data, assistant.config.audio, name)
            for progress in self.studio.steps(lambda: assistant.steps(query, talk.conversation)):
                visit.take(progress, talk)
                visit.autoplay = progress.turn is not None
                yield self._settled(visit) if progress.turn else [*self._show(visit), *[gr.skip()] * 4]
            visit.autoplay = False
        except Exception as error:
            yield self._failed(error)

    def _assistant(self, visit: Visit) -> Assistant:
        return self.studio.assistant(visit.preset or self.studio.first)

    def styled(self, name: str) -> list[float]:
        """A style was chosen: the sliders follow."""
        style = style_for(name)
        return [style.rate, style.pitch, style.energy_db]

    def respeak(self, token: str, name: str, rate: float, pitch: float, energy_db: float) -> list[Any]:
        """The last reply in the style of the sliders."""
        try:
            visit = self.visits.get(token)
            last = visit.last
            if last is None:
                raise UsageError("there is no reply yet; speak first, then change how it is said")
            assistant = self._assistant(visit)
            style = Style(name, pitch, style_for(name).pitch_range, rate, energy_db)
            visit.respoken(self.studio.run(lambda: assistant.say(last.reply.text, style)))
            return self._show(visit)
        except Exception as error:
            return self._failed(error)[: len(self.shown)]

    def chosen(self, token: str, preset: str) -> list[Any]:
        """Another preset: it is loaded now, so that what is missing is said now."""
        try:
            visit = self.visits.get(token)
            self.studio.assistant(preset)
            visit.preset = preset
            return [*self._show(visit), gr.skip()]
        except Exception as error:
            return [*self._failed(error)[: len(self.shown)], self.studio.first]

    def _doing(self, action: Callable[..., Any], written: str | None = None) -> Callable[..., list[Any]]:
        """`written` is put into the box for a new name; None leaves what somebody may just be writing there."""

        def done(token: str, *given: str) -> list[Any]:
            try:
                visit = self.visits.get(token)
                action(visit, *given)
                found = self._settled(visit)
                if written is not None:
                    found[len(self.shown) - 1] = written
                return found
            except OmniError as error:
                return self._failed(error)

        return done

    # -- what is shown -------------------------------------------------------------------------------------------

    def _show(self, visit: Visit) -> list[Any]:
        return [
            "", panels.dialogue(visit), panels.tone(visit), panels.thought(visit), panels.sounds(visit), panels.again(visit),
            panels.export(visit), gr.update(choices=visit.names, value=visit.talk.name), gr.skip(),
        ]  # fmt: skip

    def _settled(self, visit: Visit) -> list[Any]:
        style = visit.last.reply.style if visit.last else Style()
        return [*self._show(visit), style.name, style.rate, style.pitch, style.energy_db]

    def _failed(self, error: Exception) -> list[Any]:
        if not isinstance(error, OmniError):
            log.exception("a turn failed", exc_info=error)
        return [panels.card(error), *[gr.skip()] * (len(self.shown) + 3)]
