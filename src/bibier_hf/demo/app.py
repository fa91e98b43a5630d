"""The page: a recording and/or a text go in, bars and a timeline come out."""

import atexit
import html
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import huggingface_hub.constants
from transformers import Pipeline, pipeline

from .analysis import QUIET_PEAK, Answer, Limits, RefusedInput, analyse
from .texts import LANGUAGE_NAMES, TEXTS, Texts
from .timeline_view import STYLE, timeline_rows, timeline_strip

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

EXAMPLES_FILE = "examples.json"
"""In a folder of examples: `[{"audio": file name or null, "text": str, "name": str}, ...]`."""

WAITING_LIMIT = 32
"""Visitors in the queue; further ones are told to come back."""

_KEPT_S, _SWEEP_S = 3000, 600
"""Seconds after which uploaded files are old, and between two looks for old ones: together an hour, as the notice
says."""

_SESSIONS = 100
"""Visitors whose last answer is kept, to be shown in the other language; with Gradio's 10,000 memory grows for days."""

_PREFIX, _LOCK = "bibier-demo-", ".lock"
_STARTING_S = 10
"""A folder younger than this may not be locked yet."""

CSS = (
    STYLE
    + """
.gradio-container { max-width: min(1080px, 100vw) !important; margin: 0 auto !important; }
.heading { align-items: center; }
.heading h1 { margin: 0; }
.language .wrap { justify-content: flex-end; flex-wrap: nowrap; }
.bars .bar { height: 8px !important; border-radius: 4px !important; }
.bars .label, .bars .confidence, .bars .text { font-family: var(--font) !important; }
.notice { font-size: 14px; }
@media (max-width: 640px) {
  .table { max-width: calc(100vw - 64px); }
  .table :is(th, td) { font-size: 12px; }
  .language .wrap { justify-content: flex-start; }
}
"""
)

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
"""With the visitor's own fonts: nothing is fetched from elsewhere. Text on the colours is dark or light enough to be
read."""


def build_app(pipe: Any, examples_dir: str | os.PathLike | None = None, limits: Limits | None = None) -> gr.Blocks:
    """The page over a pipeline.

    Args:
        pipe: a pipeline "audio-text-emotion".
        examples_dir: folder with [`EXAMPLES_FILE`] and its clips; None: no examples.
        limits: of a visit.
    """
    limits = limits or Limits()
    folder = _use_folder_of_its_own()
    modalities = pipe.model.config.modalities
    start = TEXTS["en"]

    def answer(
        audio: str | None, text: str, language: str
    ) -> tuple[dict[str, float], dict, str, list[list[str]], Answer]:
        texts = TEXTS[language]
        try:
            found = analyse(pipe, audio, text, limits, texts)
        except RefusedInput as error:
            raise gr.Error(html.escape(str(error)), duration=20, title=texts.refused, print_exception=False) from error
        if found.recording is not None and found.recording.peak < QUIET_PEAK:
            gr.Warning(texts.quiet.format(peak=found.recording.peak), duration=20, title=texts.please_note)
        if found.text_unused:
            gr.Warning(texts.text_unused.format(seconds=limits.timeline_from_s), duration=20, title=texts.please_note)
        return *show(found, texts), found

    def show(found: Answer, texts: Texts) -> tuple[dict[str, float], dict, str, list[list[str]]]:
        """(bars, visibility of the timeline, strip, table)"""
        scores = {texts.emotions[label]: score for label, score in found.scores.items()}
        visible = gr.update(visible=bool(found.chunks))
        return scores, visible, timeline_strip(found.chunks, texts), timeline_rows(found.chunks, texts)

    with gr.Blocks(title="BiBiER", analytics_enabled=False, delete_cache=(_SWEEP_S, _KEPT_S)) as app:
        last = gr.State(None)
        with gr.Row(elem_classes="heading"):
            with gr.Column(scale=3):
                gr.Markdown("# BiBiER")
            with gr.Column(scale=1, min_width=220):
                language = gr.Radio(
                    [(name, key) for key, name in LANGUAGE_NAMES.items()],
                    value="en",
                    show_label=False,
                    container=False,
                    elem_classes="language",
                )
        introduction = gr.Markdown(start.introduction)
        with gr.Row():
            with gr.Column():
                audio = gr.Audio(
                    sources=["microphone", "upload"],
                    type="filepath",
                    label=start.audio,
                    buttons=[],
                    visible="audio" in modalities,
                )
                text = gr.Textbox(
                    label=start.text,
                    placeholder=start.text_hint,
                    lines=2,
                    max_lines=6,
                    max_length=limits.characters,
                    visible="text" in modalities,
                )
                button = gr.Button(start.button, variant="primary")
            with gr.Column():
                bars = gr.Label(label=start.result, elem_classes="bars")
        with gr.Column(visible=False) as timeline:
            timeline_title = gr.Markdown(_timeline_heading(start, limits))
            strip = gr.HTML()
            table = gr.Dataframe(
                headers=list(start.columns), interactive=False, show_label=False, max_height=420, elem_classes="table"
            )
        rows, names = ([], []) if examples_dir is None else read_examples(examples_dir)
        if rows:
            options: dict[str, Any] = {
                "example_labels": names,
                "examples_per_page": len(rows),
                "cache_examples": False,
            }
            examples = gr.Examples(rows, [audio, text], label=start.examples, **options).dataset
            # All that is in the folder yet is examples; Gradio itself would sweep them away with what is uploaded.
            audio.keep_in_cache.update(str(path) for path in folder.rglob("*") if path.is_file())
        notice = gr.Markdown(_notice(start, limits), elem_classes="notice")

        def switch(key: str, found: Answer | None) -> list[Any]:
            texts = TEXTS[key]
            changes = [
                texts.introduction,
                gr.update(label=texts.audio),
                gr.update(label=texts.text, placeholder=texts.text_hint),
                texts.button,
                _timeline_heading(texts, limits),
                _notice(texts, limits),
                *([gr.update(label=texts.examples)] if rows else []),
            ]
            if found is None:
                return [
                    *changes,
                    gr.update(label=texts.result),
                    gr.skip(),
                    gr.skip(),
                    gr.update(headers=list(texts.columns)),
                ]
            scores, visible, fields, lines = show(found, texts)
            return [
                *changes,
                gr.update(value=scores, label=texts.result),
                visible,
                fields,
                gr.update(value=lines, headers=list(texts.columns)),
            ]

        result = [bars, timeline, strip, table]
        translated = [
            introduction,
            audio,
            text,
            button,
            timeline_title,
            notice,
            *([examples] if rows else []),
            *result,
        ]
        # One visitor at a time: the model uses every core there is.
        event: dict[str, Any] = {"inputs": [audio, text, language], "outputs": [*result, last], "concurrency_limit": 1}
        button.click(answer, api_name="analyse", **event)
        text.submit(answer, api_visibility="private", **event)
        language.change(switch, [language, last], translated, api_visibility="private", show_progress="hidden")
        app.load(preferred_language, None, language, api_visibility="private", show_progress="hidden")
    return app.queue(max_size=WAITING_LIMIT)


