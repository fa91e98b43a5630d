"""The interface of all back ends, and what they share: conversations, and scores of answers with several tokens."""

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
    """A language model that cannot be used as requested. The message says how to fix it."""


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens.

    Args:
        temperature: 0 takes the most probable token, whatever the `seed`.
        top_p: share of the probability mass to sample from.
        seed: seeds each answer separately, so that it does not depend on the other prompts.
        max_new_tokens: longest answer.
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
    """The form that an answer must have, given as a regular expression, a JSON schema, or both.

    A back end enforces the regular expression if it can, otherwise the schema.

    Args:
        regex: a regular expression for the whole answer.
        json_schema: a JSON schema.
    """

    regex: str | None = None
    json_schema: Mapping[str, Any] | None = None

    @property
    def preferred(self) -> dict[str, Any]:
        """The argument of vLLM's structured outputs."""
        if self.regex is not None:
            return {"regex": self.regex}

        return {"json": dict(self.json_schema or {})}


@dataclass(frozen=True)
class Answer:
    """The answer to one prompt: a text, log-probabilities of the choices, or an error.

    Attributes:
        text: returned by `generate`.
        log_probabilities: (K,) natural logarithms in the order of the choices, returned by `score`.
        finish_reason: `"stop"`, or `"length"` if the text was cut off.
        prompt_tokens, new_tokens: number of tokens; None if the back end does not report it.
        error: why there is neither text nor scores. A later request may succeed.
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

    A back end loads or connects on first use. A pickled copy carries the options and loads the model again.

    Args:
        model: a folder or Hub id, or a server's name for the model.
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
        """Generate one text per prompt, with thinking off.

        Args:
            prompts: N prompts. Put shared text at their start: back ends that cache prefixes compute it once.
            sampling: default: greedy.
            structure: form of the answers.
            on_answer: called in this thread with (index, answer) as soon as an answer arrives.

        Returns:
            N answers in the order of the prompts.

        Raises:
            LLMError: the model cannot be loaded, no server can be reached or it refuses every request, or this back
                end cannot enforce the structure.
        """
        if structure is not None and not self.enforces_structure:
            raise LLMError(
                f"The back end {self.name!r} has no structured output. Use 'vllm' or 'openai', or omit the structure."
            )

        conversations = [_conversation(prompt) for prompt in prompts]

        return _collect(self._generate(conversations, sampling or Sampling(), structure), len(prompts), on_answer)

    def score(
        self, prompts: Sequence[Prompt], choices: Sequence[str], on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Compute the log-probability of each choice as the beginning of the answer to each prompt.

        If every choice is one token, this takes one forward pass per prompt. A choice of several tokens has the
        probability of their sequence; one that another choice begins with, that of the sequence and the end after it.

        Args:
            prompts: N prompts.
            choices: K different texts, scored literally (a leading space counts).
            on_answer: as in [`generate`].

        Returns:
            N answers with `log_probabilities` (K,).

        Raises:
            LLMError: as in [`generate`], or choices that cannot be told apart.
        """
        conversations = [_conversation(prompt) for prompt in prompts]
        trie = ChoiceTrie(choices, self.tokenize(choices), self.end_token)

        return _collect(self._score(conversations, trie), len(prompts), on_answer)

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the token ids of texts as parts of an answer, without special tokens."""

    @property
    def end_token(self) -> int | None:
        """The id of the token that ends an answer; None if it is not known."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Release memory and connections. The next call loads again."""

    # Implemented by each back end

    @abstractmethod
    def _generate(
        self, conversations: Sequence[list[Message]], sampling: Sampling, structure: Structure | None
    ) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) in any order."""

    @abstractmethod
    def _score(self, conversations: Sequence[list[Message]], trie: "ChoiceTrie") -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) in any order."""

    # Provenance

    @cached_property
    def revision(self) -> str | None:
        """Identifies the weights: the commit of a Hub id, a hash of the files in a folder, or None if unknown."""
        return resolve_revision(self.model, self._asked_revision)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything besides the prompt that an answer depends on, as JSON values.

        Stored answers are looked up by it, so a back end adds every option that can change an answer, and none that
        only changes speed or memory (batch size, device, number of GPUs).
        """
        return {"backend": self.name, "model": self.public_model, "revision": self.revision}

    @property
    def public_model(self) -> str:
        """The model's name without the folders of this machine."""
        return public_name(self.model)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in self._live}

    _live: frozenset[str] = frozenset()
    """Names of attributes that hold loaded models and connections and are not pickled."""


