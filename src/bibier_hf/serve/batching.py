"""One thread that runs the model, on batches of whatever is waiting."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from ..model.answers_bibier import AnswerLabels
from ..model.pipeline_bibier import AudioTextEmotionPipeline
from ..model.timeline_bibier import TimelineOptions, TimelineSession

Sample = Mapping[str, Any]
"""`{"audio": float32 (n,) at 16 kHz or None, "text": str or None}`"""

Outputs = dict[str, torch.Tensor]
"""What the pipeline's `forward` returns for one sample."""


class Stopped(RuntimeError):
    """The model takes no more samples, because the server is ending."""


class ModelWorker:
    """Runs a model in a thread of its own. Samples that arrive within a few milliseconds share a batch.

    Args:
        pipe: the pipeline whose model is run.
        batch_size: samples in a batch at most.
        wait_s: longest time that a sample waits for others.
        observe: called with the size of each batch.
    """

    def __init__(
        self,
        pipe: AudioTextEmotionPipeline,
        batch_size: int = 16,
        wait_s: float = 0.005,
        observe: Callable[[int], None] = lambda size: None,
    ):
        self.pipe = pipe
        self._batch_size = 1 if pipe.model.config.depends_on_batch else batch_size
        self._wait_s, self._observe = wait_s, observe
        self._waiting: queue.SimpleQueue[tuple[Sample, Future] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="bibier-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Samples in the queue, about."""
        return self._waiting.qsize()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive() and not self._stopped

    def submit(self, sample: Sample) -> "Future[Outputs]":
        """Queue a sample; the result is for [`answer`]. A sample whose future is canceled is not computed.

        Raises:
            Stopped: after `close`.
        """
        future: Future[Outputs] = Future()
        with self._lock:
            if not self.is_running:
                raise Stopped("The model takes no more samples: the server is ending.")
            self._waiting.put((sample, future))
        return future

    def answer(self, outputs: Outputs, labels: Any, label_map: Any, threshold: float | None = None) -> dict[str, Any]:
        """`{"emotions": scores of all labels, "unsure": ..., "unsure_score": ..., "unsure_reason": ...}`"""
        choice = {"labels": labels, "label_map": label_map, "least_confidence": threshold, "return_unsure": True}
        answer: Any = self.pipe.postprocess(outputs, **choice)
        return {"emotions": answer.pop("answers"), **answer}

    def close(self) -> None:
        """Compute what is queued, and end the thread."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._collect()
            batch = [(sample, future) for sample, future in batch if future.set_running_or_notify_cancel()]
            if batch:
                self._observe(len(batch))
                self._answer(batch)

    def _collect(self) -> tuple[list[tuple[Sample, Future]], bool]:
        """Take what is waiting; returns the batch, and whether it is the last one."""
        first = self._waiting.get()
        if first is None:
            return [], True

        batch, until = [first], time.monotonic() + self._wait_s
        while len(batch) < self._batch_size:
            try:
                item = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _answer(self, batch: Sequence[tuple[Sample, Future]]) -> None:
        encoded = []
        for sample, future in batch:
            try:
                encoded.append((self.pipe.preprocess(sample, decoded=True, measured=True), future))
            except Exception as error:
                future.set_exception(error)

        try:
            self._forward(encoded)
        except Exception:
            for one in encoded:  # find out which one failed
                try:
                    self._forward([one])
                except Exception as error:
                    one[1].set_exception(error)

    def _forward(self, encoded: Sequence[tuple[dict[str, torch.Tensor], Future]]) -> None:
        if not encoded:
            return
        features = [sample for sample, _ in encoded]
        inputs = features[0] if len(features) == 1 else self.pipe.processor.pad(features)
        outputs = self.pipe.forward(inputs)
        for place, (_, future) in enumerate(encoded):
            future.set_result({name: values[place : place + 1] for name, values in outputs.items()})


class QueuedPipeline:
    """What timelines and [`~bibier_hf.timeline.LiveEmotion`] need of a pipeline, computed by a [`ModelWorker`]."""

    def __init__(self, worker: ModelWorker):
        self._worker = worker

    def start_timeline(self, labels: Any = None, label_map: Any = None, asr: Any = None, **options: Any) -> Any:
        """Start a timeline; arguments as for [`AudioTextEmotionPipeline.start_timeline`].

        Raises:
            ValueError: options that contradict each other or the model.
        """
        config: Any = self._worker.pipe.model.config
        AnswerLabels.of(config, labels, label_map)  # refuses unknown names early

        def classify(chunks: list[dict]) -> list[dict[str, Any]]:
            futures = [self._worker.submit(chunk) for chunk in chunks]
            return [self._worker.answer(future.result(), labels, label_map) for future in futures]

        return TimelineSession(classify, TimelineOptions(**options), batch_size=16, asr=asr)

    def timeline(self, chunks: Sequence[Mapping[str, Any]], **choice: Any) -> dict[str, Any]:
        return self._worker.pipe.timeline(chunks, **choice)
