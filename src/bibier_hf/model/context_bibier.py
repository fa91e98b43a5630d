"""Earlier utterances of a dialogue as context of a text, written the same way in training and in the pipeline.

    I can't believe it! | What happened? | Hey, Joey!
    A: I can't believe it! | B: What happened? | A: Hey, Joey!

The utterance itself comes first and the nearest one second, so that truncation removes what is farthest away. Speakers
are letters: A is who speaks the utterance, whoever that is, so a name says nothing about its emotions.
"""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

SEPARATOR = " | "
UNKNOWN_SPEAKER = "?"


def text_with_context(
    text: str, before: Sequence[tuple[str | None, str]], speaker: str | None, utterances: int, speakers: bool
) -> str:
    """Append earlier utterances to a text.

    Args:
        text: the utterance.
        before: (speaker or None, text) of earlier utterances, the nearest one last.
        speaker: of the utterance, or None.
        utterances: most of them to append.
        speakers: whether to write the letters of the speakers.
    """
    nearest_first = [(speaker, text), *list(before)[::-1][:utterances]]
    if not speakers:
        return SEPARATOR.join(said for _, said in nearest_first)

    letters: dict[str, str] = {} if speaker is None else {speaker: "A"}
    free = iter(ascii_uppercase[1:])
    lines = [f"A: {text}"]
    for name, said in nearest_first[1:]:
        if name is None:
            letter = UNKNOWN_SPEAKER
        else:
            letter = letters.get(name) or letters.setdefault(name, next(free, UNKNOWN_SPEAKER))
        lines.append(f"{letter}: {said}")
    return SEPARATOR.join(lines)


def check_text_context(context: Mapping[str, Any] | None) -> bool:
    """Whether a value of `config.text_context` is valid."""
    if context is None:
        return True
    return (
        isinstance(context, Mapping)
        and set(context) == {"utterances", "speakers"}
        and type(context["utterances"]) is int
        and context["utterances"] > 0
        and isinstance(context["speakers"], bool)
    )


def add_context(inputs: Any, text: Any, settings: Mapping[str, Any] | None) -> Any:
    """Return the text of an input of the pipeline with its `context`: earlier texts, or `{"speaker", "text"}` each.

    Args:
        inputs: of the pipeline.
        text: its text.
        settings: `config.text_context`.

    Raises:
        ValueError: the model was trained without context.
        TypeError: a context of another form.
    """
    context = inputs.get("context") if isinstance(inputs, Mapping) else None
    if settings is None:
        if context is not None:
            raise ValueError(
                "This model was trained without context (config.text_context is None). Leave context out."
            )
        return text
    if not isinstance(text, str) or not text.strip():
        return text

    if context is None:
        context = []
    if isinstance(context, str) or not isinstance(context, Sequence):
        raise TypeError(f"context must be a list of earlier utterances, oldest first, got {context!r:.80}.")
    before = [
        (entry.get("speaker"), entry.get("text")) if isinstance(entry, Mapping) else (None, entry) for entry in context
    ]
    if any(not isinstance(said, str) for _, said in before):
        raise TypeError("Each earlier utterance is a string or a mapping with a 'text' and perhaps a 'speaker'.")
    before = [(speaker, said) for speaker, said in before if said.strip()]  # as in training
    return text_with_context(text, before, inputs.get("speaker"), settings["utterances"], settings["speakers"])
