"""Emotion of a signal that is still coming."""

from typing import Any

import numpy as np

from ..model.audio_bibier import AudioError, Mixer, as_frames
from ..model.pipeline_bibier import AudioTextEmotionPipeline
from ..model.streaming_bibier import StreamResampler
from ..model.timeline_bibier import TimelineSession, mean_emotions


class LiveEmotion:
    """Chunks of a microphone, a call or any stream, each as soon as it is complete.

    Whatever the sizes of the pieces, the chunks are those that the pipeline gives for the whole recording (without
    `merge`).

    Args:
        pipe: the pipeline.
        channel: use this channel (from 0) in place of the mean of all.
        options: its arguments for chunks: `chunk_length_s`, `hop_length_s`, `segmentation`, `segments`; also
            `batch_size`, and `asr`, whose words come in blocks of up to 30 s, so that chunks wait for them.

    Example:
        >>> live = LiveEmotion(pipe, chunk_length_s=4, hop_length_s=2)  # doctest: +SKIP
        >>> for samples in microphone:  # doctest: +SKIP
        ...     for chunk in live.push(samples, sampling_rate=48_000):
        ...         print(chunk["timestamp"], chunk["emotions"][0])
        >>> live.close()  # doctest: +SKIP
    """

    def __init__(self, pipe: AudioTextEmotionPipeline, channel: int | None = None, **options: Any):
        self._mixer = Mixer("<live>", channel)
        self._session: TimelineSession = pipe.start_timeline(**options)
        self._resampler: StreamResampler | None = None
        self._closed = False
        self._chunks: list[dict] = []

    def push(self, samples: Any, sampling_rate: int) -> list[dict]:
        """Takes the next piece, an array as for the pipeline; gives the chunks that it completes.

        Raises:
            AudioError: samples that cannot be used, or another rate than before.
            RuntimeError: after `close`.
        """
        self._refuse_if_closed()
        if self._resampler is None:
            self._resampler = StreamResampler(sampling_rate)
        elif sampling_rate != self._resampler.rate:
            raise AudioError(
                f"The stream began at {self._resampler.rate} Hz, and here are samples at {sampling_rate} Hz. "
                "Close it and begin another one, or bring them to one rate first."
            )
        if np.size(samples) == 0:
            return []
        return self._keep(
            self._session.push(self._resampler.push(self._mixer.mix(as_frames(samples, "<live>"))), flush=True)
        )

    def close(self) -> list[dict]:
        """The signal is over: gives the chunks that were still open, the last one as short as it is."""
        self._refuse_if_closed()
        self._closed = True
        if self._resampler is None:
            return []
        chunks = self._session.push(self._resampler.close(), flush=True)
        return self._keep(chunks + self._session.close())

    @property
    def timeline(self) -> dict[str, Any]:
        """Everything so far, in the form that the pipeline gives."""
        return {"emotions": mean_emotions(self._chunks), "chunks": list(self._chunks)}

    def _keep(self, chunks: list[dict]) -> list[dict]:
        self._chunks += chunks
        return chunks

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("This stream is closed. Make another LiveEmotion for another signal.")
