"""Components of template utterances written by a language model: asked for, checked, asked again with what is wrong,
accepted whole or not.

    components = generate_components(ask, "sad", "en", examples=["I miss her.", ...])

The default prompt says in this project's words what the published one says; another one can take its place.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

from ..llm.reading import UnfinishedAnswerError, without_thinking
from ..model.labels_bibier import EMOTIONS
from ..text import LANGUAGE_NAMES
from .tug import PUBLISHED_SIZES, PUBLISHED_WORDS, SOUND_TAGS, ComponentError, Components, schema_faults

Message = Mapping[str, str]
Ask = Callable[[Sequence[Message]], str]
"""A conversation `[{"role": "user", "content": ...}, ...]` -> the model's answer."""

SHOWN_FAULTS = 40
NEEDED_FIELDS = ("emotion", "language", "examples")


def load_prompt(path: str | Path | None = None) -> Template:
    """A prompt with `$emotion`, `$language` and `$examples`, and as wanted `$sound_tags`, `$least_words`,
    `$most_words` and the sizes `$subjects`, `$verbs`, `$interjections`, `$contexts`, `$templates`; None for the
    package's own.

    Raises:
        FileNotFoundError: no such file.
        ComponentError: a prompt that lacks what it needs, or has other fields.
    """
    if path is None:
        return Template(
            (resources.files("bibier_hf.augmentation") / "prompts" / "tug_components.txt").read_text(encoding="utf-8")
        )
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no prompt file {path}.")
    prompt = Template(Path(path).read_text(encoding="utf-8"))
    allowed = {*NEEDED_FIELDS, *_prompt_facts()}
    if not prompt.is_valid():
        raise ComponentError(f"{path}: a '$' that begins no field; write '$$' for a dollar.")
    fields = set(prompt.get_identifiers())
    if (unknown := sorted(fields - allowed)) or (missing := sorted(set(NEEDED_FIELDS) - fields)):
        fault = f"has the unknown fields {unknown}" if unknown else f"lacks the fields {missing}"
        raise ComponentError(f"{path} {fault}. Allowed: {', '.join(f'${name}' for name in sorted(allowed))}.")
    return prompt


def generate_components(
    ask: Ask, emotion: str, language: str, examples: Sequence[str], prompt: Template | None = None, attempts: int = 5
) -> Components:
    """Components that meet the published schema, by a language model.

    Args:
        ask: the model.
        emotion: one of `EMOTIONS`.
        language: of the components.
        examples: utterances of the emotion ([`draw_examples`]).
        prompt: see [`load_prompt`].
        attempts: how often the model may answer; after an answer with faults it is asked to mend these.

    Raises:
        ComponentError: no answer without faults; those of the last one are listed. Nothing of such an answer is used.
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
        mend = "\n".join(
            ["This answer cannot be used:", *shown, "Answer with the whole corrected JSON object and nothing else."]
        )
        # Only the last answer: earlier ones would fill the model's context.
        conversation = [conversation[0], {"role": "assistant", "content": answer}, {"role": "user", "content": mend}]
    raise ComponentError(
        "\n".join(
            [
                f"{language}/{emotion}: {attempts} answers, none without faults. Those of the last one:",
                *(f"  {fault}" for fault in faults),
            ]
        )
    )


def read_answer(answer: str, name: str) -> tuple[Components | None, list[str]]:
    """(components, []) of an answer that meets the schema, or (None, all faults).

    Text around the JSON object, such as thoughts (`<think>`) or a code fence, does not matter; a second object does.
    """
    try:
        answer = without_thinking(answer)
    except UnfinishedAnswerError as error:
        return None, [str(error)]
    decoder = json.JSONDecoder()
    start = answer.find("{")
    if start < 0:
        return None, ["there is no JSON object in the answer"]
    try:
        values, end = decoder.raw_decode(answer, start)
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


def read_components(folder: str | os.PathLike, emotion: str, language: str) -> Components:
    """Components from `<language>/<emotion>.json` in a folder.

    Raises:
        ComponentError: no such file, or one that cannot be used.
    """
    path = Path(folder) / language / f"{emotion}.json"
    if not path.is_file():
        raise ComponentError(f"There are no components in {path}.")
    try:
        return Components.from_dict(json.loads(path.read_text(encoding="utf-8")), name=str(path))
    except json.JSONDecodeError as error:
        raise ComponentError(f"{path} is not valid JSON: {error}") from error


def draw_examples(texts: Iterable[str], count: int, seed: int = 42) -> list[str]:
    """Utterances for the prompt: `count` different ones of 3 to 20 words, whatever their order.

    Raises:
        ComponentError: none of the texts is fit.
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
