"""The page: a recording, a text or both go in; bars, and bands over time for a long recording, come out."""

import atexit
import html
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import huggingface_hub.constants
import numpy as np
from transformers import Pipeline, pipeline

from ..palette import emotion_color
from .analysis import QUIET_PEAK, Answer, Heard, Limits, ModelFacts, RefusedInput, analyze, answer_live, explain
from .explanation_view import STYLE as EXPLANATION_STYLE
from .explanation_view import explanation_view
from .texts import LANGUAGE_NAMES, TEXTS, Texts
from .timeline_view import MOST_LABELS, STYLE, download_links, timeline_bands, timeline_table, value_list

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

EXAMPLES_FILE = "examples.json"
"""Lists the examples of a folder: `[{"audio": file name or null, "text": str, "name": str}, ...]`."""

WAITING_LIMIT = 32
"""Longest queue of visitors; the next ones are asked to come back later."""

_KEPT_S, _SWEEP_S = 3000, 600
"""Uploaded files are deleted when they are older than the first, checked every so often as the second says (seconds):
within an hour, as the notice promises."""

_SESSIONS = 100
"""Visitors whose last answer is kept, to show it in the other language. With Gradio's default of 10,000 memory would
grow for days."""

LIVE_EVERY_S = 0.5
"""Seconds between two answers to the live microphone."""

_PREFIX, _LOCK = "bibier-demo-", ".lock"
_STARTING_S = 10
"""A folder younger than this many seconds may not be locked yet."""

CSS = (
    STYLE
    + EXPLANATION_STYLE
    + """
.gradio-container { max-width: min(1080px, 100vw) !important; margin: 0 auto !important; }
.heading { align-items: center; }
.heading h1 { margin: 0; }
.language .wrap { justify-content: flex-end; flex-wrap: nowrap; }
.model { font-size: 14px; opacity: 0.85; }
.bars .bar { height: 8px !important; border-radius: 4px !important; }
.bars .label, .bars .confidence, .bars .text { font-family: var(--font) !important; }
.alone .bars h2 { display: none; }
.alone .bars .container { padding-top: 36px !important; }
.recording [data-testid=source-select] { height: auto; gap: 8px; padding: 8px; }
.recording [data-testid=source-select] button { flex: 1; width: auto; height: 40px; gap: 8px; border-radius: 6px;
  border: 1px solid var(--border-color-primary); display: flex; align-items: center; justify-content: center; }
.recording [data-testid=source-select] button.selected { border-color: var(--primary-700); }
.recording [data-testid=source-select] button > * { width: 20px; height: 20px; flex: none; }
.recording [data-testid=source-select] button::after { font-size: 14px; color: var(--body-text-color); }
.notice { font-size: 14px; }
.doubt { padding: 8px 12px; border-left: 3px solid var(--primary-700); }
.toast-title { font-size: 0 !important; }
.toast-title::after { font-size: 16px; }
@media (max-width: 640px) {
  .table { max-width: calc(100vw - 64px); }
  .table :is(th, td) { font-size: 12px; }
  .language .wrap { justify-content: flex-start; }
  .bands { column-gap: 6px; grid-template-columns: max-content 1fr 2.4em; font-size: 13px; }
  .bands .axis span:nth-child(even) { display: none; }
}
"""
)

CLEAR_MESSAGES = "() => document.querySelectorAll('[data-testid=toast-close]').forEach(button => button.click())"
"""Script that closes errors and warnings of an earlier attempt."""

THEME = gr.themes.Soft(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["system-ui", "sans-serif"],
).set(
    body_background_fill="*neutral_100",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_label_text_color="*primary_800",
    block_title_text_color="*primary_800",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    stat_background_fill="*primary_600",
    checkbox_label_background_fill_selected="*primary_700",
)
"""With the visitor's own fonts: nothing is fetched from elsewhere. Text has enough contrast to be read."""


