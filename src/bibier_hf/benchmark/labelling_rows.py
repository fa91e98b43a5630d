"""Rows a second of labelling with a language model: scoring the seven words, against the published way of generating
an answer.

Loading is not counted, the prompts for calibration (once a corpus) are.
"""

import time
from collections.abc import Sequence

from ..augmentation.ls_llm import LLMLabelSmoothing
from ..augmentation.tug import TemplateUtteranceGeneration
from ..llm import LLMBackend, Sampling, get_backend
from ..model.labels_bibier import EMOTIONS
from .measuring import Row
from .registry import Materials

PUBLISHED_MAX_NEW_TOKENS = 1024


def template_rows(count: int) -> tuple[list[str], list[str]]:
    """Utterances and their emotions, in turn."""
    sampler = TemplateUtteranceGeneration(seed=42)
    by_emotion = [sampler.sample(name, "en", -(-count // len(EMOTIONS))) for name in EMOTIONS]
    pairs = [
        (text, name) for texts in zip(*by_emotion, strict=True) for text, name in zip(texts, EMOTIONS, strict=True)
    ]
    texts, labels = zip(*pairs[:count], strict=True)
    return list(texts), list(labels)


def published_rate(
    model: str,
    texts: Sequence[str],
    labels: Sequence[str],
    max_new_tokens: int = PUBLISHED_MAX_NEW_TOKENS,
    progress: bool = False,
) -> float:
    """Rows a second of transformers in float32, one prompt at a time, a long generation."""
    backend = get_backend("transformers", model, dtype="float32", batch_size=1)
    sampling = Sampling(max_new_tokens=max_new_tokens)
    return _rate(
        LLMLabelSmoothing(backend, parser="original", retries=0, sampling=sampling, progress=progress), texts, labels
    )


def score_rate(backend: LLMBackend, texts: Sequence[str], labels: Sequence[str], progress: bool = False) -> float:
    """Rows a second of scoring; closes the back end."""
    return _rate(LLMLabelSmoothing(backend, way="score", progress=progress), texts, labels)


def _rate(smooth: LLMLabelSmoothing, texts: Sequence[str], labels: Sequence[str]) -> float:
    smooth.backend.generate(["Hello."], Sampling(max_new_tokens=2))  # loads, compiles and allocates
    start = time.perf_counter()
    smooth.label(texts, labels, ["en"] * len(texts))
    rate = len(texts) / (time.perf_counter() - start)
    smooth.backend.close()
    return rate


def ls_llm_score(materials: Materials) -> Row:
    folder = str(materials.folder("backbones", "smollm2"))
    texts, labels = template_rows(materials.rows or 32)
    generated = min(3, len(texts))
    theirs_s = 1 / published_rate(folder, texts[:generated], labels[:generated])
    ours_s = 1 / score_rate(get_backend(materials.llm_backend, folder), texts, labels)
    note = f"SmolLM2-135M, seconds a row; {len(texts)} rows scored by {materials.llm_backend}, {generated} generated"
    against = "generated answers, one prompt at a time, float32"
    ranges = (ours_s, ours_s), (theirs_s, theirs_s)
    return Row("ls_llm_score", against, theirs_s / ours_s, 10.0, ours_s, theirs_s, *ranges, 1, note)


DATA_ROWS = {"ls_llm_score": ls_llm_score}
