"""What to do with the timeline of a recording: write it in the formats of other tools, draw it, or build one from a
live signal.

A timeline is what the pipeline returns with `return_timestamps=True`:
`{"emotions": [...], "chunks": [{"timestamp": (start, end), "text": str or None, "emotions": [...]}, ...]}`.
`timeline.schema.json`, in this folder, describes its JSON file.
"""

from ..model.segments_bibier import Turn
from ..model.timeline_bibier import mean_emotions, merge_chunks
from .export import TIMELINE_FORMATS, save_timeline
from .formats import per_minute
from .live import LiveEmotion
from .turns import TURN_FORMATS, read_turns, timed_texts

__all__ = [
    "TIMELINE_FORMATS",
    "TURN_FORMATS",
    "LiveEmotion",
    "Turn",
    "mean_emotions",
    "merge_chunks",
    "per_minute",
    "read_turns",
    "save_timeline",
    "timed_texts",
]
