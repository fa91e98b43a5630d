"""A folder with everything that documented commands refer to: the clone, clips, small corpora, label tables, and a
checkpoint."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from bibier_hf import EMOTIONS
from bibier_hf.data import corpora
from bibier_hf.data.corpora import get_corpus
from bibier_hf.data.corpora.resd import OFFICIAL_FOLDS
from bibier_hf.data.prepare import INFO_FILE
from bibier_hf.labels import normalize_label

TIMEOUT_S = 1200
PROGRAMS = {
    "python": "",
    "accelerate": "-m accelerate.commands.accelerate_cli",
    "torchrun": "-m torch.distributed.run",
    "bibier": "-m bibier_cli",
}
"""Programs that an installation provides, as arguments of this Python."""

CLONE = ("recipes", "dataset_scripts", "benchmarks", "tools", "src", "constraints.txt", "pyproject.toml")
PUBLISHED_TABLES = {
    "resd": ("Qwen3-4B_emotions_resd_1.csv", "Phi-4-mini-instruct_emotions_resd_1.csv"),
    "meld": ("Qwen3-4B_emotions_meld_1.csv",),
}
RESD_EMOTIONS = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "enthusiasm")


class Workspace:
    """A working folder and a shell in it.

    Args:
        folder: created here.
        repository: the clone.
        checkpoint: a trained model, copied to `outputs/quickstart` and `outputs/resd`.
        clip: `clip(seconds, seed)` -> samples at 16 kHz.
    """

    def __init__(self, folder: Path, repository: Path, checkpoint: Path, clip: Callable[[float, int], np.ndarray]):
        self.folder = folder
        folder.mkdir()
        for name in CLONE:
            (folder / name).symlink_to(repository / name)
        shutil.copytree(repository / "model_cards", folder / "model_cards")  # commands write there
        for name in ("quickstart", "resd"):
            shutil.copytree(checkpoint, folder / "outputs" / name)
        soundfile.write(folder / "clip.wav", clip(1.0, 1), 16_000)
        soundfile.write(folder / "talk.wav", clip(9.0, 2), 16_000)
        turns = [(0.0, 2.5, "Anna"), (2.0, 3.0, "Ben"), (3.0, 1.5, "Anna")]
        lines = [f"SPEAKER talk 1 {start} {length} <NA> <NA> {name} <NA> <NA>\n" for start, length, name in turns]
        (folder / "talk.rttm").write_text("".join(lines))
        (folder / "said.srt").write_text(
            "1\n00:00:00,000 --> 00:00:02,500\nAnna: Really? You can't\n\n"
            "2\n00:00:02,500 --> 00:00:05,000\nBen: Yes, I can.\n"
        )
        self._write_own_corpus(clip)
        self._write_resd(clip)
        self._write_meld()
        self._write_labels()
        self._environment = os.environ | {
            "PATH": f"{self._write_programs()}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(repository / "src"),
            "BIBIER_CACHE": str(folder / "cache"),
            "HF_DATASETS_CACHE": str(folder / "cache" / "datasets"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, command: str, environment: Mapping[str, str] = MappingProxyType({})) -> subprocess.CompletedProcess:
        """Run a command line in a shell, with additions to its environment, and end everything that it started."""
        process = subprocess.Popen(
            ["bash", "-c", f"set -euo pipefail; {command}"],
            cwd=self.folder,
            env=self._environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=TIMEOUT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def _write_programs(self) -> Path:
        programs = self.folder / "bin"
        programs.mkdir()
        for name, arguments in PROGRAMS.items():
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
            (programs / name).chmod(0o755)
        return programs

    def _write_own_corpus(self, clip: Callable[[float, int], np.ndarray]) -> None:
        """`my_corpus.csv`, `calls.csv` and `ratings.csv` with `recordings/`, `my_survey.csv` as Excel saves it, and
        the documentation's `my_corpus.py`, which reads PATH/TO/recordings."""
        recordings = self.folder / "recordings"
        (self.folder / "PATH" / "TO").mkdir(parents=True)
        recordings.mkdir()
        (self.folder / "PATH" / "TO" / "recordings").symlink_to(recordings)
        rows = []
        for number in range(70):
            speaker, emotion = f"s{number // 7 % 5 + 1}", EMOTIONS[number % 7]
            name = f"{speaker}_{emotion}_{number:02d}.wav"
            soundfile.write(recordings / name, clip(0.3 + number % 5 / 10, number), 16_000)
            rows.append(
                {
                    "audio": f"recordings/{name}",
                    "text": f"Line {number}, said once.",
                    "label": emotion,
                    "speaker": speaker,
                }
            )
        _write_csv(self.folder / "my_corpus.csv", rows)
        survey = [f";Фраза {number}.;{EMOTIONS[number % 7]}" for number in range(70)]
        (self.folder / "my_survey.csv").write_text("\n".join(["corrected;asr;emotion", *survey]), encoding="cp1251")
        moods = {"neutral": "calm", "happy": "calm", "sad": "annoyed", "disgust": "annoyed"}
        calls = [
            {name: row[name] for name in ("audio", "text", "speaker")}
            | {"mood": moods.get(row["label"], "furious"), "language": "en"}
            for row in rows
        ]
        _write_csv(self.folder / "calls.csv", calls)
        ratings = [
            {name: row[name] for name in ("audio", "text", "speaker")}
            | {"valence": number % 7, "arousal": number % 5 / 2, "language": "en"}
            for number, row in enumerate(rows)
        ]
        _write_csv(self.folder / "ratings.csv", ratings)
        (self.folder / "my_corpus.py").write_text(own_corpus_code(), encoding="utf-8")

    def _write_resd(self, clip: Callable[[float, int], np.ndarray]) -> None:
        """A prepared stand-in for RESD: two dialogues of each fold, seven emotions, short clips"""
        raw, rows = self.folder / "raw_resd", []
        (raw / "wavs").mkdir(parents=True)
        for place, dialogue in enumerate(sorted(dialogue for fold in OFFICIAL_FOLDS for dialogue in fold[:2])):
            roles = (RESD_EMOTIONS[place % 7], RESD_EMOTIONS[(place + 3) % 7])
            for number, emotion in enumerate(roles * 4):
                name = f"{dialogue:02d}_{roles[0]}_{roles[1]}_{emotion[0]}_{number:02d}0"
                soundfile.write(raw / "wavs" / f"{name}.wav", clip(0.4 + number / 20, 10 * place + number), 16_000)
                split = "test" if number > 5 else "train"
                rows.append(
                    {
                        "file_name": f"wavs/{name}.wav",
                        "text": f"Фраза {place} {number}.",
                        "emotion": emotion,
                        "split": split,
                    }
                )
        _write_csv(raw / "metadata.csv", rows)
        prepared = self.folder / "data" / "resd"
        get_corpus("resd").prepare(raw, prepared, strict_counts=False)
        # Commands that check how it was prepared must take it for the whole corpus.
        facts = json.loads((prepared / INFO_FILE).read_text(encoding="utf-8"))
        facts["options"]["strict_counts"] = True
        (prepared / INFO_FILE).write_text(json.dumps(facts), encoding="utf-8")
        (self.folder / "PATH" / "TO" / "resd").symlink_to(prepared)
        self._write_published_labels(
            "resd", {Path(row["file_name"]).stem: row["emotion"] for row in rows if row["split"] == "train"}
        )

    def _write_meld(self) -> None:
        """A prepared stand-in for MELD: dialogues of a few words, no clips"""
        raw = self.folder / "raw_meld"
        names = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
        for split, count in (("train", 42), ("dev", 14), ("test", 14)):
            rows = [
                {
                    "Sr No.": number,
                    "Utterance": f"{split} says {names[number % 7]} {number}",
                    "Speaker": ("Ross", "Rachel")[number % 2],
                    "Emotion": names[number % 7],
                    "Sentiment": "neutral",
                    "Dialogue_ID": number // 7,
                    "Utterance_ID": number % 7,
                    "Season": 1,
                    "Episode": 1,
                    "StartTime": "00:00:00,000",
                    "EndTime": "00:00:01,000",
                }
                for number in range(count)
            ]
            _write_csv(raw / f"{split}_sent_emo.csv", rows)
            if split == "train":
                self._write_published_labels(
                    "meld", {f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}": row["Emotion"] for row in rows}
                )
        get_corpus("meld").prepare(raw, self.folder / "PATH" / "TO" / "meld", text_only=True, strict_counts=False)

    def _write_published_labels(self, corpus: str, emotions: Mapping[str, str]) -> None:
        """Tables named and built like the published ones, for the stand-in's clips (name -> emotion)"""
        labels = {name: normalize_label(emotion) for name, emotion in emotions.items()}
        rows = [
            {"video_name": name, "ground_truth": label, "llm_best_label": label}
            | {other: 0.7 if other == label else 0.05 for other in EMOTIONS}
            for name, label in labels.items()
        ]
        for name in PUBLISHED_TABLES[corpus]:
            _write_csv(self.folder / "outputs" / "labels" / name, rows)
            (self.folder / "PATH" / "TO" / name).symlink_to(self.folder / "outputs" / "labels" / name)

    def _write_labels(self) -> None:
        """The output of `bibier label corpus`"""
        columns = {
            "id": [f"row-{number}" for number in range(14)],
            "label": [EMOTIONS[number % 7] for number in range(14)],
        }
        columns["prediction"] = columns["label"]
        columns |= {name: [0.7 if label == name else 0.05 for label in columns["label"]] for name in EMOTIONS}
        pq.write_table(pa.table(columns), self.folder / "outputs" / "resd_labels.parquet")


def own_corpus_code() -> str:
    """`my_corpus.py`, as in the documentation of `bibier_hf.data.corpora`."""
    text = corpora.__doc__
    code = textwrap.dedent(text[text.index("    # my_corpus.py") : text.index("The path of that file")])
    return code.replace("'''", '"""').strip() + "\n"


def _write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
