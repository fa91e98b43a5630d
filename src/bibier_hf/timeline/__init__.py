"""What to do with the timeline of a recording: write it in the formats of other tools, draw it, or build one from a
live signal.

A timeline is what the pipeline returns with `return_timestamps=True`:
`{"emotions": [...], "chunks": [{"timestamp": (start, end), "text": str or None, "emotions": [...]}, ...]}`.
"""

from ..model.timeline_bibier import mean_emotions, merge_chunks
from .export import TIMELINE_FORMATS, save_timeline
from .live import LiveEmotion

__all__ = ["TIMELINE_FORMATS", "LiveEmotion", "mean_emotions", "merge_chunks", "save_timeline"]
