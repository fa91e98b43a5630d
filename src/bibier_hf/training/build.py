"""The model of a run, before training."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import set_seed

from ..data.schema import least_labels
from ..errors import ArgumentError
from ..labels import checked_labels
from ..model.configuration_bibier import EMBEDDED, MODALITIES
from ..model.modeling_bibier import BiBiERForEmotionClassification
from ..model.processing_bibier import BiBiERProcessor
from .arguments import RunArguments
from .initial import load_initial
from .lora import LoraAdapters


def build_model(
    run: RunArguments, labels: Sequence[str] | None = None, label_ranges: list[list[float]] | None = None
) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor, LoraAdapters]:
    """Build a new model (or load the one of `init_from`), its processor, and its adapters, which are none without
    LoRA.

    The weights are the same in every process and after every resume.

    Args:
        run: with backbones, model options, adapters and seed.
        labels: of the run; None: the seven emotions.
        label_ranges: lowest and highest value of each target of a regression.

    Raises:
        ArgumentError: model options are unknown or contradict each other, or a backbone cannot be used.
    """
    names = checked_labels(labels, least_labels(run.problem_type))
    of_labels = {"id2label": dict(enumerate(names)), "problem_type": run.problem_type, "label_ranges": label_ranges}
    set_seed(run.seed)
    model, processor = _new_model(run, of_labels) if run.init_from is None else load_initial(run, of_labels)

    model.config.text_context = _text_context(run)
    for prefix in run.frozen:
        parameters = [parameter for name, parameter in model.named_parameters() if name.startswith(prefix)]
        if not parameters:
            parts = sorted({".".join(name.split(".")[:4]) for name, _ in model.named_parameters()})
            raise ArgumentError(
                f"frozen: no parameter's name begins with '{prefix}'. They begin with {', '.join(parts)}."
            )
        for parameter in parameters:
            parameter.requires_grad_(False)

    return model, processor, LoraAdapters(model, run.lora)


def _text_context(run: RunArguments) -> dict[str, Any] | None:
    """The context of the texts of a run; corpora without known order, such as single sentences, have none."""
    contexts = [corpus.context.model_dump() for corpus in run.corpora if corpus.context is not None]
    if any(context != contexts[0] for context in contexts):
        raise ArgumentError(f"corpora: different contexts ({contexts}). A model reads texts with one kind of context.")
    return contexts[0] if contexts else None


def _new_model(run: RunArguments, of_labels: dict[str, Any]) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    read = run.model.get("modalities") or MODALITIES
    audio = run.audio_backbone if "audio" in read else None
    text = run.text_backbone if "text" in read else None
    revisions = {"audio_revision": run.audio_revision, "text_revision": run.text_revision}

    try:
        model = BiBiERForEmotionClassification.from_backbones(audio, text, **revisions, **of_labels, **run.model)
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    except OSError as error:
        raise ArgumentError(
            f"audio_backbone {audio!r} or text_backbone {text!r} cannot be loaded; each is a Hub id, a folder with a "
            f"config.json, or {EMBEDDED!r}: {error}"
        ) from error

    # The processor always handles both modalities; the unused one costs nothing.
    processor = BiBiERProcessor.from_backbones(
        audio or EMBEDDED,
        text or EMBEDDED,
        **revisions,
        max_text_tokens=model.config.modality_configs["text"].max_tokens,
        max_window_s=model.config.modality_configs["audio"].max_window_s,
        text_prefix=run.text_prefix,
    )
    return model, processor


def model_facts(
    model: BiBiERForEmotionClassification, backbones: Mapping[str, tuple[str, str]], trained_parameters: int
) -> dict[str, Any]:
    """Return what `results.json` says about a model.

    Args:
        model: the trained model.
        backbones: modality -> where its backbone came from, unless the configuration names it, and how it was trained.
        trained_parameters: their number.
    """
    config = model.config
    facts: dict[str, Any] = {}
    for modality, part in config.modality_configs.items():
        source, training = backbones[modality]
        facts |= {
            f"{modality}_backbone": part.backbone_id or source,
            f"{modality}_backbone_training": training,
            f"{modality}_encoder": part.encoder,
        }

    return facts | {
        "modalities": list(config.modalities),
        "fusion": config.fusion,
        "labels": config.label_names,
        "problem_type": config.problem_type,
        "parameters": model.num_parameters(),
        "trained_parameters": trained_parameters,
    }
