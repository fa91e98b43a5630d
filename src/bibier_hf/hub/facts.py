"""Facts for cards: licenses of corpora and backbones, what follows from them, and the law (`facts.yaml`)."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ..data.corpora import CORPORA

UNKNOWN_LICENSE = "unknown"
"""License of a row of a prepared corpus if nobody has stated it."""


@dataclass(frozen=True)
class Licensing:
    """The licenses of everything that went into a model or data set.

    Attributes:
        sources: source -> license, by its Hub name or as its rows state it; None if unknown.
    """

    sources: dict[str, str | None]

    @property
    def non_commercial(self) -> list[str]:
        """The sources that forbid commercial use."""
        table = facts()["licenses"]
        return [
            name for name, license in self.sources.items() if license in table and not table[license]["commercial"]
        ]

    @property
    def metadata(self) -> dict[str, Any]:
        """`license` for the metadata of a card; {} if one is unknown.

        If no single license includes the others, it is `other`, with a `license_name`.
        """
        table = facts()["licenses"]
        licenses = set(self.sources.values())
        if None in licenses:
            return {}

        for license in licenses & table.keys():
            if licenses <= {license, *table[license].get("includes", ())}:
                return {"license": license}

        return {
            "license": "other",
            "license_name": "-and-".join(sorted(str(name).lower().replace(" ", "-") for name in licenses)),
        }

    def describe(self, source: str) -> str | None:
        """Return the license of a source as text, or None if unknown."""
        license = self.sources[source]
        known = facts()["licenses"].get(license)
        if known is None:
            return license

        return known["title"] if known["commercial"] else f"{known['title']}, not for commercial use"


@cache
def facts() -> dict[str, Any]:
    """Return the content of `facts.yaml`."""
    return yaml.safe_load((files("bibier_hf.hub") / "facts.yaml").read_text(encoding="utf-8"))


def hub_dataset(corpus: str) -> str | None:
    """Return the id on the Hub of a corpus's own data set, or None if it has none."""
    known = CORPORA.get(corpus)
    return known.hub_id or None if known else None


def template(name: str) -> str:
    """Return the Jinja template of a card: `model_card`, `dataset_card` or `labels_card`."""
    return (files("bibier_hf.hub") / "templates" / f"{name}.md").read_text(encoding="utf-8")


def license_id(text: str) -> str | None:
    """Return the Hub name of a license as people write it.

    The text itself if the Hub has no name for it, and None if it says that the license is unknown.
    """
    if text == UNKNOWN_LICENSE:
        return None

    name = text.strip().lower().replace(" ", "-")

    return name if name in facts()["licenses"] else text


def model_licensing(data: dict[str, dict[str, Any]], backbones: dict[str, str]) -> Licensing:
    """Return the licensing of a model.

    Args:
        data: corpus -> facts with `license`, the licenses of its rows.
        backbones: modality -> Hub id or name of a local folder, without backbones trained from scratch.
    """
    sources = {}

    for corpus, entry in data.items():
        for text in entry["license"]:
            several = len(entry["license"]) > 1
            sources[f"corpus {corpus}" + (f", rows of {text}" if several else "")] = license_id(text)

    for modality, name in backbones.items():
        sources[f"{modality} backbone {name}"] = facts()["backbones"].get(name)

    return Licensing(sources)
