"""Components of template utterances, written by a language model. Its answers are checked; faults are sent back until
there are none.

    components = generate_components(ask, "sad", "en", examples=["I miss her.", ...])

The default prompt paraphrases the published one.
"""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from string import Template

from ..llm.reading import UnfinishedAnswerError, without_thinking
from ..model.labels_bibier import EMOTIONS
from ..text import LANGUAGE_NAMES
from .ls_llm_prompts import read_prompt
from .tug import PUBLISHED_SIZES, PUBLISHED_WORDS, SOUND_TAGS, ComponentError, Components, schema_faults

Message = Mapping[str, str]
Ask = Callable[[Sequence[Message]], str]
"""A conversation `[{"role": "user", "content": ...}, ...]` -> the model's answer."""

SHOWN_FAULTS = 40
NEEDED_FIELDS = ("emotion", "language", "examples")


def load_prompt(path: str | Path | None = None) -> Template:
    """Load a prompt with the fields `$emotion`, `$language` and `$examples`, and optionally `$sound_tags`,
    `$least_words`, `$most_words` and the sizes `$subjects`, `$verbs`, `$interjections`, `$contexts`, `$templates`.

    Args:
        path: a text file; None for the package's own prompt.

    Raises:
        ArgumentError: no such file, or not UTF-8.
        ComponentError: a prompt that lacks a required field, or has unknown fields.
    """
    prompt = Template(read_prompt("tug_components" if path is None else path))
    allowed = {*NEEDED_FIELDS, *_prompt_facts()}
    if not prompt.is_valid():
        raise ComponentError(f"{path}: a '$' does not begin a field; write '$$' for a dollar sign.")

    fields = set(prompt.get_identifiers())
    if (unknown := sorted(fields - allowed)) or (missing := sorted(set(NEEDED_FIELDS) - fields)):
        fault = f"has the unknown fields {unknown}" if unknown else f"lacks the fields {missing}"
        raise ComponentError(f"{path} {fault}. Allowed: {', '.join(f'${name}' for name in sorted(allowed))}.")

    return prompt


def generate_components(
    ask: Ask, emotion: str, language: str, examples: Sequence[str], prompt: Template | None = None, attempts: int = 5
) -> Components:
    """Let a language model write components that meet the published schema.

    Args:
        ask: the model.
        emotion: one of `EMOTIONS`.
        language: language of the components.
        examples: utterances of the emotion ([`draw_examples`]).
        prompt: see [`load_prompt`].
        attempts: number of answers; after an answer with faults, the model is asked to fix them.

    Raises:
        ComponentError: every answer has faults; those of the last one are listed. No part of a faulty answer is used.
    """
    if emotion not in EMOTIONS:
        raise ComponentError(f"Unknown emotion {emotion!r}. Allowed: {', '.join(EMOTIONS)}.")

    facts = {
        "emotion": emotion,
        "language": LANGUAGE_NAMES.get(language, language),
        "examples": "\n".join(f"- {text}" for text in examples),
    }
    question = (prompt or load_prompt()).substitute(facts | _prompt_facts())

    conversation: list[Message] = [{"role": "user", "content": question}]
    faults: list[str] = []
    for _ in range(attempts):
        answer = ask(conversation)
        components, faults = read_answer(answer, f"{language}/{emotion}")
        if components is not None:
            return components

        shown = [f"- {fault}" for fault in faults[:SHOWN_FAULTS]]
        if len(faults) > SHOWN_FAULTS:
            shown.append(f"- and {len(faults) - SHOWN_FAULTS} more")
        request = "Answer with the whole corrected JSON object and nothing else."
        reply = "\n".join(["This answer cannot be used:", *shown, request])
        # Only the last answer: earlier ones would fill the context of the model.
        conversation = [conversation[0], {"role": "assistant", "content": answer}, {"role": "user", "content": reply}]

    listed = "\n".join(f"  {fault}" for fault in faults)
    raise ComponentError(f"{language}/{emotion}: {attempts} answers with faults. Those of the last one:\n{listed}")


def read_answer(answer: str, name: str) -> tuple[Components | None, list[str]]:
    """Return (components, []) of an answer that meets the schema, else (None, all faults).

    Text around the JSON object, such as thoughts (`<think>`) or a code fence, is ignored; a second object is a fault.
    """
    try:
        answer = without_thinking(answer)
    except UnfinishedAnswerError as error:
        return None, [str(error)]

    start = answer.find("{")
    if start < 0:
        return None, ["there is no JSON object in the answer"]
    try:
        values, end = json.JSONDecoder().raw_decode(answer, start)
    except json.JSONDecodeError as error:
        return None, [f"the JSON object is not valid: {error.msg} at line {error.lineno}, column {error.colno}"]
    if "{" in answer[end:]:
        return None, ["there is more than one JSON object in the answer"]

    try:
        components = Components.from_dict(values, name=name)
    except ComponentError as error:
        first, *lines = str(error).splitlines()
        return None, [line.strip() for line in lines] or [first]
    faults = schema_faults(components)
    return (None, faults) if faults else (components, [])


def draw_examples(texts: Iterable[str], count: int, seed: int = 42) -> list[str]:
    """Draw `count` different utterances of 3 to 20 words for the prompt; their order does not matter.

    Raises:
        ComponentError: no such utterance.
    """
    fit = sorted({" ".join(text.split()) for text in texts if 3 <= len(text.split()) <= 20})
    if not fit:
        raise ComponentError("There is no utterance of 3 to 20 words to show as an example.")
    return random.Random(seed).sample(fit, min(count, len(fit)))


def _prompt_facts() -> dict[str, str]:
    sizes = {
        kind: f"{least}" if most is None else f"{least} to {most}" for kind, (least, most) in PUBLISHED_SIZES.items()
    }
    tags = ", ".join(f"({tag})" for tag in sorted(SOUND_TAGS))
    return sizes | {"sound_tags": tags, "least_words": str(PUBLISHED_WORDS[0]), "most_words": str(PUBLISHED_WORDS[1])}
