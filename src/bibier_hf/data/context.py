"""Earlier utterances of a dialogue as context for each text of a corpus."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from ..commandline import Section, checked_section
from ..model.context_bibier import text_with_context
from .clips import Clip
from .tables import CorpusError


class Context(Section):
    """Context for the texts of a corpus. Scores with and without context are not comparable."""

    utterances: int = Field(
        3, ge=1, description="largest number of earlier utterances of the dialogue to append to each text"
    )
    speakers: bool = Field(True, description="mark who speaks: A is the speaker of the utterance, B another one")


def as_context(value: Context | Mapping[str, Any] | None) -> Context | None:
    """Check a context that is passed as a mapping, as in a run file.

    Raises:
        ArgumentError: an unknown key, or a value of the wrong type.
    """
    return value if value is None or isinstance(value, Context) else checked_section(Context, dict(value))


def with_context(clips: Sequence[Clip], context: Context) -> list[Clip]:
    """Append earlier utterances to each text ([`~bibier_hf.model.context_bibier`]).

    Only utterances with a smaller `turn` are context. If several have the same turn (in RESD, one of each role), those
    of other speakers count as nearer. Emotions respond to what was said before (https://arxiv.org/abs/2108.12009), but
    context does not help every model.

    Args:
        clips: of all splits; those that a run leaves out serve as context, too.
        context: how much to append.

    Raises:
        CorpusError: the order of the utterances is not known.
    """
    if not any(clip.dialogue is not None and clip.turn is not None for clip in clips):
        raise CorpusError(
            "context: the order of the utterances in their dialogues is not known. A table needs the columns 'dialogue' "
            "and 'turn'; without them, leave context out."
        )
    unordered = [clip for clip in clips if clip.dialogue is not None and clip.turn is None]
    if unordered:
        raise CorpusError(
            f"context: {len(unordered)} of {len(clips)} rows have a dialogue but no turn, such as {unordered[0].id}."
        )

    dialogues: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.dialogue is not None and clip.text:
            dialogues[clip.dialogue].append(clip)

    widened = []
    for clip in clips:
        if not clip.text:
            widened.append(clip)
            continue
        before = [other for other in dialogues.get(clip.dialogue or "", ()) if (other.turn or 0) < (clip.turn or 0)]
        before.sort(key=lambda other: (other.turn, other.speaker != clip.speaker, other.id))
        said = [(other.speaker, other.text) for other in before]
        text = text_with_context(clip.text, said, clip.speaker, context.utterances, context.speakers)
        widened.append(replace(clip, text=text))

    return widened
