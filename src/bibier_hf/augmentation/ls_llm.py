"""LS-LLM, label smoothing by a language model: (text, gold label, language) -> a distribution over the seven emotions.

    smooth = LLMLabelSmoothing(get_backend("vllm", "Qwen/Qwen3-4B"), store="labels.sqlite")
    dataset = dataset.map(smooth, batched=True, batch_size=len(dataset), features=smooth.features(dataset.features))

gives every row a `soft_label`; `label_status`, `label_raw`, `label_model` and other columns record where it came from.

Two ways to a distribution:

* `generate`, the published one: the model writes seven numbers, in a form that the back end enforces if it can;
* `score`: the model's own probabilities of the seven words as its answer, in one forward pass per row, without
  generating a token. A prompt without content corrects for words that the model prefers whatever it reads (contextual
  calibration, Zhao et al. 2021).

Differences from the published procedure: greedy by default; no jitter below zero; a row whose answers cannot be read
is asked again and then recorded as failed with its raw answer, where the published code substitutes the one-hot label;
labels are kept so that training can use the distribution itself (the published training took its arg-max).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features, List, Value
from scipy.special import softmax
from tqdm.auto import tqdm

from ..errors import ArgumentError
from ..labels import checked_labels
from ..llm import Answer, LLMBackend, Sampling
from ..llm.base import Message
from ..llm.reading import UnfinishedAnswerError
from ..soft_labels import DistributionError, finish_distribution
from .ls_llm_answers import PARSERS, AnswerError, distribution_form
from .ls_llm_prompts import PromptTemplate, load_prompt
from .ls_llm_store import AnswerStore, request_key

WAYS = ("generate", "score")
DEFAULT_PROMPTS = {
    # (way, whether the prompt states the gold label)
    ("generate", True): "distribution_gold",
    ("generate", False): "distribution",
    ("score", True): "word_gold",
    ("score", False): "word",
}


def default_prompt(way: str, states_label: bool, labels: Sequence[str] | None = None) -> str:
    """Return the name of the package's prompt; that for another label set than the seven emotions names its labels."""
    name = DEFAULT_PROMPTS[way, states_label]
    return name if checked_labels(labels) == checked_labels(None) else f"labels_{name}"


DEFAULT_SAMPLING = Sampling(max_new_tokens=192)
NO_CONTENT = "N/A"
"""Replaces the text in the prompt for calibration."""


@dataclass(frozen=True)
class SoftLabel:
    """The result for one row.

    Attributes:
        probabilities: (K,) in label order, five decimals, sum one; None for a failed row.
        raw: the last raw answer: a text, or the log-probabilities as JSON; None if there is none.
        reason: why the row failed.
        attempts: number of answers that were read.
    """

    probabilities: np.ndarray | None
    raw: str | None
    reason: str | None
    attempts: int

    @property
    def status(self) -> str:
        """`"ok"` or `"failed"`."""
        return "failed" if self.probabilities is None else "ok"


