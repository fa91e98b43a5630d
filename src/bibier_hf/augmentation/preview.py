"""A page to listen to augmented rows: a single HTML file with players and a picture of durations."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure  # not pyplot, which would choose a back end

from ..flac import encode_flac
from ..model.audio_bibier import decode_audio
from ..sampling import sample_by_hash


def render_preview(augmented: Dataset, recorded: Dataset | None, title: str, count: int = 12, seed: int = 42) -> str:
    """Render the page.

    Args:
        augmented: rows in the common schema, some of them augmented (`source` stacked or synthetic).
        recorded: rows before augmentation, which the components of stacked rows are taken from. None if there are none
            (template utterances).
        title: title of the page.
        count: number of augmented rows to show.
        seed: seed of their choice.

    Raises:
        ValueError: no augmented rows, or components that are not among the recorded rows.
    """
    sources = augmented["source"]
    ids = augmented["id"]
    candidates = [row for row, source in enumerate(sources) if source in ("stacked", "synthetic")]
    if not candidates:
        raise ValueError("There is no stacked or synthetic row to show.")

    drawn = sample_by_hash(candidates, count, ids.__getitem__, seed)
    places = {} if recorded is None else {name: row for row, name in enumerate(recorded["id"])}

    labels = augmented.features["label"].names
    samples = []
    for row in (augmented[index] for index in drawn):
        parts = []
        for component in row.get("components") or []:
            if recorded is None or component["id"] not in places:
                raise ValueError(
                    f"{row['id']}: {component['id']} is not among the recorded rows. Give the corpus that was stacked."
                )
            part = recorded[places[component["id"]]]
            parts.append(_shown(part, labels) | {"offset_s": component["offset_s"]})
        samples.append(_shown(row, labels) | {"parts": parts})

    durations = {"after": augmented["duration_s"]}
    if recorded is not None:
        durations = {"before": recorded["duration_s"]} | durations
    counts = {source: sum(other == source for other in sources) for source in sorted(set(sources))}
    template = (resources.files("bibier_hf.augmentation") / "templates" / "preview.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(template).render(
        title=title,
        samples=samples,
        counts=counts,
        seed=seed,
        picture=_data_uri(duration_picture(durations), "image/png"),
    )


def duration_picture(durations: Mapping[str, Sequence[float | None]]) -> bytes:
    """Draw overlaid histograms of durations, as PNG.

    Args:
        durations: name -> seconds of each row; None for rows without audio, which are left out.
    """
    values = {
        name: np.asarray([second for second in seconds if second is not None], float)
        for name, seconds in durations.items()
    }
    longest = max((second.max() for second in values.values() if len(second)), default=1.0)
    edges = np.linspace(0, min(longest, 20.0), 41)

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    styles: list[dict[str, Any]] = [{"alpha": 0.5}, {"histtype": "step", "linewidth": 1.8}]
    for (name, seconds), style in zip(values.items(), styles, strict=False):
        median = f", median {np.median(seconds):.1f} s" if len(seconds) else ""
        label = f"{name}: {len(seconds)} clips{median}"
        axes.hist(np.minimum(seconds, edges[-1]), bins=edges.tolist(), label=label, **style)

    axes.set_xlabel("duration in s" + (" (longer clips in the last bar)" if longest > 20 else ""))
    axes.set_ylabel("clips")
    axes.legend()

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _shown(row: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of a row."""
    audio = None
    if row["audio"] is not None:
        audio = _data_uri(encode_flac(decode_audio(row["audio"]), row["source"]), "audio/flac")
    names = ("id", "text", "language", "speaker", "duration_s", "source")
    return {name: row[name] for name in names} | {"label": labels[row["label"]], "audio": audio}


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
