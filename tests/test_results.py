"""Numbers of docs/results.md are recomputed from the predictions that are stored beside it."""

import json
from pathlib import Path

import pytest

from bibier_hf.evaluation.transfer import matrix_table, neighbors_table, read_sheets, score_sheet

DOCS = Path(__file__).parents[1] / "docs"
FOLDERS = sorted(path.parent for path in DOCS.glob("transfer/*/transfer.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_transfer_matrix(folder: Path):
    facts = json.loads((folder / "transfer.json").read_text(encoding="utf-8"))
    scored = [score_sheet(sheet) for sheet in read_sheets(folder / "predictions.csv.gz", facts["labels"])]
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    assert matrix_table([cell for cells, _ in scored for cell in cells], facts) in page
    assert neighbors_table([pair for _, pairs in scored for pair in pairs], facts) in page
