"""Emotion of a live signal."""

from typing import Any

import numpy as np

from ..model.audio_bibier import SAMPLING_RATE, SILENCE, AudioError, Mixer, StreamResampler, as_frames
from ..model.pipeline_bibier import AudioTextEmotionPipeline
from ..model.timeline_bibier import TimelineSession

RECENT_S = 4.0
"""Seconds that `now` looks back if no length of chunks is given."""


class LiveEmotion:
    """Chunks of a microphone, a call or any other stream, each as soon as it is complete.

    However the signal is split into pieces, the chunks are the ones that the pipeline returns for the whole recording
    (without `merge`).

    Args:
        pipe: the pipeline.
        channel: use this channel (from 0) instead of the mean of all.
        options: the pipeline's arguments for chunks: `chunk_length_s`, `hop_length_s`, `segmentation`, `segments`;
            also `labels` and `label_map`, `batch_size`, and `asr`, which transcribes blocks of up to 30 s, so chunks
            wait for their words.

    Examples:
        >>> live = LiveEmotion(pipe, chunk_length_s=4, hop_length_s=2)  # doctest: +SKIP
        >>> for samples in microphone:  # doctest: +SKIP
        ...     for chunk in live.push(samples, sampling_rate=48_000):
        ...         print(chunk["timestamp"], chunk["emotions"][0])
        >>> live.close()  # doctest: +SKIP
    """

    def __init__(self, pipe: AudioTextEmotionPipeline, channel: int | None = None, **options: Any):
        self._mixer = Mixer("<live>", channel)
        self._pipe = pipe
        self._labels = {name: options[name] for name in ("labels", "label_map") if name in options}
        self._session: TimelineSession = pipe.start_timeline(**options)
        self._resampler: StreamResampler | None = None
        self._closed = False
        self._recent, self._count = np.zeros(0, np.float32), 0
        self._recent_s = options.get("chunk_length_s") or RECENT_S
        self._chunks: list[dict] = []

    def push(self, samples: Any, sampling_rate: int) -> list[dict]:
        """Push the next piece, an array as for the pipeline; returns the chunks that it completes.

        Raises:
            AudioError: samples that cannot be used, or a different rate than before.
            RuntimeError: after `close`.
        """
        self._refuse_if_closed()
        if self._resampler is None:
            self._resampler = StreamResampler(sampling_rate)
        elif sampling_rate != self._resampler.rate:
            raise AudioError(
                f"The stream began at {self._resampler.rate} Hz, but these samples are at {sampling_rate} Hz. "
                "Resample them first, or close this LiveEmotion and make another."
            )
        if np.size(samples) == 0:
            return []

        mono = self._mixer.mix(as_frames(samples, "<live>"))
        new = self._resampler.push(mono)
        self._count += len(new)
        self._recent = np.concatenate([self._recent, new])[-round(self._recent_s * SAMPLING_RATE) :]
        return self._keep(self._session.push(new, flush=True))

    def now(self) -> dict[str, Any] | None:
        """The emotions of the last `chunk_length_s` seconds, without waiting for the end of a chunk and without words:
        `{"timestamp": (start, end), "emotions": [...]}`. None after less than a quarter of a second, and in
        silence."""
        if len(self._recent) < SAMPLING_RATE // 4 or np.ptp(self._recent) < 2 * SILENCE:
            return None
        (answer,) = self._session.classify([{"audio": self._recent, "text": None}])
        start, end = self._count - len(self._recent), self._count
        return {"timestamp": (start / SAMPLING_RATE, end / SAMPLING_RATE), **answer}

    def close(self) -> list[dict]:
        """End the signal; returns the remaining chunks. The last one may be shorter."""
        self._refuse_if_closed()
        self._closed = True
        if self._resampler is None:
            return []

        chunks = self._session.push(self._resampler.close(), flush=True)
        return self._keep(chunks + self._session.close())

    @property
    def timeline(self) -> dict[str, Any]:
        """Everything so far, in the form that the pipeline returns."""
        return self._pipe.timeline(self._chunks, **self._labels)

    def _keep(self, chunks: list[dict]) -> list[dict]:
        self._chunks += chunks
        return chunks

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("This stream is closed. Make a new LiveEmotion for the next signal.")
