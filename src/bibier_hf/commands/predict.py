"""`bibier predict`."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from tqdm.auto import tqdm

from ..commandline import Positional
from ..errors import ArgumentError
from ..files import WriteError, is_main_process
from ..folders import TABLE_FORMATS, AnswerTable
from ..model.answers_bibier import UNSURE, AnswerLabels
from ..model.audio_bibier import AudioError
from ..model.configuration_bibier import REGRESSION
from ..model.timeline_bibier import TimelineOptions
from ..timeline import TIMELINE_FORMATS, TURN_FORMATS, Turn, per_minute, read_turns, save_timeline, timed_texts
from .checkpoint import CheckpointOptions, load_pipeline
from .common import to_json

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .au .caf .w64 .rf64 "  # libsndfile
    ".m4a .m4b .mp4 .webm .mka .aac .wma .amr .3gp".split()  # ffmpeg
)
"""Files of a folder that are taken for audio. A file that is named itself may have any other suffix."""

STDIN = "-"
EXIT_INPUT_FAILED = 1
SHOWN_LABELS = 3


class PredictArguments(CheckpointOptions):
    """Predict the emotions of clips and texts.

    Examples:
      bibier predict outputs/resd clip.wav --text "I can't believe it!" --top_k 3
      bibier predict outputs/resd recordings/ other.flac --json > answers.jsonl
      find recordings -name '*.wav' | bibier predict outputs/resd - --json
      bibier predict outputs/resd --text "I can't believe it!"
      bibier predict outputs/resd clip.wav --labels anger,neutral
      bibier predict outputs/resd clip.wav --label_map "{positive: [happy, surprise], negative: [anger, sad]}"
      bibier predict outputs/resd recordings/ --output answers.parquet
      bibier predict outputs/resd talk.wav --chunk_length_s 4 --hop_length_s 2 --output talk.srt
      bibier predict outputs/resd talk.wav --segments talk.rttm --output answers.json --summary minutes.csv
      bibier predict outputs/resd clip.wav --text "I can't believe it!" --explain
      bibier predict outputs/resd talk.wav --granularity sentence --transcript said.srt
      bibier predict outputs/resd talk.wav --segmentation energy --merge --asr openai/whisper-base --asr_language ru

    Answers go to stdout, progress and messages to stderr. With --output, torchrun or accelerate launch may start this
    command several times (torchrun --nproc_per_node 4 -m bibier_cli predict ...); the processes share the work.
    Exit code 1: an input failed; the others were processed. (Under a launcher 0; the file of answers names it.)
    """

    inputs: Annotated[list[str], Positional("AUDIO|FOLDER|URL|-")] = Field(
        [], description="recordings; - reads paths from stdin, one per line"
    )
    text: str | None = Field(None, description="what is said in each of the clips, or text without a clip")
    demo: bool = Field(False, description="predict an English and a Russian clip of the quickstart corpus")
    top_k: int | None = Field(None, ge=1, description="emotions to show; null: 3, all with --json and in files")
    threshold: float | None = Field(None, ge=0, le=1, description="answer unsure if the best score is lower")
    labels: list[str] | None = Field(None, description="choose from these labels; null: all")
    label_map: dict[str, list[str] | str] | None = Field(
        None, description="labels to merge, by their new name: {positive: [happy, surprise]}"
    )
    channel: int | None = Field(None, ge=0, description="channel (from 0) of each recording; null: the mean of all")
    asr: str | None = Field(None, description="speech recognizer for clips without text: Hub id or folder")
    asr_language: str | None = Field(
        None, description="spoken language, such as ru; small recognizers are bad at guessing it"
    )
    chunk_length_s: float | None = Field(None, description="cut long recordings into windows of this many seconds")
    hop_length_s: float | None = Field(None, description="from one window's start to the next; null: chunk_length_s")
    segmentation: Literal["fixed", "energy"] | None = Field(None, description="fixed (windows) or energy (speech)")
    segments: str | None = Field(
        None, description=f"file with the turns of the speakers in one recording: {', '.join(TURN_FORMATS)}"
    )
    transcript: str | None = Field(
        None, description=f"file with what is said when in one recording: {', '.join(TURN_FORMATS[1:])}"
    )
    granularity: Literal["word", "sentence", "utterance", "turn"] | None = Field(
        None, description="answer each word, sentence, utterance, or turn of one recording"
    )
    merge: bool = Field(False, description="join neighboring windows with the same best emotion")
    output: str | None = Field(
        None,
        description=f"file for the answers: {', '.join(TABLE_FORMATS)} (a killed command continues where it was); with "
        f"windows, for the timeline of one recording: {', '.join(TIMELINE_FORMATS)}",
    )
    batch_size: int = Field(16, ge=1, description="recordings per step, for a file of answers")
    summary: str | None = Field(
        None, description=f"file for the summary of each speaker and minute: {', '.join(TIMELINE_FORMATS)}"
    )
    explain: bool = Field(
        False, description="also report which words and which quarters of a second carried the answer"
    )
    as_json: bool = Field(False, alias="json", description="one JSON object per input and line, on stdout")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.inputs or self.text or self.demo):
            raise ArgumentError("Nothing to do: give audio files, a folder, - (paths on stdin), --text or --demo.")
        if self.asr_language is not None and self.asr is None:
            raise ArgumentError("asr_language: give the recognizer, too, such as --asr openai/whisper-base.")

        if self.transcript is not None and not (self.windows or self.segments):
            raise ArgumentError("transcript: needs a timeline; give --granularity sentence or --chunk_length_s 4.")
        if not self.windows:
            if self.summary is not None:
                raise ArgumentError("summary: needs a timeline with speakers; give --segments.")
            if self.output is None:
                return self
            if Path(self.output).suffix.lower() not in TABLE_FORMATS:
                raise ArgumentError(
                    f"output: a file of answers ends in one of {', '.join(TABLE_FORMATS)}; for a timeline, give "
                    "--chunk_length_s 4 or --segmentation energy."
                )
            if self.explain:
                raise ArgumentError("explain: has no place in a file of answers. Use --json.")
            if self.demo or not self.inputs:
                raise ArgumentError(
                    "output: holds answers to recordings. Give audio files or a folder, or use --json."
                )
            return self

        if self.text or self.demo:
            raise ArgumentError("text, demo: a text without timestamps cannot be aligned with windows. Use --asr.")

        if len(self.inputs) != 1 or self.inputs[0] == STDIN or Path(self.inputs[0]).is_dir():
            if self.output is not None:
                raise ArgumentError("output: holds the timeline of one recording. Give one audio file, or use --json.")
            if given := [name for name in ("segments", "transcript", "summary") if getattr(self, name) is not None]:
                raise ArgumentError(f"{', '.join(given)}: belongs to one recording. Give one audio file.")
        for name in ("output", "summary"):
            path = getattr(self, name)
            if path is not None and Path(path).suffix.lower() not in TIMELINE_FORMATS:
                raise ArgumentError(f"{name}: {path} must end in one of {', '.join(TIMELINE_FORMATS)}.")
        if self.summary is not None and not any(turn.speaker for turn in self.turns or self.said or []):
            raise ArgumentError("summary: needs speakers. Give --segments with the turns of each.")
        texts = self.asr or self.said or any(turn.text for turn in self.turns or [])
        if self.granularity in ("word", "sentence") and not texts:
            raise ArgumentError(
                f"granularity: {self.granularity} needs words with their times. Give --asr openai/whisper-base, "
                "--transcript, or --segments with texts."
            )
        if self.granularity == "turn" and not (self.turns or any(turn.speaker for turn in self.said or [])):
            raise ArgumentError("granularity: turn needs speakers. Give --segments with the turns of each.")
        return self

    @cached_property
    def turns(self) -> list[Turn] | None:
        """What the file of `segments` holds.

        Raises:
            ArgumentError: a file that cannot be used.
        """
        return None if self.segments is None else read_turns(self.segments, Path((self.inputs or [""])[0]).stem)

    @cached_property
    def said(self) -> list[Turn] | None:
        """What the file of `transcript` holds; errors as for `turns`."""
        return None if self.transcript is None else read_turns(self.transcript)

    @property
    def windows(self) -> dict[str, Any]:
        """Arguments of the pipeline for a timeline; {} if none is wanted.

        Raises:
            ValueError: contradicting values.
        """
        names = ("chunk_length_s", "hop_length_s", "segmentation", "granularity", "merge")
        given: dict[str, Any] = {name: getattr(self, name) for name in names} | {"segments": self.turns}
        return given | {"return_timestamps": True} if TimelineOptions(**given).asked_for else {}


def predict(arguments: PredictArguments) -> int:
    """Answer every input as soon as it is computed; returns the exit code.

    An input that cannot be used is reported on stderr (and as `{"input": ..., "error": ...}` among JSON lines).
    """
    samples = read_samples(arguments)
    pipe = load_pipeline(arguments.checkpoint, arguments.backbone_dir, arguments.asr, arguments.asr_language)
    labels = answer_labels(pipe, arguments)
    if arguments.output is not None and not arguments.windows:
        return write_answers(arguments, pipe, labels, [sample["audio"] for _, sample in samples])

    shown = len(labels) if pipe.model.config.problem_type == REGRESSION else arguments.top_k
    show = show_json if arguments.as_json else partial(show_text, top_k=shown)
    single = isinstance(samples, list) and len(samples) < 2
    count = failed = 0

    for name, sample in tqdm(samples, desc="Predicting", unit="input", disable=single):
        count += 1
        try:
            answer = answer_sample(pipe, sample, arguments, labels)
        except WriteError:  # not the fault of the input
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
        raise ArgumentError("Nothing to do: stdin held no path.")
    if failed:
        print(f"{failed} of {count} inputs failed.", file=sys.stderr)
    return EXIT_INPUT_FAILED if failed else 0


def write_answers(arguments: PredictArguments, pipe: Any, labels: Sequence[str], recordings: Sequence[str]) -> int:
    """Write the answers to recordings as a table; returns the exit code."""
    assert arguments.output is not None
    options = {name: getattr(arguments, name) for name in ("top_k", "threshold", "labels", "label_map")}
    table = AnswerTable(
        Path(arguments.output),
        pipe,
        labels,
        arguments.text or None,
        arguments.channel,
        arguments.batch_size,
        {name: value for name, value in options.items() if value is not None},
        {"asr": arguments.asr, "asr_language": arguments.asr_language},
    )
    if not recordings:
        raise ArgumentError("Nothing to do: stdin held no path.")
    failed = table.write(recordings)
    if is_main_process():
        print(f"{arguments.output}: {len(recordings)} rows" + (f", {failed} with an error." if failed else "."))
    launched = "RANK" in os.environ  # a launcher would report a crash, and end the others
    return EXIT_INPUT_FAILED if failed and not launched else 0


def answer_labels(pipe: Any, arguments: PredictArguments) -> list[str]:
    """The labels of the answers, in order.

    Raises:
        ArgumentError: options that do not go with the model.
    """
    try:
        labels = AnswerLabels.of(pipe.model.config, arguments.labels, arguments.label_map)
    except ValueError as error:
        raise ArgumentError(str(error)) from error

    ranking = [name for name in ("top_k", "threshold", "merge") if getattr(arguments, name)]
    if ranking and pipe.model.config.problem_type == REGRESSION:
        raise ArgumentError(f"{', '.join(ranking)}: ranks labels, but this model predicts values. Leave it out.")
    return list(labels.groups)


def answer_sample(
    pipe: Any, sample: dict[str, Any], arguments: PredictArguments, labels: Sequence[str]
) -> dict[str, Any]:
    """`{"emotions": [{"label", "score"}, ...]}` and whether the answer is unsure, with windows also `"chunks"`; the
    `"explanation"` if it is asked for. Writes the timeline if there is to be one.

    Raises:
        AudioError, OSError: an input that cannot be used.
    """
    options = {name: getattr(arguments, name) for name in ("top_k", "threshold", "channel", "labels", "label_map")}
    if arguments.explain:
        options["explain"] = True
    if arguments.said is not None:
        sample = {**sample, "text": timed_texts(arguments.said)}
    answer = pipe(sample, return_unsure=True, **options, **arguments.windows)
    if not arguments.windows:
        return {"emotions": answer.pop("answers"), **answer}

    name = Path(sample["audio"]).stem
    if arguments.output is not None:
        save_timeline(answer, arguments.output, name=name, labels=labels)
    if arguments.summary is not None:
        save_timeline(per_minute(answer), arguments.summary, name=name, labels=labels)
    return answer


def read_samples(arguments: PredictArguments) -> Iterable[tuple[str, dict[str, Any]]]:
    """(name, pipeline input) of everything to answer: a list, or an iterator as long as paths come on stdin.

    Raises:
        ArgumentError: a folder without audio files.
    """
    text = arguments.text or None
    clips = ((path, {"audio": path, "text": text}) for path in expand_inputs(arguments.inputs))
    if STDIN in arguments.inputs:
        return clips

    samples: list[tuple[str, dict[str, Any]]] = list(clips)
    if text and not arguments.inputs:
        samples.append(("text", {"text": text}))
    return samples + (demo_samples() if arguments.demo else [])


def expand_inputs(inputs: Sequence[str]) -> Iterator[str]:
    """Search folders for audio files, and read paths from stdin for `-`.

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
    from ..data.corpora.quickstart import CORPUS, demo_clips

    names = CORPUS.label_set({})
    return [
        (f"{language}, truth: {names[row['label']]}", {"audio": row["audio"], "text": row["text"]})
        for language, row in demo_clips().items()
    ]