def build_app(pipe: Any, examples_dir: str | os.PathLike | None = None, limits: Limits | None = None) -> gr.Blocks:
    """Build the page for a pipeline.

    Args:
        pipe: a pipeline "audio-text-emotion".
        examples_dir: folder with [`EXAMPLES_FILE`] and its clips; None: no examples.
        limits: what one visitor may ask for.
    """
    return _Page(pipe, examples_dir, limits or Limits()).app


class _Page:
    """The components of the page, and what changes them. It starts in English; [`switch`] replaces every text."""

    def __init__(self, pipe: Any, examples_dir: str | os.PathLike | None, limits: Limits):
        self.pipe, self.limits = pipe, limits
        self.facts = ModelFacts.of(pipe)
        self.folder = _use_folder_of_its_own()
        texts = TEXTS["en"]

        with gr.Blocks(title="BiBiER", analytics_enabled=False, delete_cache=(_SWEEP_S, _KEPT_S)) as app:
            self.last = gr.State(None)
            self.heard = gr.State(None)
            self._place_heading(texts)
            with gr.Row():
                with gr.Column():
                    self._place_inputs(texts)
                with gr.Column():
                    has_values = pipe.model.config.problem_type == "regression"
                    self.doubt = gr.Markdown(visible=False, elem_classes="doubt")
                    self.bars = gr.Label(
                        label=texts.result,
                        num_top_classes=MOST_LABELS,
                        visible=not has_values,
                        elem_classes=["bars", "together"],
                    )
                    self.values = gr.HTML(visible=has_values)
                    self.carried_button = gr.Button(texts.carried, visible=False)
                    self.carried = gr.HTML()
                    with gr.Row(visible=False, elem_classes="alone") as self.alone:
                        panel: dict[str, Any] = {"num_top_classes": 3, "elem_classes": "bars", "min_width": 200}
                        self.voice = gr.Label(label=texts.voice, **panel)
                        self.words = gr.Label(label=texts.words, **panel)
            self.examples = None if examples_dir is None else self._place_examples(examples_dir, texts)
            with gr.Column(visible=False) as self.timeline:
                self.timeline_title = gr.Markdown(self._timeline_heading(texts))
                self.bands = gr.HTML()
                self.table = gr.Dataframe(interactive=False, show_label=False, max_height=420, elem_classes="table")
            self.notice = gr.Markdown(self._notice(texts), elem_classes="notice")
            self.style = gr.HTML(page_style(pipe.model.config.label_names, texts), padding=False)
            self._connect(app)
        self.app = app.queue(max_size=WAITING_LIMIT)

    def _place_heading(self, texts: Texts) -> None:
        with gr.Row(elem_classes="heading"):
            with gr.Column(scale=3):
                gr.Markdown("# BiBiER")
            with gr.Column(scale=1, min_width=220):
                names = [(name, key) for key, name in LANGUAGE_NAMES.items()]
                self.language = gr.Radio(names, value="en", show_label=False, container=False, elem_classes="language")
        self.introduction = gr.Markdown(texts.introduction)
        self.model = gr.Markdown(model_line(self.facts, texts), elem_classes="model")

    def _place_inputs(self, texts: Texts) -> None:
        modalities = self.pipe.model.config.modalities
        self.audio = gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label=texts.audio,
            buttons=[],
            visible="audio" in modalities,
            elem_classes="recording",
        )
        self.text = gr.Textbox(
            label=texts.text,
            placeholder=texts.text_hint,
            lines=2,
            max_lines=6,
            max_length=self.limits.characters,
            visible="text" in modalities,
        )
        self.button = gr.Button(texts.button, variant="primary")
        with gr.Accordion(texts.live, open=False, visible="audio" in modalities) as self.live:
            self.microphone = gr.Audio(
                sources=["microphone"],
                streaming=True,
                type="numpy",
                label=self._live_hint(texts),
                buttons=[],
                visible="audio" in modalities,
            )

    def _place_examples(self, folder: str | os.PathLike, texts: Texts) -> gr.Dataset:
        rows, names = read_examples(folder)
        options: dict[str, Any] = {
            "example_labels": names,
            "examples_per_page": len(rows),
            "cache_examples": False,
        }
        examples = gr.Examples(rows, [self.audio, self.text], label=texts.examples, **options)
        for properties in examples.input_component_props:  # a click would bring the English texts back
            properties.pop("label", None)
            properties.pop("placeholder", None)

        # So far the folder holds examples alone; Gradio would sweep them away with what is uploaded.
        self.audio.keep_in_cache.update(str(path) for path in self.folder.rglob("*") if path.is_file())
        return examples.dataset

    def _connect(self, app: gr.Blocks) -> None:
        result = [self.bars, self.alone, self.voice, self.words, self.timeline, self.bands, self.table, self.values]
        result.append(self.doubt)
        translated: list[Any] = [self.style, self.introduction, self.model, self.audio, self.text, self.button]
        translated += [self.live, self.microphone]
        translated += [self.timeline_title, self.notice, *([self.examples] if self.examples else [])]
        # One visitor at a time: the model uses every core there is.
        analysis: dict[str, Any] = {
            "inputs": [self.audio, self.text, self.language],
            "outputs": [*result, self.last],
            "concurrency_limit": 1,
            "concurrency_id": "model",
            "show_progress_on": self.bars,
        }
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

        for trigger, offered in (
            (self.button.click, {"api_name": "analyze"}),
            (self.text.submit, {"api_visibility": "private"}),
        ):
            trigger(None, js=CLEAR_MESSAGES, **hidden)
            answered = trigger(self.answer, **analysis, **offered)
            answered.then(self.show_carried, [self.language, self.last], [self.carried_button, self.carried], **hidden)
        self.microphone.stream(
            self.listen,
            [self.microphone, self.heard, self.language],
            [self.doubt, self.bars, self.values, self.heard],
            stream_every=LIVE_EVERY_S,
            time_limit=round(60 * self.limits.minutes),
            concurrency_limit=1,
            concurrency_id="model",
            **hidden,
        )
        why: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
        inputs = [self.audio, self.text, self.language, self.last]
        self.carried_button.click(
            self.explain, inputs, [self.carried, self.last], show_progress_on=self.carried, **why
        )
        self.language.change(
            self.switch,
            [self.language, self.last],
            [*translated, *result, self.carried_button, self.carried],
            **hidden,
        )
        app.load(preferred_language, None, self.language, **hidden)

    def answer(
        self,
        audio: str | None,
        text: str,
        language: str,
        progress: Any = gr.Progress(),  # noqa: B008 - how Gradio is asked for it
    ) -> dict[Any, Any]:
        texts, limits = TEXTS[language], self.limits

        def report(done_s: float, whole_s: float) -> None:
            progress(done_s / whole_s, texts.working)

        try:
            found = analyze(self.pipe, audio, text, limits, texts, report)
        except RefusedInput as error:
            message = html.escape(str(error))
            raise gr.Error(message, duration=20, print_exception=False) from error

        if found.recording is not None and found.recording.peak < QUIET_PEAK:
            peak = texts.percent.format(texts.number(100 * found.recording.peak))
            gr.Warning(texts.quiet.format(peak=peak), duration=20)
        if found.text_unused:
            message = texts.text_unused.format(seconds=limits.timeline_from_s)
            gr.Warning(message, duration=20)
        return {**self.show(found, texts), self.last: found}

    def listen(self, piece: tuple[int, np.ndarray] | None, heard: Heard | None, language: str) -> dict[Any, Any]:
        """Show the emotion of the last seconds of a live voice."""
        heard = Heard.of(piece, heard, self.limits.live_s)
        found = None if heard is None else answer_live(self.pipe, heard)
        if found is None:
            return {self.heard: heard}
        shown = self.show(found, TEXTS[language])
        return {self.heard: heard} | {part: shown[part] for part in (self.doubt, self.bars, self.values)}

    def show(self, found: Answer, texts: Texts) -> dict[Any, Any]:
        names = texts.names(found.scores)

        def named(scores: dict[str, float]) -> dict[str, float]:
            return {} if found.has_values else {names[label]: score for label, score in scores.items()}

        return {
            self.doubt: gr.update(value=found.doubt(texts), visible=found.unsure_reason is not None),
            self.bars: named(found.scores),
            self.values: value_list(found, texts),
            self.alone: gr.update(visible=bool(found.by_modality) and not found.has_values),
            self.voice: named(found.by_modality.get("audio", {})),
            self.words: named(found.by_modality.get("text", {})),
            self.timeline: gr.update(visible=bool(found.windows)),
            self.bands: timeline_bands(found, texts) + download_links(found, texts),
            self.table: timeline_table(found, texts),
        }

    def show_carried(self, language: str, found: Answer | None) -> dict[Any, Any]:
        """Offer to explain the answer to a clip, and show the explanation once it is there."""
        texts = TEXTS[language]
        can = found is not None and bool(found.scores) and not (found.windows or found.has_values)
        return {
            self.carried_button: gr.update(value=texts.carried, visible=can),
            self.carried: explanation_view(None if found is None else found.explanation, texts),
        }

    def explain(self, audio: str | None, text: str, language: str, found: Answer) -> dict[Any, Any]:
        """What carried the answer; nothing if the visitor has meanwhile given something that cannot be answered."""
        try:
            explained = replace(found, explanation=explain(self.pipe, audio, text))
        except (ValueError, OSError):
            explained = found
        return {self.carried: explanation_view(explained.explanation, TEXTS[language]), self.last: explained}

    def switch(self, language: str, found: Answer | None) -> dict[Any, Any]:
        texts = TEXTS[language]
        shown = {} if found is None else self.show(found, texts)
        changes = {
            self.style: page_style(self.pipe.model.config.label_names, texts),
            self.introduction: texts.introduction,
            self.model: model_line(self.facts, texts),
            self.audio: gr.update(label=texts.audio),
            self.text: gr.update(label=texts.text, placeholder=texts.text_hint),
            self.button: texts.button,
            self.live: gr.update(label=texts.live),
            self.microphone: gr.update(label=self._live_hint(texts)),
            self.timeline_title: self._timeline_heading(texts),
            self.notice: self._notice(texts),
            **self.show_carried(language, found),
        }
        if self.examples:
            changes[self.examples] = gr.update(label=texts.examples)

        for panel, title in ((self.bars, texts.result), (self.voice, texts.voice), (self.words, texts.words)):
            value = {"value": shown.pop(panel)} if panel in shown else {}
            changes[panel] = gr.update(label=title, **value)
        return changes | shown

    def _live_hint(self, texts: Texts) -> str:
        return texts.live_hint.format(seconds=self.limits.live_s)

    def _timeline_heading(self, texts: Texts) -> str:
        return f"### {texts.timeline}\n{texts.timeline_hint.format(window=self.limits.window_s)}"

    def _notice(self, texts: Texts) -> str:
        limits = self.limits
        return texts.notice.format(
            megabytes=limits.megabytes, minutes=f"{limits.minutes:g}", characters=limits.characters
        )


