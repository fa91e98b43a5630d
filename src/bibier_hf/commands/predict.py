"""The command behind `bibier predict` and `recipes/predict.py`: emotions of clips and texts, for reading or as JSON
lines."""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..errors import ArgumentError
from ..files import WriteError
from ..model.audio_bibier import AudioError
from ..model.labels_bibier import EMOTIONS
from ..model.pipeline_bibier import UNSURE
from ..model.timeline_bibier import TimelineOptions
from ..timeline import TIMELINE_FORMATS, save_timeline
from .checkpoint import load_pipeline
from .common import guarded, to_json

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .au .caf .w64 .rf64 "  # libsndfile
    ".m4a .m4b .mp4 .webm .mka .aac .wma .amr .3gp".split()  # ffmpeg
)
"""Which files of a folder are taken for audio; a file that is named itself may have any other."""

STDIN = "-"
EXIT_INPUT_FAILED = 1
SHOWN_EMOTIONS = 3


@dataclass(frozen=True)
class PredictArguments:
    """What to answer, and in which form.

    Attributes:
        model: folder or Hub id of a checkpoint.
        inputs: audio files, URLs, folders of audio files, or `-` for paths on stdin.
        text: what is said in each of the inputs; without inputs, a text alone.
        demo: an English and a Russian clip of the embedded corpus as well.
        top_k: emotions to tell, best first; None: three for reading, all in JSON and in files.
        threshold: where the best score is below it, `unsure` stands first.
        channel: judge this channel (from 0) of each recording; None: the mean of all.
        asr: id or folder of a speech recognition model for clips without text.
        asr_language: ISO 639 code of what is spoken; None: that model guesses.
        chunk_length_s, hop_length_s, segmentation, merge: how long recordings are cut
            ([`~bibier_hf.model.timeline_bibier.TimelineOptions`]); all unset: a recording is one utterance.
        output: file for the timeline of one recording; its suffix says in which form.
        as_json: one JSON object a line for each input.
        backbone_dir: folder with local copies of backbones that the checkpoint only names.
    """

    model: str
    inputs: Sequence[str] = field(default_factory=list)
    text: str | None = None
    demo: bool = False
    top_k: int | None = None
    threshold: float | None = None
    channel: int | None = None
    asr: str | None = None
    asr_language: str | None = None
    chunk_length_s: float | None = None
    hop_length_s: float | None = None
    segmentation: str | None = None
    merge: bool = False
    output: str | None = None
    as_json: bool = False
    backbone_dir: str | None = None

    def __post_init__(self):
        for name in ("threshold", "chunk_length_s", "hop_length_s"):
            if not math.isfinite(getattr(self, name) or 0):
                raise ArgumentError(f"--{name}: {getattr(self, name)} is not allowed; give a number.")
        if not (self.inputs or self.text or self.demo):
            raise ArgumentError("Nothing to do: give audio files, a folder, - (paths on stdin), --text or --demo.")
        if self.asr_language is not None and self.asr is None:
            raise ArgumentError(
                "--asr_language is what --asr hears; give --asr, such as openai/whisper-base, as well."
            )
        if not self.windows:
            if self.output is not None:
                raise ArgumentError(
                    "--output is for a timeline; give --chunk_length_s, such as 4, or --segmentation energy as well."
                )
            return
        if self.text or self.demo:
            raise ArgumentError(
                "--text and --demo come with a text that cannot be laid over windows; leave them out, or use --asr."
            )
        if self.output is None:
            return
        if len(self.inputs) != 1 or self.inputs[0] == STDIN or Path(self.inputs[0]).is_dir():
            raise ArgumentError(
                "--output holds the timeline of one recording; give one audio file, or --json for many."
            )
        if Path(self.output).suffix.lower() not in TIMELINE_FORMATS:
            raise ArgumentError(f"--output: {self.output} must end in one of {', '.join(TIMELINE_FORMATS)}.")

    @property
    def windows(self) -> dict[str, Any]:
        """Arguments of the pipeline for a timeline; {} where none is asked for.

        Raises:
            ArgumentError: what does not fit together.
        """
        given = {name: getattr(self, name) for name in ("chunk_length_s", "hop_length_s", "segmentation", "merge")}
        try:
            asked_for = TimelineOptions(**given).asked_for
        except ValueError as error:
            raise ArgumentError(str(error)) from error
        return given | {"return_timestamps": True} if asked_for else {}