def load_remote_pipeline(model: str | os.PathLike, asr: str | None = None) -> Pipeline:
    """The pipeline of a checkpoint (folder or Hub id) by the Python code that comes with it, which is run: for
    checkpoints that you trust, where this package is not installed.

    Args:
        model: checkpoint.
        asr: speech recognition model that fills in a missing text.

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
    """Serve the page; nothing is shared and nothing is reported.

    Args:
        app: of [`build_app`].
        limits: the same as there.
        host: address to listen at; None: `GRADIO_SERVER_NAME`, which a Space sets, else 127.0.0.1.
        port: None: `GRADIO_SERVER_PORT`, else the first free one from 7860 on.
        wait: serve until interrupted; False: return at once, `app.close()` ends it.

    Raises:
        OSError: the port is taken.
    """
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # read at use, so it also holds after the import
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
    try:
        with _signals_end_it():
            threading.Event().wait()
    finally:
        app.close()


def preferred_language(request: gr.Request) -> str:
    """The language of the page that the visitor's browser asks for first."""
    wanted = request.headers.get("accept-language", "").lower()
    return "ru" if wanted.startswith("ru") else "en"


def read_examples(folder: str | os.PathLike) -> tuple[list[list[str | None]], list[str]]:
    """(rows of path and text, their names) of a folder of examples."""
    entries: Sequence[dict[str, Any]] = json.loads((Path(folder) / EXAMPLES_FILE).read_text(encoding="utf-8"))
    rows = [[str(Path(folder) / entry["audio"]) if entry["audio"] else None, entry["text"]] for entry in entries]
    return rows, [entry["name"] for entry in entries]


def make_temporary_folder() -> Path:
    """A folder that is removed with this process, or, where it was killed, when the next page starts."""
    _remove_left_behind()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = (folder / _LOCK).open("w")  # open, and locked, as long as this process lives
    if fcntl is not None:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()

    atexit.register(remove)
    return folder


def _use_folder_of_its_own() -> Path:
    """What visitors upload lies in a folder of this page. Gradio's default is one for all pages of a machine, and a
    page that ends removes its files there, also those that another one shows."""
    folder = make_temporary_folder()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def _remove_left_behind() -> None:
    """Remove the folders of pages that were killed: nobody holds their locks."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            if fcntl is None or time.time() - lock.stat().st_mtime < _STARTING_S:
                continue
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # held, somebody else's, or just removed
            continue


@contextmanager
def _signals_end_it() -> Generator[None]:
    """SIGTERM and SIGHUP end the process as Ctrl-C does, with everything cleaned up, unless they are handled or ignored
    already."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    main = threading.current_thread() is threading.main_thread()
    mine = [number for number in numbers if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _timeline_heading(texts: Texts, limits: Limits) -> str:
    return f"### {texts.timeline}\n{texts.timeline_hint.format(window=limits.window_s)}"


def _notice(texts: Texts, limits: Limits) -> str:
    return texts.notice.format(megabytes=limits.megabytes, minutes=f"{limits.minutes:g}", characters=limits.characters)
