"""The form of a timeline's JSON file. These types are the source of `timeline.schema.json`, which comes with the
package; fields that are there have the order of the types.

    python -m bibier_hf.timeline.schema > src/bibier_hf/timeline/timeline.schema.json
"""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_FILE = Path(__file__).parent / "timeline.schema.json"

Span = Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=2, max_length=2)]
"""Start and end in seconds."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Emotion(_Part):
    """A label and its score."""

    label: str
    """Name of the label, or "unsure" (below the threshold)."""
    score: float
    """Probability; of a regression, the value."""
    present: bool | None = None
    """Whether the label applies, if there may be several at once."""


class Word(_Part):
    """A word and when it is said."""

    text: str
    timestamp: Span
    """Start and end in seconds."""
    speaker: str | None = None
    """Who says it, if the transcript has speakers."""


class WordEffect(_Part):
    """What a word adds to the probability of the answer."""

    text: str
    effect: float
    """The probability minus that without the word."""


class StretchEffect(_Part):
    """What a stretch of the audio adds to the probability of the answer."""

    timestamp: Span
    """Start and end in seconds."""
    effect: float
    """The probability minus that without the stretch."""


class Additivity(_Part):
    """Whether effects add up, for the parts that carry the answer."""

    sum: float
    """Sum of their effects."""
    joint: float
    """Effect of leaving all of them out at once."""


class Explanation(_Part):
    """Which words and which stretches of the audio carried the answer."""

    label: str
    """The best label, which is explained."""
    score: float
    """Its probability."""
    words: list[WordEffect]
    """All words of the text, in order."""
    audio: list[StretchEffect]
    """All stretches of the audio, in order."""
    carried_by: dict[str, list[int]]
    """The places in `words` and `audio` of the fifth with the largest effects."""
    additivity: Additivity
    """The effects of these parts, added up and together."""


class Chunk(_Part):
    """A stretch of the recording with its emotions."""

    timestamp: Span
    """Start and end in seconds."""
    speaker: str | None = None
    """Who speaks. Missing if no speakers are known."""
    text: str | None
    """What is said, if it is known."""
    words: list[Word] | None = None
    """The words of the text, if their times are known."""
    emotions: list[Emotion]
    """All labels, best first (of a regression, in label order). Empty if there is neither audio nor text."""
    unsure: bool | None = None
    """Whether the answer should not be trusted."""
    unsure_score: float | None = None
    """How unsure, 0 to 1."""
    unsure_reason: str | None = None
    """Why; null if it is not unsure."""
    explanation: Explanation | None = None
    """What carried the answer, if it was asked for."""


class Minute(_Part):
    """A minute in which the speaker speaks."""

    timestamp: Span
    """Start and end in seconds."""
    seconds: float
    turns: int
    emotions: list[Emotion]
    shares: dict[str, float] | None = None
    confidence: float | None = None


class Speaker(_Part):
    """The summary of a speaker."""

    speaker: str | None
    """Name; null for turns without one."""
    seconds: float
    """Seconds of speech."""
    turns: int
    """Number of chunks."""
    emotions: list[Emotion]
    """Mean scores, weighted by duration."""
    shares: dict[str, float] | None = None
    """Label -> part of the time with this answer; not for a regression."""
    confidence: float | None = None
    """Mean score of the best label; not for a regression."""
    trend: dict[str, float] | None
    """Label -> change of its score per minute; null with fewer than two chunks."""
    minutes: list[Minute]
    """The same for each minute in which the speaker speaks."""


class Timeline(_Part):
    """The emotions of a recording over time."""

    emotions: list[Emotion]
    """Mean over time."""
    chunks: list[Chunk]
    """In the order of their starts."""
    unsure: bool | None = None
    """Whether the mean should not be trusted."""
    unsure_score: float | None = None
    """How unsure, 0 to 1."""
    unsure_reason: str | None = None
    """Why; null if it is not unsure."""
    speakers: list[Speaker] | None = None
    """A summary of each speaker, in the order in which they first speak. Missing if no speakers are known."""
    problem_type: str | None = None
    """The word regression if scores are values; otherwise missing."""


def timeline_schema() -> dict[str, Any]:
    """The JSON schema of a timeline."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Timeline.model_json_schema()}


if __name__ == "__main__":
    print(json.dumps(timeline_schema(), indent=2))