def page_style(labels: Sequence[str], texts: Texts) -> str:
    """The part of the style that depends on the model and the language: the colors of the bars, and captions that
    Gradio does not let us translate."""
    rules = [
        f'[data-testid="{name}-confidence-set"] {{ --stat-background-fill: {emotion_color(label)}; }}'
        for label, name in texts.names(labels).items()
        if not set(label) & set('"<>\\')
    ]
    for source, caption in (("Upload file", texts.upload), ("Record audio", texts.microphone)):
        rules.append(f'.recording [aria-label="{source}"]::after {{ content: "{caption}"; }}')
    for kind, title in (("error", texts.refused), ("warning", texts.please_note)):
        rules.append(f'.toast-title.{kind}::after {{ content: "{title}"; }}')
    return f"<style>{' '.join(rules)}</style>"


def model_line(facts: ModelFacts, texts: Texts) -> str:
    """Markdown: the model's name, what it was trained on, and its score, as far as they are known."""
    if not facts.name:
        return ""
    name = f"[{facts.name}](https://huggingface.co/{facts.name})" if facts.on_hub else f"**{facts.name}**"
    parts = [texts.model.format(name=name)]

    corpora = [f"{name} ({texts.synthetic})" if made else name for name, made in facts.corpora.items()]
    if corpora:
        parts.append(texts.trained_on.format(corpora=", ".join(corpora)))

    scores = {name: texts.percent.format(texts.number(100 * uar)) for name, uar in facts.uar.items()}
    if scores:
        several = ", ".join(f"{name} {score}" for name, score in scores.items())
        chance = texts.percent.format(texts.number(100 * facts.chance))
        parts.append(texts.score.format(score=several if len(scores) > 1 else scores.popitem()[1], chance=chance))
    return " · ".join(parts)


