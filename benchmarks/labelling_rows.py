"""Rows per second of labeling with a language model: scoring the seven words vs. the published way, which generates
an answer.

Loading the model is not counted. Calibration prompts (a handful per corpus) are.
"""

import time

from bibier_hf.augmentation.ls_llm import LLMLabelSmoothing
from bibier_hf.augmentation.tug import TemplateUtteranceGeneration
from bibier_hf.llm import Sampling, get_backend
from bibier_hf.model.labels_bibier import EMOTIONS
from measuring import Row
from registry import Materials

PUBLISHED_MAX_NEW_TOKENS = 1024


def ls_llm_score(materials: Materials) -> Row:
    model = materials.llm or str(materials.folder("backbones", "smollm2"))
    rows = materials.rows or 32
    generated = 1  # takes a minute, and the difference is two orders of magnitude

    slow = get_backend("transformers", model, dtype="float32", batch_size=1)
    sampling = Sampling(max_new_tokens=PUBLISHED_MAX_NEW_TOKENS)
    theirs_s = _seconds_per_row(
        LLMLabelSmoothing(slow, parser="original", retries=0, sampling=sampling, progress=False), generated
    )
    fast = get_backend(materials.llm_backend, model)
    ours_s = _seconds_per_row(LLMLabelSmoothing(fast, way="score", progress=False), rows)

    note = f"{fast.public_model}, seconds per row; {rows} rows scored by {fast.name}, {generated} generated"
    against = "generated answers, one prompt at a time, float32"
    ranges = (ours_s, ours_s), (theirs_s, theirs_s)

    return Row("ls_llm_score", against, theirs_s / ours_s, 10.0, ours_s, theirs_s, *ranges, 1, note)


def _seconds_per_row(smooth: LLMLabelSmoothing, count: int) -> float:
    """Label `count` template utterances with every emotion in turn, and close the back end."""
    sampler = TemplateUtteranceGeneration(seed=42)
    labels = [EMOTIONS[row % len(EMOTIONS)] for row in range(count)]
    texts = [sampler.sample(name, "en", 1)[0] for name in labels]

    smooth.backend.generate(["Hello."], Sampling(max_new_tokens=2))  # loads, compiles and allocates
    start = time.perf_counter()
    smooth.label(texts, labels, ["en"] * count)
    seconds = (time.perf_counter() - start) / count

    smooth.backend.close()

    return seconds


DATA_ROWS = {"ls_llm_score": ls_llm_score}