class ChoiceTrie:
    """The choices as paths of tokens: shows which next-token probabilities their scores consist of.

    Args:
        choices: K different texts.
        tokens: their tokens.
        end: the token that ends an answer. It decides between a choice and longer ones that begin with it (`sad`,
            `sadness`); None: there must be no such choices.

    Attributes:
        nodes: `{tokens so far: (next tokens)}` for every point at which a choice continues; the root is `()`.
        paths: tokens of each choice, with the end where it decides.
    """

    def __init__(self, choices: Sequence[str], tokens: Sequence[tuple[int, ...]], end: int | None = None) -> None:
        begun = {path[:depth] for path in tokens for depth in range(len(path))}
        if end is not None:
            tokens = [(*path, end) if path and path in begun else path for path in tokens]

        self.choices = tuple(choices)
        self.paths = tuple(tokens)
        children: dict[tuple[int, ...], dict[int, None]] = {}

        for path in self.paths:
            for depth, token in enumerate(path):
                children.setdefault(path[:depth], {}).setdefault(token)

        self.nodes = {node: tuple(following) for node, following in children.items()}

        prefixes = [
            choice for choice, path in zip(self.choices, self.paths, strict=True) if path in self.nodes or not path
        ]
        if prefixes or len(set(self.paths)) < len(self.paths):
            raise LLMError(
                f"The choices {list(choices)} cannot be told apart: {prefixes or 'two'} are empty, equal, or a prefix "
                "of another, and this back end does not know the token that ends an answer."
            )

    @property
    def single_token(self) -> bool:
        """Whether every choice is one token, so that one forward pass is enough."""
        return len(self.nodes) == 1

    def log_probabilities(self, of_node: Mapping[tuple[int, ...], Mapping[int, float]]) -> tuple[float, ...]:
        """Return the sums (K,) along the paths.

        Args:
            of_node: `{tokens so far: {next token: log-probability}}` for each of `nodes`.
        """
        return tuple(
            float(sum(of_node[path[:depth]][token] for depth, token in enumerate(path))) for path in self.paths
        )


def public_name(model: str) -> str:
    """Return a Hub id, or the last part of the path of a folder."""
    return Path(model).resolve().name if os.path.isdir(model) else model


def resolve_revision(model: str, revision: str | None = None) -> str | None:
    """Return the commit of a Hub id, or `sha256-...` over the files of a folder (a few seconds for 4 B parameters).

    Raises:
        LLMError: the Hub id cannot be found.
    """
    if os.path.isdir(model):
        digest = hashlib.sha256()
        for path in sorted(Path(model).iterdir()):
            # Any file may matter (a tokenizer's merges.txt, weights in .gguf), except the model card.
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".md":
                with open(path, "rb") as file:
                    digest.update(os.fsencode(path.name) + hashlib.file_digest(file, "sha256").digest())

        return f"sha256-{digest.hexdigest()[:32]}"

    try:
        snapshot = snapshot_download(model, revision=revision, allow_patterns=["config.json"])
    except (OSError, ValueError) as error:
        raise LLMError(f"{model} is neither a folder nor a Hub id that can be fetched: {error}") from error

    return Path(snapshot).name  # .../snapshots/<commit>


def chat_token_ids(tokenizer: Any, conversation: Sequence[Message]) -> list[int]:
    """Return the token ids of a conversation up to the answer, by the model's own template, with thinking off.

    Raises:
        LLMError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise LLMError(
            f"{tokenizer.name_or_path} has no chat template. Use an instruction-tuned model (its name often ends in "
            "Instruct)."
        )

    # Templates without a thinking mode ignore the switch.
    return list(
        tokenizer.apply_chat_template(
            list(conversation), add_generation_prompt=True, tokenize=True, return_dict=False, enable_thinking=False
        )
    )


def _conversation(prompt: Prompt) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]

    messages: list[Message] = [dict(message) for message in prompt]
    if not messages or messages[-1].get("role") != "user":
        raise LLMError("A prompt is a text, or messages with role and content that end with the user's.")

    return messages


def _collect(answers: Iterator[tuple[int, Answer]], count: int, on_answer: OnAnswer | None) -> list[Answer]:
    collected: dict[int, Answer] = {}

    for index, answer in answers:
        if on_answer is not None:
            on_answer(index, answer)
        collected[index] = answer

    return [collected[index] for index in range(count)]