def load_remote_pipeline(model: str | os.PathLike, asr: str | None = None) -> Pipeline:
    """Load the pipeline of a checkpoint and run the Python code that comes with it: for checkpoints that you trust,
    where this package is not installed.

    Args:
        model: folder or Hub id of the checkpoint.
        asr: speech recognition model that transcribes recordings without a text.

    Raises:
        OSError: no such checkpoint.
    """
    options = {} if asr is None else {"asr": asr}
    return pipeline(  # ty: ignore[no-matching-overload] - transformers lists its own tasks only
        "audio-text-emotion", model=os.fspath(model), trust_remote_code=True, **options
    )


def serve(
    app: gr.Blocks, limits: Limits, *, host: str | None = None, port: int | None = None, wait: bool = True
) -> None:
    """Serve the page without a public link and without telemetry.

    Args:
        app: the page, from [`build_app`].
        limits: the limits that it was built with.
        host: address to listen on; None: `GRADIO_SERVER_NAME`, which a Space sets, or 127.0.0.1.
        port: None: `GRADIO_SERVER_PORT`, or the first free port from 7860 on.
        wait: serve until interrupted; False: return at once, and `app.close()` ends it.

    Raises:
        OSError: the port is taken.
    """
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # read at each use, so setting it after import works
    app.launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size=f"{limits.megabytes}mb",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=_SESSIONS,
        ssr_mode=False,
        theme=THEME,
        css=CSS,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"The demo runs at {app.local_url} (Ctrl-C ends it)", flush=True)
    if not wait:
        return

    _end_on_signals()
    try:
        threading.Event().wait()
    finally:
        app.close()


