"""Audio and text in any form -> the model's input tensors."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self, TypedDict

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoTokenizer,
    ByT5Tokenizer,
    SeamlessM4TFeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from .audio_bibier import SAMPLING_RATE, as_many, decode_audio
from .backbones_bibier import find_backbone_folder
from .configuration_bibier import EMBEDDED
from .front_end_bibier import front_end_frames
from .importing_bibier import make_importable
from .validation_bibier import CheckpointError, check_whole, one_line

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

_backbone_dir: ContextVar[str | os.PathLike | dict | None] = ContextVar("_backbone_dir", default=None)
"""Argument of a running `from_pretrained`."""

SHORTEST_SPECTRAL_CLIP = 800
"""Samples (50 ms). Spectral front ends need more than one window of samples; shorter clips are padded with silence."""


def _load_tokenizer(source: str | os.PathLike, revision: str | None) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (AttributeError, KeyError, TypeError) as error:  # caused by damaged files
        raise CheckpointError(f"{source}: the tokenizer cannot be read ({one_line(error)}).") from error
    if tokenizer is None or len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # loaded without any vocabulary
        raise CheckpointError(f"{source} has no tokenizer vocabulary. Copy the tokenizer's files into it.")
    return tokenizer


class BiBiERTextKwargs(TypedDict, total=False):
    """Options for text: the tokenizer options of transformers that make sense for the model."""

    padding: bool | str | None
    truncation: bool | str | None
    max_length: int | None
    pad_to_multiple_of: int | None
    add_special_tokens: bool
    return_tensors: str | None


class BiBiERAudioKwargs(TypedDict, total=False):
    """Options for audio; `max_length` and `pad_to_multiple_of` count samples (`input_values`) or frames
    (`input_features`)."""

    sampling_rate: int | None
    padding: bool | str | None
    truncation: bool | None
    max_length: int | None
    pad_to_multiple_of: int | None
    return_tensors: str | None


class BiBiERProcessorKwargs(ProcessingKwargs, total=False):
    # Deliberately narrower than in transformers, which is fine for a dictionary that is only read.
    text_kwargs: BiBiERTextKwargs  # ty: ignore[invalid-typed-dict-field]
    audio_kwargs: BiBiERAudioKwargs  # ty: ignore[invalid-typed-dict-field]


_TEXT_OPTIONS, _AUDIO_OPTIONS = (frozenset(kwargs.__annotations__) for kwargs in (BiBiERTextKwargs, BiBiERAudioKwargs))
_FLAT_AUDIO_OPTIONS = _AUDIO_OPTIONS - {"truncation", "max_length"}
"""Outside of `audio_kwargs`, a length counts tokens: nobody who truncates texts to 64 tokens wants 4 ms of audio."""

_NESTED_OPTIONS = ("common_kwargs", "text_kwargs", "audio_kwargs")


class BiBiERProcessor(ProcessorMixin):
    """Turns speech at any rate and text into padded tensors, with a mask for each modality.

    Audio is decoded, mixed down to mono (the mean of the channels) and resampled to 16 kHz. Each clip goes through the
    backbone's feature extractor by itself, so its values do not depend on its batch. The two masks are named after
    their modality, because the names that the feature extractor and the tokenizer use would collide.

    The class attributes `text_kwargs` and `audio_kwargs` are the defaults of a call: `processor.audio_kwargs =
    {**processor.audio_kwargs, "sampling_rate": 16_000}` sets the rate of bare arrays once and for all.

    Args:
        feature_extractor: of the speech backbone.
        tokenizer: of the text backbone.
        max_text_tokens: longer texts are truncated by the tokenizer, counting special tokens.
        text_prefix: put before every text, for backbones that were trained with one (`"query: "` for E5).
        max_window_s: the model encodes longer audio in windows of this many seconds (`BiBiERConfig.max_window_s`);
            Whisper's log-mel frames and waveforms are normalized window by window.
        text_backbone_id: Hub id of a text backbone that the checkpoint only names. Its tokenizer is fetched from
            there, too, instead of being saved. None: it is saved.
    """

    valid_processor_kwargs = BiBiERProcessorKwargs
    text_kwargs = {"padding": True, "truncation": True, "return_tensors": "pt"}
    audio_kwargs = {"return_tensors": "pt"}

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        max_text_tokens: int = 95,
        text_prefix: str = "",
        max_window_s: float = 30.0,
        text_backbone_id: str | None = None,
        **kwargs: Any,
    ):
        self.text_backbone_id = text_backbone_id
        self.max_text_tokens = max_text_tokens
        self.max_window_s = max_window_s
        self.text_prefix = text_prefix
        super().__init__(feature_extractor, tokenizer, **kwargs)

    @classmethod
    def from_backbones(
        cls,
        audio: str = EMBEDDED,
        text: str = EMBEDDED,
        audio_revision: str | None = None,
        text_revision: str | None = None,
        max_text_tokens: int | None = None,
        text_prefix: str | None = None,
        max_window_s: float = 30.0,
    ) -> "BiBiERProcessor":
        """Create the processor for a pair of backbones, with the arguments of [`BiBiERConfig.from_backbones`].

        Args:
            audio, text: Hub id or folder of a backbone, or `"embedded"`.
            audio_revision, text_revision: revision of a Hub id.
            max_text_tokens: None: 95, or 192 for the byte-level embedded text backbone.
            text_prefix: None: `"query: "` if the name of the text backbone contains E5, else nothing.
            max_window_s: that of the model.
        """
        if audio == EMBEDDED:
            feature_extractor = SeamlessM4TFeatureExtractor(
                feature_size=80, num_mel_bins=80, stride=2, padding_value=0.0
            )
        else:
            feature_extractor = AutoFeatureExtractor.from_pretrained(audio, revision=audio_revision)
        tokenizer = ByT5Tokenizer() if text == EMBEDDED else _load_tokenizer(text, text_revision)

        if max_text_tokens is None:
            max_text_tokens = 192 if text == EMBEDDED else 95
        if text_prefix is None:
            name = os.path.basename(str(text).rstrip("/\\"))
            text_prefix = "query: " if re.search(r"(^|[-_])e5([-_]|$)", name, re.IGNORECASE) else ""
        return cls(feature_extractor, tokenizer, max_text_tokens, text_prefix, max_window_s)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *args: Any,
        backbone_dir: str | os.PathLike | dict | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load as in transformers, and fetch a tokenizer that the checkpoint only names.

        Args:
            pretrained_model_name_or_path: Hub id or folder of the checkpoint.
            args, kwargs: passed on.
            backbone_dir: where to find that tokenizer instead of the Hub, as for the model's `from_pretrained`.

        Raises:
            CheckpointError: damaged files.
            OSError: it cannot be fetched.
        """
        for name in (
            "dtype",
            "torch_dtype",
        ):  # the pipeline passes the model's; a tokenizer that keeps it cannot be saved
            kwargs.pop(name, None)
        token = _backbone_dir.set(backbone_dir)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (UnicodeError, json.JSONDecodeError, AttributeError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{pretrained_model_name_or_path} has no usable processor (processor_config.json, tokenizer_config.json): "
                f"{one_line(error)}"
            ) from error
        finally:
            _backbone_dir.reset(token)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict | None = None, **kwargs: Any
    ) -> list[Any]:
        name = (processor_dict or {}).get("text_backbone_id")
        if name is None:
            return super()._get_arguments_from_pretrained(pretrained_model_name_or_path, processor_dict, **kwargs)

        feature_extractor = AutoFeatureExtractor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = find_backbone_folder(_backbone_dir.get(), "text", name)
        try:
            return [feature_extractor, _load_tokenizer(folder or name, None)]
        except OSError as error:
            raise OSError(
                f"The tokenizer of the text backbone '{name}' could not be fetched: {error}\n"
                "Connect to the Hub once, or pass backbone_dir={...} with a local copy."
            ) from error

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the backbone's input, in Hz."""
        return self.feature_extractor.sampling_rate

    @property
    def audio_input_name(self) -> str:
        """`"input_features"` (spectral frames) or `"input_values"` (a waveform)."""
        return self.feature_extractor.model_input_names[0]

    @property
    def model_input_names(self) -> list[str]:
        return [self.audio_input_name, "audio_attention_mask", "input_ids", "text_attention_mask"]

    def __call__(
        self, audio: Any = None, text: str | Sequence[str | None] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Encode one sample or a batch.

        Args:
            audio: one clip in any form that [`decode_audio`] accepts, or several (a list, a column of a dataset, a
                Series); None in a list: this sample has no audio.
            text: one text, or several; None, NaN or blank in a list: this sample has no text.
            kwargs: options, for both modalities or in `text_kwargs`, `audio_kwargs` or `common_kwargs`:
                * sampling_rate: Hz, required for bare arrays;
                * padding: `True` or `"longest"` (default), `"max_length"`, or `False`;
                * truncation: truncate texts to `max_length` tokens, counting special tokens (default: True, to
                  `max_text_tokens`). Audio is only truncated by
                  `audio_kwargs={"truncation": True, "max_length": samples or frames}`;
                * max_length, pad_to_multiple_of, add_special_tokens: as in transformers. Outside of `audio_kwargs`,
                  `max_length` applies to texts;
                * return_tensors: `"pt"` (default), `"np"`, or None for lists.

        Returns:
            `input_values` (B, S) or `input_features` (B, F, M) and `audio_attention_mask` if audio was given;
            `input_ids` and `text_attention_mask` (B, T) if text was given. 1 = keep; a row of zeros means that the
            sample does not have the modality.

        Raises:
            AudioError, FileNotFoundError: the audio is unusable.
            TypeError: a text is not a string, or an option is unknown.
            ValueError: no input at all, different numbers of clips and texts, or options out of range.
        """
        text_options, audio_options = self._options(kwargs)
        clips, texts = _as_clips(audio), _as_texts(text)
        _check_samples(clips, texts)

        rate = audio_options.get("sampling_rate")
        decoded = clips and [None if clip is None else decode_audio(clip, rate) for clip in clips]
        return self._encode(decoded, texts, text_options, audio_options)

    def encode(
        self, clips: Sequence[np.ndarray | None] | None, texts: Sequence[str | None] | None, **kwargs: Any
    ) -> BatchFeature:
        """Encode clips that [`decode_audio`] has already decoded.

        Args:
            clips: mono float32 (S,) at 16 kHz, None for a sample without audio; None: no audio at all.
            texts: strings, None for a sample without text; None: no text at all.
            kwargs: as in a call.
        """
        texts = _as_texts(texts)
        _check_samples(clips, texts)
        return self._encode(clips, texts, *self._options(kwargs))

    def pad(self, samples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Pad samples (1, L, ...) with the same keys, as `return_tensors="pt"` gives them, to one batch (B, L,
        ...)."""
        batch = {}
        for name in samples[0]:
            values = [sample[name][0] for sample in samples]
            fill = self._pad_token if name == "input_ids" else 0
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)
        return batch

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        output["feature_extractor"].pop("auto_map", None)  # transformers copies it from the processor to each part
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> list[str]:
        """Save as in transformers, but leave the processor unchanged."""
        parts = (self, self.feature_extractor, self.tokenizer)  # transformers adds attributes to each of them
        before = [dict(vars(part)) for part in parts]
        files = super().save_pretrained(save_directory, *args, **kwargs)
        if self.text_backbone_id is not None:
            for name in _TOKENIZER_FILES:
                Path(save_directory, name).unlink(missing_ok=True)
        for part, state in zip(parts, before, strict=True):
            vars(part).clear()
            vars(part).update(state)
        return files

    def _options(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split the options of a call into those for text and those for audio, with the defaults."""
        nested = {name: dict(given.get(name) or {}) for name in _NESTED_OPTIONS}
        flat = {name: value for name, value in given.items() if name not in _NESTED_OPTIONS}
        for name, allowed in (("text_kwargs", _TEXT_OPTIONS), ("audio_kwargs", _AUDIO_OPTIONS)):
            _refuse_unknown(nested[name], allowed, f" in {name}")
        _refuse_unknown({**nested["common_kwargs"], **flat}, _TEXT_OPTIONS | _AUDIO_OPTIONS)

        text_options, audio_options = dict(self.text_kwargs), dict(self.audio_kwargs)
        saved = self.tokenizer.init_kwargs
        if saved.get("padding") == "max_length":  # a tokenizer configured to pad to a length keeps doing so
            text_options |= {name: saved[name] for name in ("padding", "max_length") if name in saved}
        for name, options, allowed in (
            ("text_kwargs", text_options, _TEXT_OPTIONS),
            ("audio_kwargs", audio_options, _FLAT_AUDIO_OPTIONS),
        ):
            if twice := sorted(nested[name].keys() & flat.keys() & allowed):
                raise ValueError(f"{', '.join(twice)}: given twice, in {name} and outside of it; leave one out.")

            for source in (nested["common_kwargs"], flat):
                options |= {key: value for key, value in source.items() if key in allowed}
            options |= nested[name]
            _check_options(options)
        return text_options, audio_options

    def _encode(
        self,
        clips: Sequence[np.ndarray | None] | None,
        texts: Sequence[str | None] | None,
        text_options: dict[str, Any],
        audio_options: dict[str, Any],
    ) -> BatchFeature:
        data: dict[str, Any] = {}
        if clips is not None:
            rows = self._frames(clips, audio_options)
            shape = () if self.audio_input_name == "input_values" else (self._bands,)
            values, mask = _stacked(rows, np.zeros((1, *shape), np.float32), audio_options)
            data |= {self.audio_input_name: values, "audio_attention_mask": mask}
        if texts is not None:
            rows = self._token_ids(texts, text_options)
            ids, mask = _stacked(rows, np.full(1, self._pad_token, np.int64), text_options)
            data |= {"input_ids": ids, "text_attention_mask": mask}
        return BatchFeature(data)

    @property
    def _bands(self) -> int:
        return self.feature_extractor.feature_size * getattr(self.feature_extractor, "stride", 1)

    @property
    def _pad_token(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _frames(self, clips: Sequence[np.ndarray | None], options: dict[str, Any]) -> list[np.ndarray | None]:
        rows = [None if clip is None else self._front_end(clip) for clip in clips]
        if not options.get("truncation"):
            return rows
        if options.get("max_length") is None:
            raise ValueError(
                "audio_kwargs has truncation without max_length. Pass both; max_length counts samples or frames."
            )
        return [None if row is None else row[: options["max_length"]] for row in rows]

    def _front_end(self, clip: np.ndarray) -> np.ndarray:
        """Turn a waveform (S,) into the backbone's input, unpadded: (S,) or (F, M).

        Each window that the model will encode by itself is normalized by itself.
        """
        size = self._window_samples or max(len(clip), 1)
        windows = [self._window(clip[start : start + size]) for start in range(0, max(len(clip), 1), size)]
        return np.concatenate(windows)

    @property
    def _window_samples(self) -> int | None:
        """Samples in a window; None if windows cannot be cut before the front end, because their frames overlap."""
        if self.audio_input_name == "input_values":
            return int(self.max_window_s * SAMPLING_RATE)
        if self._is_whisper:
            hop = self.feature_extractor.hop_length
            return min(int(self.max_window_s * SAMPLING_RATE / hop) * hop, self.feature_extractor.n_samples)
        return None

    @property
    def _is_whisper(self) -> bool:
        return isinstance(self.feature_extractor, WhisperFeatureExtractor)

    def _window(self, clip: np.ndarray) -> np.ndarray:
        spectral = self.audio_input_name == "input_features"
        if spectral and len(clip) < SHORTEST_SPECTRAL_CLIP:
            clip = np.pad(clip, (0, SHORTEST_SPECTRAL_CLIP - len(clip)))
        if (frames := front_end_frames(self.feature_extractor, clip)) is not None:
            return frames
        out = self.feature_extractor(
            clip, sampling_rate=SAMPLING_RATE, padding="longest", truncation=False, return_tensors="np"
        )
        values = np.asarray(out[self.audio_input_name][0], dtype=np.float32)
        return np.ascontiguousarray(values.T if self._is_whisper else values)  # Whisper puts the bands first

    def _token_ids(self, texts: Sequence[str | None], options: dict[str, Any]) -> list[np.ndarray | None]:
        """Return the unpadded ids (T,) of each text."""
        rows: list[np.ndarray | None] = [None] * len(texts)
        present = {row: self.text_prefix + _encodable(text) for row, text in enumerate(texts) if text is not None}
        if options.get("max_length") is None:
            options["max_length"] = self.max_text_tokens

        if present:
            encoded = self.tokenizer(
                list(present.values()),
                add_special_tokens=options.get("add_special_tokens", True),
                truncation=options.get("truncation"),
                max_length=options["max_length"],
                padding=False,
            )
            for row, ids in zip(present, encoded["input_ids"], strict=True):
                rows[row] = np.asarray(ids, np.int64)
        return rows


def _refuse_unknown(options: Mapping[str, Any], allowed: frozenset[str], where: str = "") -> None:
    if unknown := sorted(set(options) - allowed):
        raise TypeError(
            f"The processor has no option {', '.join(unknown)}{where}. Allowed: {', '.join(sorted(allowed))}."
        )


def _check_options(options: Mapping[str, Any]) -> None:
    paddings, tensors = (True, False, None, "longest", "max_length", "do_not_pad"), ("pt", "np", None)
    for name, allowed in (("padding", paddings), ("return_tensors", tensors)):
        if name in options and options[name] not in allowed:
            raise ValueError(f"{name}={options[name]!r} is not allowed; it must be one of {allowed}.")
    for name in ("max_length", "pad_to_multiple_of"):
        check_whole(name, options.get(name), otherwise=", or None")


def _stacked(rows: list[np.ndarray | None], empty: np.ndarray, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Pad the rows (L, ...) of one modality on the right; return values and mask in the form of `return_tensors`.

    Args:
        rows: None for a sample without the modality, which becomes one masked step.
        empty: that step (1, ...); its value is used for padding.
        options: of a call.
    """
    lengths = [0 if row is None else len(row) for row in rows]
    filled = [empty if row is None else row for row in rows]
    padding, tensors = options.get("padding", True), options.get("return_tensors", "pt")
    longest, multiple = max(map(len, filled)), options.get("pad_to_multiple_of") or 1
    if padding == "max_length":
        longest = max(longest, options.get("max_length") or 0)
    longest = -(-longest // multiple) * multiple

    if padding in (False, None, "do_not_pad"):
        if tensors is not None and len({len(row) for row in filled}) > 1:
            raise ValueError(
                f"padding={padding!r} leaves rows of {min(map(len, filled))} to {max(map(len, filled))} steps, which "
                "do not form a tensor. Pass padding=True, or return_tensors=None for lists."
            )
        masks = [np.full(len(row), int(length > 0)) for row, length in zip(filled, lengths, strict=True)]
    else:
        masks = [(np.arange(longest) < length).astype(np.int64) for length in lengths]
        padded = np.empty((len(filled), longest, *empty.shape[1:]), empty.dtype)
        padded[:] = empty[0]
        for row, values in enumerate(filled):
            padded[row, : len(values)] = values
        filled = list(padded)

    if tensors is None:
        lists = filled if empty.dtype.kind == "f" else [row.tolist() for row in filled]
        return lists, [mask.tolist() for mask in masks]
    values, mask = np.stack(filled), np.stack(masks)
    return (values, mask) if tensors == "np" else (torch.from_numpy(values), torch.from_numpy(mask))


def _as_clips(audio: Any) -> list | None:
    if audio is None:
        return None
    many = as_many(audio)
    clips = [audio] if many is None else list(many)
    if not clips:
        raise ValueError("The list of clips is empty.")
    return clips


def _as_texts(text: Any) -> list[str | None] | None:
    if text is None:
        return None
    texts = text if isinstance(text, (list, tuple)) else as_many(text)
    if isinstance(text, str):
        texts = [text]
    if texts is None:
        raise TypeError(f"Text must be a string or a list of strings, got {type(text).__name__}: {text!r:.80}.")

    checked: list[str | None] = []
    for index, value in enumerate(texts):
        if value is None or value != value:  # NaN, the missing text of a data frame
            checked.append(None)
        elif isinstance(value, str):
            # Half of a surrogate pair, which tokenizers refuse, becomes U+FFFD.
            whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            checked.append(whole if whole.strip() else None)
        else:
            raise TypeError(f"Text must be a string; sample {index} is {type(value).__name__}: {value!r:.80}.")
    return checked


def _check_samples(clips: Sequence | None, texts: Sequence | None) -> None:
    if clips is None and texts is None:
        raise ValueError("There is neither audio nor text. Pass audio=, text=, or both.")
    if clips is not None and texts is not None and len(clips) != len(texts):
        raise ValueError(
            f"There are {len(clips)} clips and {len(texts)} texts; they must be the same samples (None where one is "
            "missing)."
        )
    for index, parts in enumerate(zip(*(samples for samples in (clips, texts) if samples is not None), strict=True)):
        if all(part is None for part in parts):
            raise ValueError(f"Sample {index} has neither audio nor text (a blank text counts as none).")


def _encodable(text: str) -> str:
    """Join the halves of surrogate pairs, which tokenizers refuse, and replace those without another half."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


BiBiERProcessor.register_for_auto_class()
make_importable(__name__)
