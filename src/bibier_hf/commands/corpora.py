"""How a command line names a corpus and its splits: short forms beside `--corpora.0.name` and the like."""

from typing import Any

from ..data.corpora import CORPORA
from ..data.protocols import NUM_FOLDS, PROTOCOLS
from ..errors import ArgumentError
from ..training.sections import Section, apply_overrides, checked_section

SHORT_HELP = [
    "  --corpus: a corpus by its name, " + ", ".join(CORPORA),
    "  --data_dir: its folder or file, as it came or prepared",
    "  --protocol: how it is split, one of " + ", ".join(PROTOCOLS) + ", or several with commas",
    f"  --fold: 0 to {NUM_FOLDS - 1}, or all, for protocols with folds",
]
"""Lines of a help text."""

_SHORT = {"corpus": "name", "data_dir": "data_dir", "protocol": "protocol", "fold": "fold"}


def parse_corpus_arguments(arguments: list[str], section: type[Section], defaults: dict[str, Any]) -> Any:
    """`--key value ...` -> an instance of `section`, whose `corpora` has an entry for each corpus, protocol and fold.

    Args:
        arguments: the command line.
        section: has a field `corpora`, a list of `CorpusArguments`.
        defaults: values of its fields that the command line may override.

    Raises:
        ArgumentError: anything that cannot be followed, or no corpus.
    """
    content = dict(defaults)
    apply_overrides(content, arguments, section)
    short = {name: content.pop(key) for key, name in _SHORT.items() if key in content}
    corpora = content.get("corpora") or ([{}] if "name" in short else [])
    if not corpora:
        raise ArgumentError("Give --corpus NAME, and --data_dir PATH where it needs one. See --help.")
    if short and len(corpora) != 1:
        given = ", ".join(f"--{key}" for key, name in _SHORT.items() if name in short)
        raise ArgumentError(
            f"{given}: short for the only corpus. With several corpora give --corpora.0.{next(iter(short))} etc."
        )
    if short:
        corpora = [corpora[0] | short]
    content["corpora"] = [entry for corpus in corpora for entry in _expand(corpus)]
    return checked_section(section, content)


def _expand(corpus: Any) -> list[Any]:
    """One entry for each protocol in `a,b` and each fold of `all`"""
    if not isinstance(corpus, dict):
        return [corpus]  # refused by the check of the whole
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
