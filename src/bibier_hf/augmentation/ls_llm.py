"""LS-LLM, label smoothing by a language model: (text, gold label, language) -> a distribution over the seven emotions.

    smooth = LLMLabelSmoothing(get_backend("vllm", "Qwen/Qwen3-4B"), store="labels.sqlite")
    dataset = dataset.map(smooth, batched=True, batch_size=len(dataset), features=smooth.features(dataset.features))

gives every row a `soft_label` and says in `label_status`, `label_raw`, `label_model`, ... where it came from.

Two ways to a distribution:

* `generate`, the published one: the model writes seven numbers, under a form that cannot break where the back end
  enforces it;
* `score`: the model's own probabilities of the seven words as its answer, one forward pass a row, no token written.
  Words that the model prefers whatever it reads are corrected by a prompt without content (contextual calibration,
  Zhao et al. 2021).

What differs from the published procedure: greedy by default; no jitter below zero; a row whose answers cannot be read
is asked again and then recorded as failed with the raw answer, where the published code puts the one-hot label; it can
be seen from each row what it came from; labels are kept so that training can use the distribution itself (the
published training took its arg-max).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features, List, Value
from scipy.special import softmax
from tqdm.auto import tqdm

from ..errors import ArgumentError
from ..llm import Answer, LLMBackend, Sampling
from ..llm.base import Message
from ..llm.reading import UnfinishedAnswerError
from ..model.labels_bibier import EMOTIONS
from ..soft_labels import DistributionError, finish_distribution
from .ls_llm_answers import DISTRIBUTION_FORM, PARSERS, AnswerError
from .ls_llm_prompts import PromptTemplate, load_prompt
from .ls_llm_store import AnswerStore, open_store, request_key

WAYS = ("generate", "score")
DEFAULT_PROMPTS = {
    # (way, is the gold label stated?)
    ("generate", True): "distribution_gold",
    ("generate", False): "distribution",
    ("score", True): "word_gold",
    ("score", False): "word",
}
DEFAULT_SAMPLING = Sampling(max_new_tokens=192)
NO_CONTENT = "N/A"
"""What stands in the place of the text in the prompt for calibration."""


@dataclass(frozen=True)
class SoftLabel:
    """What became of one row.

    Attributes:
        status: `"ok"` or `"failed"`.
        probabilities: (7,) in the order of `EMOTIONS`, five decimals, sum one; None for a failed row.
        raw: the last answer as it came: a text, or the seven log-probabilities as JSON; None where none came.
        reason: why the row failed.
        attempts: how many answers were read.
    """

    status: str
    probabilities: np.ndarray | None
    raw: str | None
    reason: str | None
    attempts: int


class LLMLabelSmoothing:
    """Labels rows, as a function of lists ([`label`]) or of a batch for `Dataset.map(..., batched=True)`.

    Args:
        backend: the language model.
        way: `"generate"` or `"score"`.
        prompt: template; default: the package's own for this way that states the gold label.
        parser: `"strict"`, or `"original"` for the published tolerance.
        structured: have the back end enforce the form of the answer; None: where it can and the parser is strict.
        sampling: how numbers are generated.
        retries: further tries for an answer that cannot be read, sampled with `retry_temperature` and another seed
            each.
        retry_temperature: at least this, since a greedy model would say the same again.
        calibrate: for `score`: divide by the probabilities under a prompt without content.
        choice_prefix: for `score`: put before each of the seven words; None: a blank if that makes every word one
            token, else nothing.
        gold_weight: share of the gold label that is mixed in, at least, and as much more as it needs to be highest;
            None: none.
        store: file of answers, by which a killed run goes on; None: answers are kept for one call.
        progress: show a bar with rate and time left.

    Raises:
        ArgumentError: options that do not go together.
    """

    def __init__(
        self,
        backend: LLMBackend,
        *,
        way: str = "generate",
        prompt: PromptTemplate | None = None,
        parser: str = "strict",
        structured: bool | None = None,
        sampling: Sampling = DEFAULT_SAMPLING,
        retries: int = 2,
        retry_temperature: float = 0.7,
        calibrate: bool = True,
        choice_prefix: str | None = None,
        gold_weight: float | None = None,
        store: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        if way not in WAYS or parser not in PARSERS:
            raise ArgumentError(
                f"way={way!r}, parser={parser!r}; allowed: way {', '.join(WAYS)}, parser {', '.join(PARSERS)}."
            )
        if structured and not backend.enforces_structure:
            raise ArgumentError(
                f"structured: the back end {backend.name!r} cannot enforce a form. Use vllm or openai, or way score."
            )
        if gold_weight is not None and not 0 <= gold_weight <= 1:
            raise ArgumentError(f"gold_weight={gold_weight}; it is a share, from 0 to 1.")
        if retries < 0:
            raise ArgumentError(f"retries={retries}; it must be at least 0.")
        self.backend = backend
        self.way = way
        self.prompt = prompt if prompt is not None else load_prompt(DEFAULT_PROMPTS[way, True])
        self.parser = parser
        self.structured = (backend.enforces_structure and parser == "strict") if structured is None else structured
        self.sampling = sampling
        self.retries = retries
        self.retry_temperature = retry_temperature
        self.calibrate = calibrate
        self.choice_prefix = choice_prefix
        self.gold_weight = gold_weight
        self.store = store
        self.progress = progress
        if way == "generate" and self.prompt.examples:
            raise ArgumentError(
                "Examples answer with one word, and generate asks for seven numbers. Use way score for a few-shot "
                "prompt."
            )

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """`text`, `label`, `language` of a batch -> `soft_label` (None for a failed row) and the columns of
        [`provenance`] with `label_status`, `label_raw`, `label_reason`, `label_attempts`."""
        rows = self.label(batch["text"], batch["label"], batch["language"])
        constant = {f"label_{name}": [value] * len(rows) for name, value in self.provenance().items()}
        return {
            "soft_label": [None if row.probabilities is None else row.probabilities.tolist() for row in rows],
            "label_status": [row.status for row in rows],
            "label_raw": [row.raw for row in rows],
            "label_reason": [row.reason for row in rows],
            "label_attempts": [row.attempts for row in rows],
            **constant,
        }

    def features(self, features: Features) -> Features:
        """Column types of the result of a batched map over a data set with these `features`: pass them to
        `Dataset.map(features=...)`, so that a batch without a failed row, or with nothing else, has the types of all
        others."""
        text = Value("string")
        added = {"soft_label": List(Value("float32")), "label_attempts": Value("int32"), "label_seed": Value("int64")}
        added |= {f"label_{name}": text for name in ("status", "raw", "reason")}
        return Features({**features, **{f"label_{name}": text for name in self.provenance()}, **added})

    def label(
        self, texts: Sequence[str], labels: Sequence[int | str | None], languages: Sequence[str]
    ) -> list[SoftLabel]:
        """A soft label a row, in order.

        Args:
            texts: N utterances.
            labels: N gold labels (names or indices); None is allowed where neither the prompt nor `gold_weight` needs
                one.
            languages: N ISO codes.

        Raises:
            LLMError: a model that cannot be used or a server that is gone; what was answered before is in the store.
        """
        names = [label if label is None or isinstance(label, str) else EMOTIONS[label] for label in labels]
        if self.gold_weight is not None and None in names:
            raise ArgumentError("gold_weight: a row has no gold label to mix in.")
        rows = list(zip(texts, names, languages, strict=True))
        conversations = [self.prompt.messages(*row) for row in rows]
        with open_store(self.store) as store:
            found = (
                self._generated(conversations, store)
                if self.way == "generate"
                else self._scored(conversations, rows, store)
            )
        return [self._finished(*outcome, gold) for outcome, gold in zip(found, names, strict=True)]

    def provenance(self) -> dict[str, Any]:
        """What the labels came from: `way`, `backend`, `model`, `revision`, `settings` (JSON: precision and other
        options of the back end), `prompt`, `prompt_hash`, `sampling` (JSON), `seed`."""
        if self.way == "generate":
            sampling = asdict(self.sampling) | {
                "structured": self.structured,
                "parser": self.parser,
                "retries": self.retries,
            }
            sampling |= {"retry_temperature": self.retry_temperature}
        else:
            sampling = {"calibrate": self.calibrate, "choice_prefix": self.choice_prefix}
        settings = self.backend.settings
        named = {name: settings.pop(name) for name in ("backend", "model", "revision")}
        return {
            "way": self.way,
            **named,
            "settings": json.dumps(settings, sort_keys=True),
            "prompt": self.prompt.name,
            "prompt_hash": self.prompt.hash,
            "sampling": json.dumps(sampling | {"gold_weight": self.gold_weight}, sort_keys=True),
            "seed": self.sampling.seed,
        }

    def _finished(
        self, values: np.ndarray | None, raw: str | None, reason: str | None, attempts: int, gold: str | None
    ) -> SoftLabel:
        if values is not None:
            try:
                index = None if gold is None else EMOTIONS.index(gold)
                return SoftLabel("ok", finish_distribution(values, index, self.gold_weight), raw, None, attempts)
            except DistributionError as error:
                reason = str(error)
        return SoftLabel("failed", None, raw, reason, attempts)

    # generate

    def _generated(self, conversations: Sequence[list[Message]], store: AnswerStore) -> list[tuple]:
        """(numbers or None, raw, reason, attempts) a row"""
        outcomes: list[tuple] = [(None, None, None, 0)] * len(conversations)
        waiting = list(range(len(conversations)))
        for attempt in range(self.retries + 1):
            sampling = self.sampling
            if attempt:
                temperature = max(sampling.temperature, self.retry_temperature)
                sampling = replace(sampling, temperature=temperature, seed=sampling.seed + attempt)
            structure = DISTRIBUTION_FORM if self.structured else None
            form = None if structure is None else asdict(structure)
            request = {"way": "generate", "sampling": asdict(sampling), "structure": form}

            def ask(
                prompts: Sequence[list[Message]], on_answer: Callable, sampling=sampling, structure=structure
            ) -> None:
                self.backend.generate(prompts, sampling, structure, on_answer)

            description = f"Retry {attempt}" if attempt else "Labelling"
            answers = self._answers([conversations[row] for row in waiting], request, ask, store, description)
            unread = []
            for row, answer in zip(waiting, answers, strict=True):
                if answer.error is not None:
                    outcomes[row] = (None, outcomes[row][1], answer.error, attempt)
                    continue
                try:
                    outcomes[row] = (PARSERS[self.parser](answer.text or ""), answer.text, None, attempt + 1)
                except UnfinishedAnswerError as error:
                    # The next answer would be cut off as well: it is not asked for.
                    reason = f"{error}; raise max_new_tokens ({sampling.max_new_tokens}) or turn thinking off"
                    outcomes[row] = (None, answer.text, reason, attempt + 1)
                except AnswerError as error:
                    outcomes[row] = (None, answer.text, str(error), attempt + 1)
                    unread.append(row)
            waiting = unread
        return outcomes

    # score

    def _scored(
        self, conversations: Sequence[list[Message]], rows: Sequence[tuple], store: AnswerStore
    ) -> list[tuple]:
        """(probabilities or None, raw, reason, attempts) a row"""
        choices = self._choices()
        request = {"way": "score", "choices": choices}

        def ask(prompts: Sequence[list[Message]], on_answer: Callable) -> None:
            self.backend.score(prompts, choices, on_answer)

        bias = self._bias(sorted({language for _, _, language in rows}), request, ask, store) if self.calibrate else {}
        outcomes = []
        for (_, _, language), answer in zip(
            rows, self._answers(conversations, request, ask, store, "Scoring"), strict=True
        ):
            if answer.error is not None:
                outcomes.append((None, None, answer.error, 0))
                continue
            raw = np.array(answer.log_probabilities, dtype=float)
            scores = softmax(raw - bias.get(language, 0.0), axis=-1)
            outcomes.append((scores, json.dumps([round(score, 6) for score in raw.tolist()]), None, 1))
        return outcomes

    def _choices(self) -> list[str]:
        if self.choice_prefix is not None:
            return [self.choice_prefix + name for name in EMOTIONS]
        with_blank = [f" {name}" for name in EMOTIONS]
        return with_blank if all(len(tokens) == 1 for tokens in self.backend.tokenize(with_blank)) else list(EMOTIONS)

    def _bias(
        self, languages: Sequence[str], request: Mapping[str, Any], ask: Callable, store: AnswerStore
    ) -> dict[str, np.ndarray]:
        """Log-probability (7,) of each word before anything is read, by language.

        Where the prompt states the gold label, the mean over the seven labels: the preference for the stated one is
        meant and stays.
        """
        stated = EMOTIONS if self.prompt.states_label else (None,)
        prompts = [self.prompt.messages(NO_CONTENT, label, language) for language in languages for label in stated]
        answers = self._answers(prompts, request, ask, store, "Calibrating")
        if errors := [answer.error for answer in answers if answer.error is not None]:
            raise ArgumentError(
                f"The prompt for calibration was not answered ({errors[0]}). Try again, or label without calibration."
            )
        scores = np.array([answer.log_probabilities for answer in answers]).reshape(len(languages), len(stated), -1)
        return dict(zip(languages, scores.mean(axis=1), strict=True))

    # both

    def _answers(
        self,
        conversations: Sequence[list[Message]],
        request: Mapping[str, Any],
        ask: Callable[[Sequence[list[Message]], Callable[[int, Answer], None]], None],
        store: AnswerStore,
        description: str,
    ) -> list[Answer]:
        """An answer a conversation: from the store, or asked now and put there. Equal conversations are asked once."""
        asked = {**request, "settings": self.backend.settings}
        keys = [request_key({**asked, "messages": conversation}) for conversation in conversations]
        answers = store.get(list(dict.fromkeys(keys)))
        missing = {
            key: conversation for key, conversation in zip(keys, conversations, strict=True) if key not in answers
        }
        wanted = list(missing)
        with tqdm(total=len(wanted), desc=description, unit="row", disable=not (self.progress and wanted)) as bar:

            def keep(index: int, answer: Answer) -> None:
                answers[wanted[index]] = answer
                if answer.error is None:
                    store.put(wanted[index], answer)
                bar.update()

            if wanted:
                ask(list(missing.values()), keep)
        return [answers[key] for key in keys]
