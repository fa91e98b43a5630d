"""Prompt templates of LS-LLM, versioned by their hash.

A template is a text with `{text}`, and optionally `{label}`, `{language}`, `{labels}` (the label set) and `{count}`
(its size). What differs between rows comes last, so
that a back end that caches prefixes computes the instructions once.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..errors import ArgumentError
from ..llm.base import Message
from ..text import LANGUAGE_NAMES

PLACEHOLDERS = ("text", "label", "language", "labels", "count")

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class PromptTemplate:
    """A template, and the examples that precede it.

    Args:
        template: text with placeholders.
        name: name of the package's prompt or of the file, for the record.
        examples: `(text, label, language, answer)` of each example of a few-shot prompt, shown as earlier turns of the
            conversation.
        labels: the label set.

    Raises:
        ArgumentError: a template without `{text}`, or with an unknown placeholder.
    """

    template: str
    name: str = "prompt"
    examples: tuple[tuple[str, str, str, str], ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        found = set(_PLACEHOLDER.findall(self.template))
        if "text" not in found or not found <= set(PLACEHOLDERS):
            raise ArgumentError(
                f"The prompt {self.name} has the placeholders {sorted(found)}; needed: {{text}}, allowed too: "
                f"{{label}}, {{language}}, {{labels}} and {{count}}."
            )

    @property
    def states_label(self) -> bool:
        """Whether the model sees the gold label."""
        return "label" in _PLACEHOLDER.findall(self.template)

    @property
    def hash(self) -> str:
        """Hash of the template and its examples: 16 hexadecimal digits."""
        content = "\0".join([self.template, *("\1".join(example) for example in self.examples)])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def messages(self, text: str, label: str | None = None, language: str = "en") -> list[Message]:
        """Return the conversation about one utterance. Braces in the text are kept."""
        conversation = []
        for example_text, example_label, example_language, answer in self.examples:
            conversation.append({"role": "user", "content": self._fill(example_text, example_label, example_language)})
            conversation.append({"role": "assistant", "content": answer})
        return [*conversation, {"role": "user", "content": self._fill(text, label, language)}]

    def _fill(self, text: str, label: str | None, language: str) -> str:
        if self.states_label and label is None:
            raise ArgumentError(
                f"The prompt {self.name} states the gold label, and a row has none. Use a prompt without {{label}}."
            )

        values = {"text": text, "label": label or "", "language": LANGUAGE_NAMES.get(language, language)}
        values |= {"labels": ", ".join(self.labels), "count": str(len(self.labels))}
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.template)


def load_prompt(name: str | Path, examples: Sequence[tuple[str, str, str, str]] = ()) -> PromptTemplate:
    """Load a template (see [`read_prompt`])."""
    return PromptTemplate(read_prompt(name).strip(), Path(name).name, tuple(examples))


def read_prompt(name: str | Path) -> str:
    """Read one of the package's prompts by its name, or any text file by its path.

    Raises:
        ArgumentError: neither a name nor a file, or not UTF-8.
    """
    own = {
        Path(entry.name).stem: entry
        for entry in (resources.files("bibier_hf.augmentation") / "prompts").iterdir()
        if entry.name.endswith(".txt")
    }
    if str(name) not in own and not Path(name).is_file():
        raise ArgumentError(f"prompt: {name} is neither a file nor one of {', '.join(sorted(own))}.")

    try:
        return own.get(str(name), Path(name)).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"prompt: {name} is not UTF-8 ({error.reason}).") from error
