"""Emotions of speech and text from an exported graph, with NumPy and ONNX Runtime alone.

python run.py clip.wav --text "I can't believe it!"

`bibier export --part samples` puts this file into the folder of the export. It needs no other file of the package, and
neither PyTorch nor transformers. Text needs the package tokenizers (unless the model reads bytes), files need
soundfile, and other rates than 16 kHz need soxr.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

SAMPLING_RATE = 16_000


class EmotionGraph:
    """The graph of an export and what belongs to it.

    Examples:
        >>> graph = EmotionGraph("onnx/tiny")  # doctest: +SKIP
        >>> graph("clip.wav", "I can't believe it!")[0]  # doctest: +SKIP
        {'label': 'surprise', 'score': 0.71}

    Args:
        folder: of the export; by default, that of this file.
        threads: of ONNX Runtime; 0: all cores.
    """

    def __init__(self, folder: str | Path = Path(__file__).parent, threads: int = 0):
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = json.loads((self.folder / "export.json").read_text(encoding="utf-8"))
        if self.manifest["part"] != "samples":
            raise ValueError(f"{folder} is not an export of raw samples. Export with: bibier export --part samples")

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        file = str(self.folder / self.manifest["file"])
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._tokenizer: Any = None

    def __call__(
        self, audio: str | Path | np.ndarray | None = None, text: str | None = None, sampling_rate: int = SAMPLING_RATE
    ) -> list[dict[str, Any]]:
        """Return the answers of one clip, as the pipeline `audio-text-emotion` does.

        Args:
            audio: a file, or samples (S,) or (S, channels).
            text: what is said in it.
            sampling_rate: Hz of samples.
        """
        clip = None if audio is None else load_audio(audio, sampling_rate)
        return self.answers(self.logits([clip], [text])["logits"][0])

    def logits(
        self, clips: Sequence[np.ndarray | None], texts: Sequence[str | None] | None = None
    ) -> dict[str, np.ndarray]:
        """Run a batch.

        Args:
            clips: mono samples (S,) at 16 kHz of any length; None for a sample without audio.
            texts: None for a sample without text; None: no text at all.

        Returns:
            the outputs of the graph by name, (B, ...) each.
        """
        texts = [text if text and text.strip() else None for text in texts or [None] * len(clips)]
        reads = self.manifest["inputs"]

        for index, (clip, text) in enumerate(zip(clips, texts, strict=True)):
            has_audio, has_text = clip is not None and "samples" in reads, text is not None and "input_ids" in reads
            if not (has_audio or has_text):
                raise ValueError(f"Sample {index} has nothing that this model reads ({', '.join(reads[::2])}).")

        fed: dict[str, np.ndarray] = {}
        if "samples" in reads:
            fed["samples"], fed["sample_counts"] = self.windows(clips)
        if "input_ids" in reads:
            fed["input_ids"], fed["text_attention_mask"] = self.tokens(texts)

        outputs: Any = self.session.run(None, fed)
        return dict(zip(self.manifest["outputs"], outputs, strict=True))

    def windows(self, clips: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        """Cut clips into the windows of the graph: samples (B, W, S), how many of them count (B, W)."""
        facts = self.manifest["samples"]
        counts = np.array([0 if clip is None else len(clip) for clip in clips])
        windows = max(math.ceil(counts.max() / facts["window"]), 1)
        size = facts["window"] if windows > 1 else max(counts.max(), facts["shortest"])
        samples = np.zeros((len(clips), windows * size), np.float32)

        for row, clip in enumerate(clips):
            if clip is not None:
                samples[row, : len(clip)] = clip

        counts = np.clip(counts[:, None] - np.arange(windows) * size, 0, size)
        return samples.reshape(len(clips), windows, size), counts.astype(np.int64)

    def tokens(self, texts: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize texts: ids (B, T) and their mask (B, T)."""
        rows = [[] if text is None else self._encode(text) for text in texts]
        longest = max(1, *map(len, rows))
        ids = np.full((len(rows), longest), self.manifest["text"]["pad"], np.int64)
        mask = np.zeros_like(ids)

        for row, values in enumerate(rows):
            ids[row, : len(values)] = values
            mask[row, : len(values)] = 1

        return ids, mask

    def _encode(self, text: str) -> list[int]:
        facts = self.manifest["text"]
        text = facts["prefix"] + text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if facts["tokenizer"] == "bytes":
            return [*(byte + 3 for byte in text.encode()[: facts["longest"] - 1]), 1]

        if self._tokenizer is None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(self.folder / facts["tokenizer"]))
            self._tokenizer.enable_truncation(facts["longest"])

        return self._tokenizer.encode(text).ids

    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """Turn the logits of one sample (K,) into answers, best first (values of a regression in label order)."""
        labels, facts = self.manifest["labels"], self.manifest["answers"]

        if facts["problem_type"] == "regression":
            low, high = np.array(facts["label_ranges"], np.float64).T if facts["label_ranges"] else (-np.inf, np.inf)
            values = np.clip(logits.astype(np.float64), low, high)
            return [{"label": name, "score": float(value)} for name, value in zip(labels, values, strict=True)]

        scaled = logits.astype(np.float64) / facts["temperature"]
        if facts["problem_type"] == "multi_label_classification":
            scores = 1 / (1 + np.exp(-scaled))
        else:
            scores = np.exp(scaled - scaled.max())
            scores /= scores.sum()

        answers = [{"label": name, "score": float(score)} for name, score in zip(labels, scores, strict=True)]
        return sorted(answers, key=lambda answer: -answer["score"])


def load_audio(audio: str | Path | np.ndarray, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Return mono float32 samples (S,) at 16 kHz of a file, or of samples at a given rate."""
    if isinstance(audio, str | Path):
        import soundfile

        audio, sampling_rate = soundfile.read(audio, dtype="float32", always_2d=True)

    samples = np.asarray(audio, np.float32)
    if samples.ndim == 2:
        samples = samples.mean(1)
    if not len(samples):
        raise ValueError("The recording is empty.")

    if sampling_rate != SAMPLING_RATE:
        import soxr

        samples = soxr.resample(samples, sampling_rate, SAMPLING_RATE)

    return samples


def main() -> None:
    """Print the answers of a clip, a text, or both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("audio", nargs="?", help="audio file")
    parser.add_argument("--text", help="what is said in it")
    arguments = parser.parse_args()
    if arguments.audio is None and arguments.text is None:
        parser.error("give a file, --text, or both")

    for answer in EmotionGraph()(arguments.audio, arguments.text):
        print(f"{answer['label']:<12}{answer['score']:.3f}")


if __name__ == "__main__":
    main()