def predict_main(**options: Any) -> int:
    """Answer every input, each as soon as it is there; returns the exit code.

    An input that cannot be used is told on stderr (and as `{"input": ..., "error": ...}` among JSON lines), and the
    next one is answered.

    Args:
        options: fields of [`PredictArguments`].
    """
    failed = 0

    def predict() -> None:
        nonlocal failed
        arguments = PredictArguments(**options)
        samples = read_samples(arguments)
        pipe = load_pipeline(arguments.model, arguments.backbone_dir, arguments.asr, arguments.asr_language)
        show = show_json if arguments.as_json else partial(show_text, top_k=arguments.top_k)
        count = 0
        for name, sample in tqdm(
            samples, desc="Predicting", unit="input", disable=isinstance(samples, list) and len(samples) < 2
        ):
            count += 1
            try:
                answer = answer_sample(pipe, sample, arguments)
            except WriteError:  # says nothing about the input
                raise
            except (AudioError, OSError) as error:
                failed += 1
                tqdm.write(f"error: {name}: {error}", file=sys.stderr)
                if arguments.as_json:
                    tqdm.write(to_json({"input": name, "error": str(error)}), file=sys.stdout)
                continue
            tqdm.write(show(name, sample, answer), file=sys.stdout)
            sys.stdout.flush()
        if not count:
            raise ArgumentError("Nothing to do: no path came on stdin.")
        if failed:
            print(f"{failed} of {count} inputs failed.", file=sys.stderr)

    return guarded(predict) or (EXIT_INPUT_FAILED if failed else 0)


def answer_sample(pipe: Any, sample: dict[str, Any], arguments: PredictArguments) -> dict[str, Any]:
    """`{"emotions": [{"label", "score"}, ...]}`, with windows also `"chunks"`; the timeline is written if one is asked
    for.

    Raises:
        AudioError, OSError: an input that cannot be used.
    """
    if not arguments.windows:
        return {
            "emotions": pipe(sample, top_k=arguments.top_k, threshold=arguments.threshold, channel=arguments.channel)
        }
    answer = pipe(
        sample, top_k=arguments.top_k, threshold=arguments.threshold, channel=arguments.channel, **arguments.windows
    )
    if arguments.output is not None:
        save_timeline(answer, arguments.output, name=Path(sample["audio"]).stem)
    return answer


def read_samples(arguments: PredictArguments) -> Iterable[tuple[str, dict[str, Any]]]:
    """(name, pipeline input) of everything to answer: a list, or an iterator where paths come on stdin as long as it
    is open.

    Raises:
        ArgumentError: a folder without audio files.
    """
    text = arguments.text or None
    if STDIN in arguments.inputs:
        return ((path, {"audio": path, "text": text}) for path in expand_inputs(arguments.inputs))
    samples: list[tuple[str, dict[str, Any]]] = [
        (path, {"audio": path, "text": text}) for path in expand_inputs(arguments.inputs)
    ]
    if text and not arguments.inputs:
        samples.append(("text", {"text": text}))
    return samples + (demo_samples() if arguments.demo else [])


def expand_inputs(inputs: Sequence[str]) -> Iterator[str]:
    """The audio files that arguments stand for: folders are searched, `-` reads paths from stdin.

    Raises:
        ArgumentError: a folder without audio files.
    """
    for given in inputs:
        if given == STDIN:
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        elif Path(given).is_dir():
            files = sorted(path for path in Path(given).rglob("*") if path.is_file())
            audio = [str(path) for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
            if not audio:
                raise ArgumentError(f"{given} holds no audio files ({', '.join(sorted(AUDIO_SUFFIXES))}).")
            if others := len(files) - len(audio):
                print(f"{given}: {others} files left out that are not audio by their names.", file=sys.stderr)
            yield from audio
        else:
            yield given


def demo_samples() -> list[tuple[str, dict[str, Any]]]:
    """One English and one Russian test clip of the embedded corpus, as (description, pipeline input)."""
    from ..data.corpora.quickstart import demo_clips

    return [
        (f"{language}, truth: {EMOTIONS[row['label']]}", {"audio": row["audio"], "text": row["text"]})
        for language, row in demo_clips().items()
    ]


def show_json(name: str, sample: dict[str, Any], answer: dict[str, Any]) -> str:
    """One line: `{"input": ..., "text": ..., "emotions": [...]}`, with windows also `"chunks"`."""
    return to_json({"input": name, "text": sample.get("text")} | answer)


def show_text(name: str, sample: dict[str, Any], answer: dict[str, Any], top_k: int | None = None) -> str:
    """The name with the text, and the emotions under it; windows follow, a line each."""
    lines = [
        f"{name}: {sample['text']!r}" if sample.get("text") else name,
        f"    {show_emotions(answer['emotions'], top_k) or 'nothing is said'}",
    ]
    for chunk in answer.get("chunks", []):
        start, end = chunk["timestamp"]
        said = f"  {chunk['text']!r}" if chunk.get("text") else ""
        lines.append(f"    {start:7.2f} - {end:7.2f} s  {show_emotions(chunk['emotions'], top_k)}{said}")
    return "\n".join(lines)


def show_emotions(emotions: Sequence[dict[str, Any]], top_k: int | None) -> str:
    """`happy 0.62, surprise 0.20`; `unsure` comes before them and is not counted."""
    shown = (top_k or SHOWN_EMOTIONS) + (bool(emotions) and emotions[0]["label"] == UNSURE)
    return ", ".join(f"{entry['label']} {entry['score']:.2f}" for entry in emotions[:shown])