def preferred_language(request: gr.Request) -> str:
    """The language of the page for a visitor: the one that the browser prefers."""
    wanted = request.headers.get("accept-language", "").lower()
    return "ru" if wanted.startswith("ru") else "en"


def read_examples(folder: str | os.PathLike) -> tuple[list[list[str | None]], list[str]]:
    """Read a folder of examples as rows of (path, text), and their names."""
    entries: Sequence[dict[str, Any]] = json.loads((Path(folder) / EXAMPLES_FILE).read_text(encoding="utf-8"))
    rows = [[str(Path(folder) / entry["audio"]) if entry["audio"] else None, entry["text"]] for entry in entries]
    return rows, [entry["name"] for entry in entries]


def make_temporary_folder() -> Path:
    """Create a folder that is removed when this process ends or, if it is killed, when the next page starts."""
    _remove_left_behind()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = (folder / _LOCK).open("w")  # stays open and locked as long as this process lives
    if fcntl is not None:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()

    atexit.register(remove)
    return folder


def _use_folder_of_its_own() -> Path:
    """Keep uploads in a folder of this page. By default Gradio shares one folder between all pages on a machine, and
    a page that ends would remove files that another one shows."""
    folder = make_temporary_folder()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def _remove_left_behind() -> None:
    """Remove the folders of pages that were killed, whose locks nobody holds."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            if fcntl is None or time.time() - lock.stat().st_mtime < _STARTING_S:
                continue
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # locked, owned by another user, or just removed
            continue


def _end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the process as Ctrl-C does, with all uploads removed, unless they are already handled
    or ignored."""
    if threading.current_thread() is not threading.main_thread():
        return

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, frame: sys.exit(128 + received))