def show_json(name: str, sample: dict[str, Any], answer: dict[str, Any]) -> str:
    """One line: `{"input": ..., "text": ..., "emotions": [...], "unsure": ...}`, with windows also `"chunks"`."""
    return to_json({"input": name, "text": sample.get("text")} | answer)


def show_text(name: str, sample: dict[str, Any], answer: dict[str, Any], top_k: int | None = None) -> str:
    """The name with the text, and the emotions under it; windows follow, a line each."""
    lines = [
        f"{name}: {sample['text']!r}" if sample.get("text") else name,
        f"    {show_emotions(answer['emotions'], top_k) or 'nothing is said'}{show_doubt(answer)}",
    ]
    lines += show_explanation(answer.get("explanation"))
    for chunk in answer.get("chunks", []):
        start, end = chunk["timestamp"]
        said = f"  {chunk['text']!r}" if chunk.get("text") else ""
        speaker = f"{chunk['speaker'] or 'unknown'}: " if "speaker" in chunk else ""
        shown = (show_emotions(chunk["emotions"], top_k) or "nothing is said") + show_doubt(chunk)
        lines.append(f"    {start:7.2f} - {end:7.2f} s  {speaker}{shown}{said}")
        lines += show_explanation(chunk.get("explanation"))
    for summary in answer.get("speakers", []):
        name, count = summary["speaker"] or "unknown", summary["turns"]
        shown = show_emotions(summary["emotions"], top_k) or "nothing is said"
        turns = "1 turn" if count == 1 else f"{count} turns"
        lines.append(f"    {name}, {turns}, {summary['seconds']:.1f} s: {shown}")
    return "\n".join(lines)


