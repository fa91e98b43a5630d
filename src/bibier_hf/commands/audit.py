"""`bibier audit`."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from pydantic import Field

from ..data.corpora import get_corpus
from ..data.mixture import CorpusArguments, protocol_facts
from ..data.prepare import INFO_FILE
from ..evaluation.audit.duplicates import AUDIO_SIMILARITY, TEXT_SIMILARITY, HeardClip, hear_corpus
from ..evaluation.audit.report import audit_splits, label_sources, merge_folds, render_page, shared_rows
from ..evaluation.plots import plot_leakage
from ..evaluation.report import environment
from ..files import write_json, write_text, writes
from .corpora import CorpusOptions

EXIT_LEAK = 1


class AuditArguments(CorpusOptions):
    """Find out what a model could score on test without hearing the emotion.

    Examples:
      bibier audit --corpus resd --data_dir PATH/TO/resd --protocol official,dialogue_grouped --fold all
      bibier audit --corpus csv --data_dir PATH/TO/table.csv --options.language en --fail_on_leak

    Reports speakers and dialogues that cross the split, how well the speaker alone predicts the label (from names and
    from the voice), duplicate texts and recordings, and labels in ids and file names. Several protocols and all folds:
    --protocol A,B --fold all.
    Exit code 1: --fail_on_leak was given, and a split leaks.
    """

    output_dir: str = Field("outputs/audit", description="folder of audit.json, audit.md and the pictures")
    text_similarity: float = Field(
        TEXT_SIMILARITY, gt=0, le=1, description="lowest similarity of texts that count as near duplicates"
    )
    audio_similarity: float = Field(
        AUDIO_SIMILARITY, gt=0, le=1, description="lowest similarity of clips that count as one recording"
    )
    seed: int = Field(0, ge=0, description="seed of the p-values")
    fail_on_leak: bool = Field(False, description=f"exit with {EXIT_LEAK} if a split leaks")


@writes(lambda arguments: arguments.output_dir, left="What was there before is whole.")
def run_audit(arguments: AuditArguments) -> dict[str, Any]:
    """Audit every split; write `audit.json`, `audit.md` and `audit_<corpus>.png`.

    Returns:
        the content of the JSON file: `verdict` (`leaks`: whether any split does), `audits` (results of `audit_splits`,
        each with `title`, `corpus` and `protocol`), `seconds` and the environment.

    Raises:
        FileNotFoundError, CorpusError, ProtocolError, AudioError: data that are missing or invalid.
    """
    start = time.perf_counter()
    audits: list[dict[str, Any]] = []
    known: dict[str, tuple[DatasetDict, dict[str, HeardClip], dict[str, str]]] = {}
    for corpus in arguments.corpora:
        key = repr((corpus.name, corpus.data_dir, sorted(corpus.options.items())))
        if key not in known:
            known[key] = _read(corpus, arguments.labels)
        rows, heard, file_names = known[key]

        splits = corpus.split(rows)
        name, protocol = splits["train"]["corpus"][0], protocol_facts(corpus, splits)
        title = f"{name}, {corpus.protocol}" + (f", fold {corpus.fold}" if "fold" in protocol else "")
        thresholds = arguments.text_similarity, arguments.audio_similarity
        audit = audit_splits(splits, heard, file_names, *thresholds, arguments.seed)
        audits.append({"title": title, "corpus": name, "protocol": protocol} | audit)
    results = {
        "verdict": {"leaks": any(audit["verdict"]["leaks"] for audit in audits)},
        "audits": audits,
        "seconds": round(time.perf_counter() - start, 1),
        **environment(),
    }

    folder = Path(arguments.output_dir)
    write_json(folder / "audit.json", results)
    write_text(folder / "audit.md", render_page(audits))
    for name in dict.fromkeys(audit["corpus"] for audit in audits):
        _draw([audit for audit in audits if audit["corpus"] == name], folder / f"audit_{name}.png", name)
    return results


def _read(
    corpus: CorpusArguments, labels: Sequence[str] | None
) -> tuple[DatasetDict, dict[str, HeardClip], dict[str, str]]:
    """The corpus, how its recordings sound, and their file names (none for a prepared corpus)."""
    rows = corpus.load(labels)
    names = {}
    if corpus.data_dir is not None and not (Path(corpus.data_dir) / INFO_FILE).is_file():
        known = get_corpus(corpus.name)
        options = known.complete_options(corpus.reader_options(labels))
        clips = known.read_clips(Path(corpus.data_dir), options) if known.has_source else []
        names = {clip.id: clip.audio.stem for clip in clips if isinstance(clip.audio, Path)}
    return rows, hear_corpus(rows), names


def _draw(audits: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    series = {}
    for protocol in dict.fromkeys(audit["protocol"]["name"] for audit in audits):
        folds = [audit for audit in audits if audit["protocol"]["name"] == protocol]
        name = protocol + (f" (mean and range of {len(folds)} folds)" if len(folds) > 1 else "")
        sources = [label_sources(fold) for fold in folds]
        uars = [{what: told["uar"] if told else None for what, told in each.items()} for each in sources]
        series[name] = (merge_folds(uars), merge_folds([shared_rows(fold) for fold in folds]))

    chances = [entry["chance_uar"] for audit in audits for entry in label_sources(audit).values() if entry]
    plot_leakage(series, min(chances, default=0.0), path, f"Leakage audit of {title}")


def audit(arguments: AuditArguments) -> int:
    """Audit, and print the page; returns the exit code."""
    results = run_audit(arguments)
    print((Path(arguments.output_dir) / "audit.md").read_text(encoding="utf-8"))
    print(f"The audit is in {arguments.output_dir} ({results['seconds']:.0f} s).")
    return EXIT_LEAK if arguments.fail_on_leak and results["verdict"]["leaks"] else 0
