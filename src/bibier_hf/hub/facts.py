"""Facts that cards state beside the numbers: licences of corpora and backbones, what follows from them, and the law
(`facts.yaml`)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ..data.corpora import CORPORA

UNKNOWN_LICENSE = "unknown"
"""What a row of a prepared corpus says when nobody has said what its licence is."""


@dataclass(frozen=True)
class Licensing:
    """The licences of everything that went into something.

    Attributes:
        sources: what it was made from -> licence as the Hub names it or as its rows say it; None where it is not
            known.
    """

    sources: dict[str, str | None]

    @property
    def known(self) -> bool:
        """Is every licence known?"""
        return None not in self.sources.values()

    @property
    def non_commercial(self) -> list[str]:
        """The sources that forbid commercial use."""
        table = facts()["licenses"]
        return [
            name for name, license in self.sources.items() if license in table and not table[license]["commercial"]
        ]

    @property
    def metadata(self) -> dict[str, Any]:
        """`license` of a card's metadata; with `license_name` where no single licence includes the others; {} if one
        is not known."""
        if not self.known:
            return {}

        table = facts()["licenses"]
        licenses = set(self.sources.values())

        for license in licenses & table.keys():
            if licenses <= {license, *table[license].get("includes", ())}:
                return {"license": license}

        return {
            "license": "other",
            "license_name": "-and-".join(sorted(str(name).lower().replace(" ", "-") for name in licenses)),
        }

    def describe(self, source: str) -> str | None:
        """The licence of a source for reading; None where it is not known."""
        license = self.sources[source]
        known = facts()["licenses"].get(license)
        if known is None:
            return license

        return known["title"] if known["commercial"] else f"{known['title']}, not for commercial use"


@cache
def facts() -> dict[str, Any]:
    """The content of `facts.yaml`."""
    return yaml.safe_load((files("bibier_hf.hub") / "facts.yaml").read_text(encoding="utf-8"))


def hub_dataset(corpus: str) -> str | None:
    """Return the id on the Hub of a corpus's own data set, or None if it has none."""
    known = CORPORA.get(corpus)
    return known.hub_id or None if known else None


def template(name: str) -> str:
    """The Jinja template of a card: `model_card`, `dataset_card` or `labels_card`."""
    return (files("bibier_hf.hub") / "templates" / f"{name}.md").read_text(encoding="utf-8")


def license_id(text: str) -> str | None:
    """A licence as rows or people write it -> the Hub's name of it; the text itself if it has none, None if it says
    that it is unknown."""
    if text == UNKNOWN_LICENSE:
        return None

    name = text.strip().lower().replace(" ", "-")

    return name if name in facts()["licenses"] else text


def corpus_licensing(licenses: Iterable[str]) -> Licensing:
    """Of the rows of a corpus, by the licences that they carry."""
    return Licensing({f"rows ({text})": license_id(text) for text in licenses})


def model_licensing(data: dict[str, dict[str, Any]], backbones: dict[str, str]) -> Licensing:
    """Of a model.

    Args:
        data: corpus -> facts with `license`, the licences that its rows carry.
        backbones: modality -> Hub id, or the name of a local folder; without those that were trained from scratch.
    """
    sources = {}

    for corpus, entry in data.items():
        for text in entry["license"]:
            several = len(entry["license"]) > 1
            sources[f"corpus {corpus}" + (f", rows of {text}" if several else "")] = license_id(text)

    for modality, name in backbones.items():
        sources[f"{modality} backbone {name}"] = facts()["backbones"].get(name)

    return Licensing(sources)