def show_doubt(answer: Mapping[str, Any]) -> str:
    """` (unsure: no speech)`, or nothing."""
    return f" (unsure: {answer['unsure_reason']})" if answer.get("unsure") and answer["emotions"] else ""


def show_explanation(explanation: dict[str, Any] | None) -> list[str]:
    """A line with the words and times that carried the answer, and how much each adds to its probability."""
    if explanation is None:
        return []
    words = [explanation["words"][place] for place in explanation["carried_by"]["words"]]
    stretches = [explanation["audio"][place] for place in explanation["carried_by"]["audio"]]
    parts = [f"{word['text']!r} {word['effect']:+.2f}" for word in words]
    parts += ["{:.2f}-{:.2f} s {:+.2f}".format(*part["timestamp"], part["effect"]) for part in stretches]
    together = explanation["additivity"]["joint"]
    return [f"        carried by {', '.join(parts)}; all of them {together:+.2f}"]


def show_emotions(emotions: Sequence[dict[str, Any]], top_k: int | None) -> str:
    """`happy 0.62, surprise 0.20`; `unsure` comes before them and is not counted. Labels that are present have a `+`."""
    shown = (top_k or SHOWN_LABELS) + (bool(emotions) and emotions[0]["label"] == UNSURE)
    return ", ".join(
        f"{entry['label']} {entry['score']:.2f}{'+' if entry.get('present') else ''}" for entry in emotions[:shown]
    )