@dataclass
class LLMLabelSmoothing:
    """Labels rows, as a function of lists ([`label`]) or of a batch for `Dataset.map(..., batched=True)`.

    Args:
        backend: the language model.
        labels: the label set; default: the seven emotions.
        way: `"generate"` or `"score"`.
        prompt: template; default: the package's own for this way and label set that states the gold label.
        parser: `"strict"`, or `"original"` for the published tolerance.
        structured: make the back end enforce the form of the answer. None: if it can and the parser is strict.
        sampling: how numbers are generated.
        retries: further attempts if an answer cannot be read, with `retry_temperature` and a new seed each.
        retry_temperature: lowest temperature of these attempts; a greedy model would repeat itself.
        calibrate: for `score`: divide by the probabilities under a prompt without content.
        choice_prefix: for `score`: put before each of the seven words. None: a blank if that makes every word a single
            token, else nothing.
        gold_weight: see [`~bibier_hf.soft_labels.blend_with_gold`]; None mixes nothing in.
        store: file of answers, from which a killed run continues. None: answers are kept for one call.
        progress: show a progress bar.

    Raises:
        ArgumentError: options that do not go together.
    """

    backend: LLMBackend
    _: KW_ONLY
    labels: Sequence[str] = checked_labels(None)
    way: str = "generate"
    prompt: PromptTemplate = None  # ty: ignore[invalid-assignment] - `__post_init__` fills it in
    parser: str = "strict"
    structured: bool | None = None
    sampling: Sampling = DEFAULT_SAMPLING
    retries: int = 2
    retry_temperature: float = 0.7
    calibrate: bool = True
    choice_prefix: str | None = None
    gold_weight: float | None = None
    store: str | Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.way not in WAYS or self.parser not in PARSERS:
            raise ArgumentError(
                f"way={self.way!r}, parser={self.parser!r}; allowed: way {', '.join(WAYS)}, parser {', '.join(PARSERS)}."
            )
        if self.structured and not self.backend.enforces_structure:
            raise ArgumentError(
                f"structured: the back end {self.backend.name!r} cannot enforce a form. Use vllm or openai, or way score."
            )
        if self.gold_weight is not None and not 0 <= self.gold_weight <= 1:
            raise ArgumentError(f"gold_weight={self.gold_weight}; it is a share, from 0 to 1.")
        if self.retries < 0:
            raise ArgumentError(f"retries={self.retries}; it must be at least 0.")

        self.labels = checked_labels(self.labels)
        if self.prompt is None:
            self.prompt = load_prompt(default_prompt(self.way, True, self.labels))
        self.prompt = replace(self.prompt, labels=self.labels)
        if self.structured is None:
            self.structured = self.backend.enforces_structure and self.parser == "strict"
        if self.way == "generate" and self.prompt.examples:
            raise ArgumentError(
                "Examples answer with one word, but generate asks for seven numbers. Use way score for a few-shot prompt."
            )

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Turn `text`, `label`, `language` of a batch into `soft_label` (None for a failed row), `label_status`,
        `label_raw`, `label_reason`, `label_attempts`, and the columns of [`provenance`]."""
        rows = self.label(batch["text"], batch["label"], batch["language"])
        columns: dict[str, list[Any]] = {}
        columns["soft_label"] = [None if row.probabilities is None else row.probabilities.tolist() for row in rows]
        for name in ("status", "raw", "reason", "attempts"):
            columns[f"label_{name}"] = [getattr(row, name) for row in rows]
        for name, value in self.provenance().items():
            columns[f"label_{name}"] = [value] * len(rows)
        return columns

    def features(self, features: Features) -> Features:
        """Return the column types of the result of a batched map over a data set with these `features`. Pass them to
        `Dataset.map(features=...)`, so that a batch with only failed rows, or none, has the types of all others."""
        text = Value("string")
        added = {"soft_label": List(Value("float32")), "label_attempts": Value("int32"), "label_seed": Value("int64")}
        added |= {f"label_{name}": text for name in ("status", "raw", "reason")}
        return Features({**features, **{f"label_{name}": text for name in self.provenance()}, **added})

    def label(
        self, texts: Sequence[str], labels: Sequence[int | str | None], languages: Sequence[str]
    ) -> list[SoftLabel]:
        """Label rows, in order.

        Args:
            texts: N utterances.
            labels: N gold labels (names or indices); None if neither the prompt nor `gold_weight` needs one.
            languages: N ISO codes.

        Raises:
            LLMError: a model that cannot be used, or a server that is gone; earlier answers are in the store.
        """
        names = [label if label is None or isinstance(label, str) else self.labels[label] for label in labels]
        if self.gold_weight is not None and None in names:
            raise ArgumentError("gold_weight: a row has no gold label to mix in.")

        rows = list(zip(texts, names, languages, strict=True))
        conversations = [self.prompt.messages(*row) for row in rows]
        with closing(AnswerStore(self.store)) as store:
            if self.way == "generate":
                outcomes = self._generated(conversations, store)
            else:
                outcomes = self._scored(conversations, rows, store)

        return [self._finished(*outcome, gold) for outcome, gold in zip(outcomes, names, strict=True)]

    def provenance(self) -> dict[str, Any]:
        """Describe where the labels come from: `way`, `backend`, `model`, `revision`, `settings` (JSON: precision and
        other options of the back end), `prompt`, `prompt_hash`, `sampling` (JSON), `seed`."""
        names = ("calibrate", "choice_prefix")
        sampling: dict[str, Any] = {}
        if self.way == "generate":
            names = ("structured", "parser", "retries", "retry_temperature")
            sampling = asdict(self.sampling)
        sampling |= {name: getattr(self, name) for name in (*names, "gold_weight")}

        settings = self.backend.settings
        named = {name: settings.pop(name) for name in ("backend", "model", "revision")}
        return {
            "way": self.way,
            **named,
            "settings": json.dumps(settings, sort_keys=True),
            "prompt": self.prompt.name,
            "prompt_hash": self.prompt.hash,
            "sampling": json.dumps(sampling, sort_keys=True),
            "seed": self.sampling.seed,
        }

    def _finished(
        self, values: np.ndarray | None, raw: str | None, reason: str | None, attempts: int, gold: str | None
    ) -> SoftLabel:
        if values is None:
            return SoftLabel(None, raw, reason, attempts)

        index = None if gold is None else self.labels.index(gold)
        try:
            return SoftLabel(finish_distribution(values, index, self.gold_weight), raw, None, attempts)
        except DistributionError as error:
            return SoftLabel(None, raw, str(error), attempts)

    def _generated(self, conversations: Sequence[list[Message]], store: AnswerStore) -> list[tuple]:
        """Return (numbers or None, raw, reason, attempts) for each row."""
        structure = distribution_form(self.labels) if self.structured else None
        outcomes: list[tuple] = [(None, None, None, 0)] * len(conversations)
        waiting = list(range(len(conversations)))

        for attempt in range(self.retries + 1):
            sampling = self.sampling
            if attempt:
                temperature = max(sampling.temperature, self.retry_temperature)
                sampling = replace(sampling, temperature=temperature, seed=sampling.seed + attempt)
            form = None if structure is None else asdict(structure)
            request = {"way": "generate", "sampling": asdict(sampling), "structure": form}
            ask = partial(self.backend.generate, sampling=sampling, structure=structure)
            description = f"Retry {attempt}" if attempt else "Labeling"
            answers = self._answers([conversations[row] for row in waiting], request, ask, store, description)

            unread = []
            for row, answer in zip(waiting, answers, strict=True):
                if answer.error is not None:
                    outcomes[row] = (None, outcomes[row][1], answer.error, attempt)
                    continue
                try:
                    outcomes[row] = (
                        PARSERS[self.parser](answer.text or "", self.labels),
                        answer.text,
                        None,
                        attempt + 1,
                    )
                except UnfinishedAnswerError as error:
                    # No retry: the next answer would be cut off too.
                    reason = f"{error}; raise max_new_tokens ({sampling.max_new_tokens}) or turn thinking off"
                    outcomes[row] = (None, answer.text, reason, attempt + 1)
                except AnswerError as error:
                    outcomes[row] = (None, answer.text, str(error), attempt + 1)
                    unread.append(row)
            waiting = unread

        return outcomes

    def _scored(
        self, conversations: Sequence[list[Message]], rows: Sequence[tuple], store: AnswerStore
    ) -> list[tuple]:
        """Return (probabilities or None, raw, reason, attempts) for each row."""
        choices = self._choices()
        request = {"way": "score", "choices": choices}
        ask = partial(self.backend.score, choices=choices)
        bias = self._bias(sorted({language for _, _, language in rows}), request, ask, store) if self.calibrate else {}
        answers = self._answers(conversations, request, ask, store, "Scoring")

        outcomes = []
        for (_, _, language), answer in zip(rows, answers, strict=True):
            if answer.error is not None:
                outcomes.append((None, None, answer.error, 0))
                continue

            raw = np.array(answer.log_probabilities, dtype=float)
            scores = softmax(raw - bias.get(language, 0.0), axis=-1)
            outcomes.append((scores, json.dumps([round(score, 6) for score in raw.tolist()]), None, 1))

        return outcomes

    def _choices(self) -> list[str]:
        if self.choice_prefix is not None:
            return [self.choice_prefix + name for name in self.labels]

        with_blank = [f" {name}" for name in self.labels]
        return (
            with_blank if all(len(tokens) == 1 for tokens in self.backend.tokenize(with_blank)) else list(self.labels)
        )

    def _bias(
        self, languages: Sequence[str], request: Mapping[str, Any], ask: Callable, store: AnswerStore
    ) -> dict[str, np.ndarray]:
        """Return the log-probability (K,) of each word before anything is read, by language.

        If the prompt states the gold label, this is the mean over the labels: the preference for the stated label
        is intended and stays.
        """
        stated = self.labels if self.prompt.states_label else (None,)
        prompts = [self.prompt.messages(NO_CONTENT, label, language) for language in languages for label in stated]
        answers = self._answers(prompts, request, ask, store, "Calibrating")
        if errors := [answer.error for answer in answers if answer.error is not None]:
            raise ArgumentError(
                f"The prompt for calibration was not answered ({errors[0]}). Try again, or label without calibration."
            )

        scores = np.array([answer.log_probabilities for answer in answers]).reshape(len(languages), len(stated), -1)
        return dict(zip(languages, scores.mean(axis=1), strict=True))

    def _answers(
        self,
        conversations: Sequence[list[Message]],
        request: Mapping[str, Any],
        ask: Callable[..., Any],
        store: AnswerStore,
        description: str,
    ) -> list[Answer]:
        """Return an answer for each conversation, from the store or from the model. Equal conversations are asked
        once.

        Args:
            conversations: what to ask.
            request: what answers depend on, apart from conversation and back end.
            ask: called with new conversations and `on_answer`.
            store: receives the answers.
            description: of the progress bar.
        """
        asked = {**request, "settings": self.backend.settings}
        keys = [request_key({**asked, "messages": conversation}) for conversation in conversations]
        answers = store.get(list(dict.fromkeys(keys)))
        asked_now = dict(zip(keys, conversations, strict=True))
        wanted = [key for key in asked_now if key not in answers]

        with tqdm(total=len(wanted), desc=description, unit="row", disable=not (self.progress and wanted)) as bar:

            def keep(index: int, answer: Answer) -> None:
                answers[wanted[index]] = answer
                if answer.error is None:
                    store.put(wanted[index], answer)
                bar.update()

            if wanted:
                ask([asked_now[key] for key in wanted], on_answer=keep)

        return [answers[key] for key in keys]
