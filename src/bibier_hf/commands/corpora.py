"""How a command names the corpora that it reads."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import Field
from transformers.utils import logging

from ..commandline import Section, field_type, section_help
from ..data.mixture import LABELS_HELP, CorpusArguments
from ..data.protocols import NUM_FOLDS
from ..errors import ArgumentError
from ..model.configuration_bibier import BiBiERConfig

logger = logging.get_logger(__name__)

SHORT = {"corpus": "name"} | {name: name for name in CorpusArguments.model_fields if name != "name"}
"""Key -> field of `corpora.0` that it is short for."""


_OF_TRAINING = ("  --label_table", "  --augmentation")


class CorpusOptions(Section):
    """Corpora, with short keys for the fields of a single one."""

    corpora: list[CorpusArguments] = Field(
        min_length=1, description="corpora and their splits; --corpus NAME is short for a single one"
    )

    labels: list[str] | None = Field(None, description=LABELS_HELP)

    @classmethod
    def key_type(cls, key: str) -> Any:
        first, _, rest = key.partition(".")
        if first in cls.model_fields or first not in SHORT:
            return field_type(key, cls)
        return field_type(".".join(filter(None, [SHORT[first], rest])), CorpusArguments)

    @classmethod
    def complete(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Move short keys into `corpora.0`; make an entry of each protocol in `a,b` and of each fold in `all`."""
        given = [key for key in content if key in SHORT and key not in cls.model_fields]
        short = {SHORT[key]: content.pop(key) for key in given}
        corpora = content.get("corpora") or []

        if short:
            if len(corpora) > 1:
                keys = ", ".join(f"--{key}" for key in given)
                raise ArgumentError(
                    f"{keys}: short for the only corpus. With several corpora give --corpora.0.{SHORT[given[0]]} etc."
                )
            corpora = [(corpora[0] if corpora else {}) | short]

        if corpora:
            content["corpora"] = [entry for corpus in corpora for entry in _expand(corpus)]
        return content

    @classmethod
    def option_help(cls) -> list[str]:
        of_corpus = [line.replace("--name:", "--corpus:") for line in section_help(CorpusArguments)]
        lines = [line for line in of_corpus if not line.startswith(_OF_TRAINING)]
        if not any(getattr(limit, "max_length", None) == 1 for limit in cls.model_fields["corpora"].metadata):
            lines += [
                f"  --protocol A,B --fold all: several protocols, and all {NUM_FOLDS} folds",
                "  --corpora.0.name, --corpora.1.name, ...: several corpora, with the same keys",
            ]
        return lines + [line for line in section_help(cls) if not line.startswith("  --corpora.")]


def given_labels(arguments: CorpusOptions, config: BiBiERConfig) -> tuple[str, ...]:
    """Return the labels of a checkpoint, which are those of the corpora that it reads.

    Raises:
        ArgumentError: others are given.
    """
    names = tuple(config.label_names)
    if arguments.labels is not None and tuple(arguments.labels) != names:
        raise ArgumentError(f"labels: the checkpoint has {', '.join(names)}. Leave it out.")
    return names


def warn_of_context(corpora: Sequence[CorpusArguments], names: Iterable[str], config: BiBiERConfig) -> None:
    """Warn if the texts of a corpus have another context than those that a checkpoint was trained on.

    Args:
        corpora: that it reads.
        names: of these corpora.
        config: of the checkpoint.
    """
    for corpus, name in zip(corpora, names, strict=True):
        context = corpus.context and corpus.context.model_dump()
        if "text" in config.modalities and context != config.text_context:
            logger.warning(
                f"The texts of {name} have the context {context}; the checkpoint was trained with {config.text_context}."
            )


def _expand(corpus: Any) -> list[Any]:
    """One entry for each protocol in `a,b` and each fold of `all`."""
    if not isinstance(corpus, dict):
        return [corpus]  # the validation refuses it

    entries = []
    protocols = str(corpus.get("protocol", "official")).split(",")
    for protocol in protocols:
        entry = corpus | {"protocol": protocol}
        if protocol == "official" and (len(protocols) > 1 or corpus.get("fold") == "all"):
            entry.pop("fold", None)  # the fold is meant for the others
        if entry.get("fold") == "all":
            entries += [entry | {"fold": fold} for fold in range(NUM_FOLDS)]
        else:
            entries.append(entry)
    return entries
