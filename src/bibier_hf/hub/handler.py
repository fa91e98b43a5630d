"""Serves this model on Hugging Face Inference Endpoints.

Request, as JSON; `audio` is base64, and either of the two may be missing:

    {"inputs": {"audio": "UklGR...", "text": "I can't believe it!"}, "parameters": {"top_k": 3}}

`inputs` may also be a text, the bytes of an audio file (`Content-Type: audio/wav`), or a list of any of these.
Answer, one list for each input: [{"label": "surprise", "score": 0.71}, ...]
"""

import base64
import binascii
from typing import Any

from transformers import pipeline

PARAMETERS = (
    "batch_size", "channel", "chunk_length_s", "hop_length_s", "label_map", "labels", "merge", "return_timestamps",
    "segmentation", "segments", "threshold", "top_k",
)  # fmt: skip
"""Arguments of the pipeline that a request may set."""


class EndpointHandler:
    """What the endpoint calls.

    Args:
        path: folder of the model.
    """

    def __init__(self, path: str = ""):
        self.pipe: Any = pipeline(  # ty: ignore[no-matching-overload] - transformers lists its own tasks only
            "audio-text-emotion", model=path or ".", trust_remote_code=True
        )

    def __call__(self, data: dict[str, Any]) -> Any:
        """Answer a request, or say what is wrong with it: `{"error": ...}`."""
        try:
            inputs = data["inputs"]
            samples = [_sample(each) for each in inputs] if isinstance(inputs, list) else _sample(inputs)
            return self.pipe(samples, **_parameters(data.get("parameters") or {}))
        except KeyError as error:
            return {"error": f"The request has no {error}."}
        except (TypeError, ValueError) as error:  # also of audio that cannot be read
            return {"error": str(error)}


def _sample(given: Any) -> dict[str, Any]:
    """One input for the pipeline. A string is never a path: it is a text, or base64 in `audio`."""
    if isinstance(given, (bytes, bytearray)):
        return {"audio": bytes(given), "text": None}
    if isinstance(given, str):
        return {"audio": None, "text": given}
    if not isinstance(given, dict) or not set(given) <= {"audio", "text"}:
        raise ValueError('inputs must be {"audio": base64, "text": str}, a text, or the bytes of an audio file.')

    audio = given.get("audio")
    if isinstance(audio, str):
        try:
            audio = base64.b64decode(audio.rpartition("base64,")[2], validate=True)
        except binascii.Error as error:
            raise ValueError(f"audio is not base64: {error}.") from error
    elif audio is not None and not isinstance(audio, (bytes, bytearray)):
        raise ValueError("audio must be base64.")
    return {"audio": audio, "text": given.get("text")}


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(given) - set(PARAMETERS)):
        raise ValueError(f"There is no parameter {', '.join(unknown)}. Allowed: {', '.join(PARAMETERS)}.")
    return given
