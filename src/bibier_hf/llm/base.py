"""What every back end provides, and what they share: conversations, and the scoring of answers of several tokens."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from ..errors import UserError

Message = Mapping[str, str]
Prompt = str | Sequence[Message]
"""One user message, or a conversation `[{"role": "user", "content": ...}, ...]` that ends with one."""


class LLMError(UserError, RuntimeError):
    """A language model that cannot be used as it was asked to. The message says how to mend it."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 takes the most probable token, whatever `seed` is.
        top_p: share of the probability mass that is sampled from.
        seed: of every answer by itself, so that it does not depend on what else is asked.
        max_new_tokens: where an answer is cut off.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise LLMError(f"{self}: temperature must be at least 0, top_p in (0, 1], max_new_tokens at least 1.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True)
class Structure:
    """The form that an answer must have, in one or two ways of saying so; a back end takes the first that it can
    enforce.

    Args:
        regex: a regular expression of the whole answer.
        json_schema: a JSON schema.
    """

    regex: str | None = None
    json_schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.regex is None and self.json_schema is None:
            raise LLMError("A structure needs a regex or a JSON schema.")


@dataclass(frozen=True)
class Answer:
    """What came back for one prompt: a text, or log-probabilities (K,) of the choices, or the error that kept it from
    coming.

    Attributes:
        text: of `generate`.
        log_probabilities: of `score`, natural logarithm, in the order of the choices.
        finish_reason: `"stop"`, or `"length"` where the text was cut off.
        prompt_tokens, new_tokens: how many there were; None where the back end does not say.
        error: why there is neither; such an answer may come when it is asked for again.
    """

    text: str | None = None
    log_probabilities: tuple[float, ...] | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    error: str | None = None


OnAnswer = Callable[[int, Answer], None]


class LLMBackend(ABC):
    """A language model that answers lists of prompts.

    A back end loads or connects when it is first used. It can be pickled: the copy carries the options and loads for
    itself.

    Args:
        model: folder or Hub id, or the name that a server knows.
        revision: branch, tag or commit on the Hub.
    """

    name: str
    enforces_structure: bool = True

    def __init__(self, model: str, revision: str | None = None) -> None:
        self.model = str(model)
        self._asked_revision = revision

    # Public interface

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | None = None,
        structure: Structure | None = None,
        on_answer: OnAnswer | None = None,
    ) -> list[Answer]:
        """One text a prompt, thinking off.

        Args:
            prompts: N of them. What they share should stand at their start: it is computed once where the back end
                caches prefixes.
            sampling: default: greedy.
            structure: form of the answers.
            on_answer: called in this thread with (index, answer) as soon as each answer is there.

        Returns:
            N answers in the order of the prompts.

        Raises:
            LLMError: a model that cannot be loaded, a server that cannot be reached or refuses every request, a
                structure that this back end cannot enforce.
        """
        if structure is not None and not self.enforces_structure:
            raise LLMError(
                f"The back end {self.name!r} has no structured output. Use 'vllm' or 'openai', or ask without a "
                "structure."
            )
        conversations = [_conversation(prompt) for prompt in prompts]
        return _collect(self._generate(conversations, sampling or Sampling(), structure), len(prompts), on_answer)

    def score(
        self, prompts: Sequence[Prompt], choices: Sequence[str], on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Log-probability of each choice as the beginning of the answer to each prompt.

        One forward pass a prompt where the first tokens tell the choices apart and are all of them; a choice of
        several tokens has the probability of their sequence.

        Args:
            prompts: N of them.
            choices: K different texts, scored as they are (a blank at the start counts).
            on_answer: as for [`generate`].

        Returns:
            N answers with `log_probabilities` (K,).

        Raises:
            LLMError: as for [`generate`], and choices of which one is the beginning of another.
        """
        conversations = [_conversation(prompt) for prompt in prompts]
        trie = ChoiceTrie(choices, self.tokenize(choices))
        return _collect(self._score(conversations, trie), len(prompts), on_answer)

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of texts as parts of an answer, without special tokens."""

    @abstractmethod
    def close(self) -> None:
        """Give memory and connections back; the next call loads anew."""

    def warm_up(self) -> None:
        """Load or connect now, which is otherwise done by the first call."""
        self.tokenize(["warm"])

    # For the parts of each back end

    @abstractmethod
    def _generate(
        self, conversations: Sequence[list[Message]], sampling: Sampling, structure: Structure | None
    ) -> Iterator[tuple[int, Answer]]:
        """(index, answer) in any order"""

    @abstractmethod
    def _score(self, conversations: Sequence[list[Message]], trie: "ChoiceTrie") -> Iterator[tuple[int, Answer]]:
        """(index, answer) in any order"""

    # Provenance

    @cached_property
    def revision(self) -> str | None:
        """Which weights answer: the commit of a Hub id, a hash of the files of a folder, None where nobody knows."""
        return resolve_revision(self.model, self._asked_revision)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that an answer depends on besides the question: back end, model, revision, precision and so on,
        fit for JSON. Answers kept on disk are found by it, so a back end adds each option that can change an answer.
        What only changes speed or memory (batch size, device, number of GPUs) stays out."""
        return {"backend": self.name, "model": self.public_model, "revision": self.revision}

    @property
    def public_model(self) -> str:
        """The model's name without folders of this machine."""
        return Path(self.model).resolve().name if os.path.isdir(self.model) else self.model

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in self._live}

    _live: frozenset[str] = frozenset()
    """Names of the attributes that hold loaded models and connections, which are not pickled."""


