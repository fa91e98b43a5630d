"""The pages in `docs/` agree with the code: their tables are compared with it, their examples are run, their links
lead somewhere."""

import re
from pathlib import Path

import pytest
import torch

from bibier_cli import COMMANDS
from bibier_hf import EMOTIONS, BiBiERConfig, BiBiERForEmotionClassification
from bibier_hf.data.corpora import CORPORA
from bibier_hf.data.protocols import PROTOCOLS
from bibier_hf.hub.facts import facts
from bibier_hf.labels import LABEL_ALIASES
from bibier_hf.model import configuration_bibier, fusion_bibier
from bibier_hf.model.configuration_bibier import ORIGINAL_BEHAVIOR
from bibier_hf.training.arguments import RunArguments

from .conftest import features_of, merged
from .workspace import own_corpus_code

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
LINKED = ("README.md", "CONTRIBUTING.md", "AGENTS.md", "SECURITY.md", "model_cards/README.md")


def page(name: str) -> str:
    return (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the table whose first column is headed so, cell by cell."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def anchors(path: Path) -> set[str]:
    """What the headings of a page can be linked as."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def code(name: str) -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```", page(name), re.DOTALL | re.MULTILINE)
    return block


def test_the_order_of_the_labels():
    (row,) = [line for line in page("labels").splitlines() if line.startswith("| label |")]
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == list(EMOTIONS)


def test_the_names_of_labels():
    rows = table(page("labels"), "name in a corpus")
    assert {name.strip("`"): label for name, label in rows} == dict(LABEL_ALIASES)


def test_the_protocols():
    assert [row[0].strip("`") for row in table(page("protocols"), "protocol")] == list(PROTOCOLS)


def test_the_defects_and_the_options_that_bring_them_back():
    rows = table(page("differences"), "name")
    told = {name.strip("`"): what for name, what in rows}
    assert list(told.items()) == list(ORIGINAL_BEHAVIOR.items())
    assert all(len(row[1].split()) > 3 for row in rows)


def test_the_options_of_training_that_bring_a_defect_back():
    named = {
        word for row in table(page("differences"), "published") for word in re.findall(r"`([\w.]+)(?:: \w+)?`", row[2])
    }
    assert named
    for key in named - {"augmentation.sds", "augmentation.sds.text"}:
        assert key.split(".")[0] in RunArguments.model_fields


def test_the_licenses_of_the_corpora():
    told = {row[0].strip("`"): row[1] for row in table(page("licenses"), "corpus")}
    assert told == {name: corpus.license for name, corpus in CORPORA.items()}


def test_the_licenses_of_the_backbones():
    titles = {name: entry["title"] for name, entry in facts()["licenses"].items()}
    stated = {backbone: titles[name] for backbone, name in facts()["backbones"].items()}
    assert {row[0].strip("`"): row[1] for row in table(page("licenses"), "backbone")} == stated


def test_every_run_file_has_its_license():
    told = {row[0].strip("`") for row in table(page("licenses"), "run file")}
    assert told == {path.name for path in (REPOSITORY / "recipes").glob("*.yaml")}


def test_every_command_is_listed():
    listed = {name for name in re.findall(r"^\| `([^`]+)` \|", page("commands"), re.MULTILINE)}
    scripts = {f"recipes/{path.name}" for path in (REPOSITORY / "recipes").glob("*.py")}
    assert listed == scripts | {f"bibier {command}" for command in COMMANDS}


@pytest.mark.parametrize(
    "path", [*(REPOSITORY / name for name in LINKED), *PAGES], ids=lambda path: path.relative_to(REPOSITORY).as_posix()
)
def test_links_lead_somewhere(path: Path):
    for target, anchor in re.findall(r"\]\(([^)#]+)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
            if anchor:
                assert anchor in anchors(path.parent / target), f"{path.name} links to {target}#{anchor}"


def test_every_page_is_in_the_readme():
    listed = set(re.findall(r"\]\(docs/(\w+\.md)", (REPOSITORY / "README.md").read_text(encoding="utf-8")))
    assert {path.name for path in PAGES} - listed == {"README.md", "reference.md"}


def test_the_readme_is_one_page():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_the_quickstart_output_of_the_readme_has_the_form_of_a_report():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    output = text.partition("<!-- quickstart output -->")[2].partition("<!-- end of quickstart output -->")[0]
    (scores,) = table(output, "corpus")
    assert scores[0] == "quickstart"
    assert all(0 <= float(score) <= 100 for score in scores[1:])

    answers = re.findall(r"^    (.+)$", output, re.MULTILINE)
    assert len(answers) == 2
    for answer in answers:
        pairs = [pair.split() for pair in answer.split(", ")]
        assert {label for label, _ in pairs} <= set(EMOTIONS)
        values = [float(value) for _, value in pairs]
        assert values == sorted(values, reverse=True)
        assert sum(values) <= 1


def test_every_page_is_in_the_index():
    assert {path.name for path in PAGES} == {"README.md", *re.findall(r"\]\((\w+\.md)\)", page("README"))}


def test_the_corpus_of_the_page_is_that_of_the_code():
    """tests/data/test_own_corpus.py loads, prepares and registers it."""
    assert " ".join(code("adding_a_corpus").split()) == " ".join(own_corpus_code().split())


def test_the_fusion_of_the_page_can_be_added(monkeypatch, tiny_options):
    """The page's steps: a class in fusion_bibier.py, its entry in FUSIONS, its name in configuration_bibier.py."""
    names = dict(vars(fusion_bibier))
    exec(compile(code("adding_a_fusion"), "adding_a_fusion.md", "exec"), names)
    monkeypatch.setitem(fusion_bibier.FUSIONS, "meanproduct", names["MeanProductFusion"])
    monkeypatch.setattr(configuration_bibier, "FUSIONS", (*configuration_bibier.FUSIONS, "meanproduct"))
    torch.manual_seed(0)
    config = BiBiERConfig(fusion="meanproduct", **merged(tiny_options, features_of(audio=6, text=8)))
    model = BiBiERForEmotionClassification(config).eval()
    audio, text = torch.randn(2, 9, 6), torch.randn(2, 7, 8)
    masks = {
        "audio_features_mask": torch.arange(9) < torch.tensor([[9], [4]]),
        "text_features_mask": torch.arange(7) < torch.tensor([[2], [7]]),
    }
    together = model(audio_features=audio, text_features=text, **masks, labels=torch.tensor([1, 5]))
    together.loss.backward()
    assert all(parameter.grad is not None for parameter in model.bibier.fusion.parameters())
    alone = model(audio_features=audio[1:, :4], text_features=text[1:])
    torch.testing.assert_close(alone.logits, together.logits[1:], atol=1e-4, rtol=1e-4)