class ChoiceTrie:
    """Choices as paths of tokens: which next-token probabilities their log-probabilities are made of.

    Attributes:
        nodes: `{tokens so far: (next tokens)}` for every point at which a choice goes on; the root is `()`.
    """

    def __init__(self, choices: Sequence[str], tokens: Sequence[tuple[int, ...]]) -> None:
        self.choices = tuple(choices)
        self.paths = tuple(tokens)
        children: dict[tuple[int, ...], dict[int, None]] = {}
        for path in self.paths:
            for depth, token in enumerate(path):
                children.setdefault(path[:depth], {}).setdefault(token)
        self.nodes = {node: tuple(following) for node, following in children.items()}
        inner = [
            choice for choice, path in zip(self.choices, self.paths, strict=True) if path in self.nodes or not path
        ]
        if inner or len(set(self.paths)) < len(self.paths):
            raise LLMError(
                f"The choices {list(choices)} cannot be told apart: {inner or 'two'} are empty, equal, or begin "
                "another."
            )

    @property
    def single_token(self) -> bool:
        """Is every choice one token, so that one forward pass tells all?"""
        return len(self.nodes) == 1

    def log_probabilities(self, of_node: Mapping[tuple[int, ...], Mapping[int, float]]) -> tuple[float, ...]:
        """(K,) sums along the paths.

        Args:
            of_node: `{tokens so far: {next token: log-probability}}` for every one of `nodes`.
        """
        return tuple(
            float(sum(of_node[path[:depth]][token] for depth, token in enumerate(path))) for path in self.paths
        )


def resolve_revision(model: str, revision: str | None = None) -> str | None:
    """The commit of a Hub id, or `sha256-...` over the files of a folder (a few seconds for a model of 4 B
    parameters).

    Raises:
        LLMError: a Hub id that cannot be found.
    """
    if os.path.isdir(model):
        digest = hashlib.sha256()
        for path in sorted(Path(model).iterdir()):
            # Every file counts (a tokenizer may be merges.txt, weights may be .gguf), except the model card.
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
                with open(path, "rb") as file:
                    digest.update(os.fsencode(path.name) + hashlib.file_digest(file, "sha256").digest())
        return f"sha256-{digest.hexdigest()[:32]}"
    try:
        # .../snapshots/<commit>
        return Path(snapshot_download(model, revision=revision, allow_patterns=["config.json"])).name
    except (OSError, ValueError) as error:
        raise LLMError(
            f"{model} is neither a folder with a model nor one on the Hub that can be fetched: {error}"
        ) from error


def chat_token_ids(tokenizer: Any, conversation: Sequence[Message]) -> list[int]:
    """Token ids of a conversation up to where the answer begins, in the model's own template, thinking off.

    Raises:
        LLMError: a tokenizer without a chat template.
    """
    if not tokenizer.chat_template:
        raise LLMError(
            f"{tokenizer.name_or_path} has no chat template. Take an instruction-tuned model (its name often ends in "
            "Instruct)."
        )
    # Templates without a thinking mode ignore the switch.
    return list(
        tokenizer.apply_chat_template(
            list(conversation), add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=False
        )
    )


def _conversation(prompt: Prompt) -> list[Message]:
    messages: list[Message] = (
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(message) for message in prompt]
    )
    if not messages or messages[-1].get("role") != "user":
        raise LLMError("A prompt is a text, or messages with role and content of which the last one is the user's.")
    return messages


def _collect(answers: Iterator[tuple[int, Answer]], count: int, on_answer: OnAnswer | None) -> list[Answer]:
    collected: dict[int, Answer] = {}
    for index, answer in answers:
        if on_answer is not None:
            on_answer(index, answer)
        collected[index] = answer
    missing = [index for index in range(count) if index not in collected]
    if missing:
        raise LLMError(f"No answer to {len(missing)} of {count} prompts, the first of them number {missing[0]}.")
    return [collected[index] for index in range(count)]
