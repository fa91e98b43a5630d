"""The page without a server: what is in its folder, and that it computes in a browser what the model computes here."""

import base64
import functools
import io
import json
import re
import shutil
import tarfile
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import SpaceCard

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")

from bibier_hf import BiBiERForEmotionClassification, BiBiERProcessor, shipped_checkpoint
from bibier_hf.demo import static_space
from bibier_hf.demo.static_space import PACKAGES, NpmError, page_facts, unpack, write_static_space
from bibier_hf.errors import ArgumentError
from bibier_hf.palette import EMOTION_COLORS

from ..bibier_command import bibier

PAGE = Path(static_space.__file__).with_name("page")
LABELS = list(EMOTION_COLORS)
TEXTS = (
    "I can't believe it!",
    "Не могу поверить!  Ёлки\u200b…",
    "a" * 500,
    "«Ну и ну» № 5 ½ 😀 <pad>",
    "слово " * 200,
)


def test_both_languages_say_everything_that_the_page_asks_for():
    texts = page_facts(LABELS, "tiny")["texts"]
    assert list(texts) == ["en", "ru"]
    assert texts["en"].keys() == texts["ru"].keys()
    assert [len(texts[language]["emotions"]) for language in texts] == [7, 7]

    script = (PAGE / "app.js").read_text()
    asked = set(re.findall(r'(?:say|complain)\("(\w+)"', script))
    asked |= set(re.findall(r'data-text="(\w+)"', (PAGE / "index.html").read_text()))
    asked |= {"play", "pause", "stop", "speed", "live", "loading", "ready", "live_hint", "pieces_hint", "one_hint"}
    assert asked <= texts["en"].keys()
    for name in asked:
        assert set(re.findall(r"\{\d\}", texts["en"][name])) == set(re.findall(r"\{\d\}", texts["ru"][name])), name


def test_labels_keep_their_order_names_and_colors():
    facts = page_facts(["sad", "bored"], "mine")
    assert facts["labels"] == ["sad", "bored"]
    assert facts["colors"][0] == EMOTION_COLORS["sad"]
    assert facts["texts"]["ru"]["emotions"] == ["грусть", "bored"]


def test_the_page_names_no_other_site():
    for path in PAGE.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            assert not re.search(r"(?:https?:)?//\w+\.\w+", path.read_text()), path.name
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', (PAGE / "index.html").read_text())
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "connect-src 'self';" in policy[1]


def test_only_the_pinned_archive_is_used(tmp_path: Path):
    archive, package = tmp_path / "package.tgz", replace(PACKAGES[1], files={"dist/a.mjs": "a.mjs"})
    with tarfile.open(archive, "w:gz") as contents:
        member = tarfile.TarInfo("package/dist/a.mjs")
        member.size = 2
        contents.addfile(member, io.BytesIO(b"{}"))

    with pytest.raises(NpmError, match="not the pinned sha512-LidM") as caught:
        unpack(archive, package, tmp_path)
    assert not (tmp_path / "a.mjs").exists()
    found = re.search(r"has the hash (\S+),", str(caught.value))
    assert found is not None
    unpack(archive, replace(package, integrity=found[1]), tmp_path)
    assert (tmp_path / "a.mjs").read_bytes() == b"{}"


def test_what_is_refused_in_one_line(checkpoint: Path, processor: BiBiERProcessor, tmp_path: Path, monkeypatch):
    model = BiBiERForEmotionClassification.from_pretrained(checkpoint).eval()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="something other than a page"):
        write_static_space(tmp_path / "mine", model, processor, "x")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NpmError, match="apt install npm"):
        write_static_space(tmp_path / "page", model, processor, "x")
    model.config.problem_type = "regression"
    with pytest.raises(ArgumentError, match="choose one label"):
        write_static_space(tmp_path / "page", model, processor, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    for arguments, message in (
        (("bibier-tiny", "--sdk", "static"), "goes with --space FOLDER"),
        (("bibier-tiny", "--space", tmp_path / "page", "--model_id", "a/b", "--int8"), "goes with --sdk static"),
    ):
        result = bibier("demo", *arguments)
        assert result.exit_code == 2
        assert message in result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of `bibier-tiny`."""
    source = shipped_checkpoint("bibier-tiny")
    model = BiBiERForEmotionClassification.from_pretrained(source).eval()
    target = tmp_path_factory.mktemp("static") / "page"
    try:
        return write_static_space(target, model, BiBiERProcessor.from_pretrained(source), "bibier-tiny", "owner/name")
    except NpmError as error:
        pytest.skip(str(error))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url(folder: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def visit(url: str):
    """`visit(language)` -> a page that has loaded its model; afterwards, nothing complained and nobody else was
    asked."""
    pytest.importorskip("playwright", reason="playwright is not installed")
    screenshot = pytest.importorskip("screenshot")
    if screenshot.find_browser() is None:
        pytest.skip(f"no browser here ({', '.join(screenshot.BROWSERS)})")

    complaints, windows = [], []

    def start(language: str = "en-US"):
        window = screenshot.open_window(language=language)
        windows.append(window)
        page = window.__enter__()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((url, f"blob:{url}", "data:")) else complaints.append(request.url)
            ),
        )
        page.goto(url)
        page.locator("#status", has_text=re.compile("Ready|Готово")).wait_for(timeout=60_000)
        return page

    yield start
    for window in windows:
        window.__exit__(None, None, None)
    assert complaints == []


@pytest.fixture(scope="module")
def tiny() -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    source = shipped_checkpoint("bibier-tiny")
    return BiBiERForEmotionClassification.from_pretrained(source).eval(), BiBiERProcessor.from_pretrained(source)


@torch.no_grad()
def torch_logits(tiny, samples: np.ndarray | None, text: str | None) -> np.ndarray:
    model, processor = tiny
    audio = {} if samples is None else {"audio": samples, "sampling_rate": 16_000}
    return model(**processor(**audio, **({} if text is None else {"text": text}))).logits[0].numpy()


def shown(page) -> dict[str, int]:
    names = page.locator("#bars .name").all_inner_texts()
    values = [int(value.strip(" %\u00a0")) for value in page.locator("#bars .value").all_inner_texts()]
    return dict(zip(names, values, strict=True))


@pytest.mark.slow
def test_the_folder(folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", "colors.css", "model", "page.json", "vendor", *static_space._FILES]
    )
    assert sorted(path.name for path in (folder / "model").iterdir()) == [
        "export.json",
        "model.onnx",
        "tokenizer.json",
    ]
    card = SpaceCard.load(folder / "README.md")
    assert (card.data.sdk, card.data.app_file, card.data.models) == ("static", "index.html", ["owner/name"])
    assert len(card.data.short_description) <= 60  # the Hub allows no more
    assert "AI Act" in card.text
    notice = (folder / "vendor" / "NOTICE.txt").read_text()
    assert "Copyright (c) Microsoft Corporation" in notice
    assert "Permission is hereby granted" in notice
    assert json.loads((folder / "page.json").read_text())["megabytes"] < 11
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 26e6


@pytest.mark.slow
def test_the_browser_computes_what_torch_computes(visit, tiny, clip):
    page = visit()
    run = """async ([bytes, text]) => {
        const samples = new Float32Array(Uint8Array.from(atob(bytes), letter => letter.charCodeAt(0)).buffer);
        return await bibier.logits(samples, text);
    }"""
    long = np.concatenate([clip(6.0, 3), clip(5.0, 4)])
    for samples, text in ((clip(4.0, 0), "Не могу поверить!"), (clip(0.01, 1), ""), (long, TEXTS[0])):
        answer = page.evaluate(run, [base64.b64encode(samples.tobytes()).decode(), text])
        np.testing.assert_allclose(answer["logits"][0], torch_logits(tiny, samples, text or None), atol=1e-4)
        assert answer["seconds"] < max(len(samples) / 16_000, 4)  # not even real time would be of use

    answer = page.evaluate(run, ["", TEXTS[1]])
    np.testing.assert_allclose(answer["logits"][0], torch_logits(tiny, None, TEXTS[1]), atol=1e-4)
    for text in TEXTS:
        ids = page.evaluate("async text => (await bibier.tokens(text)).ids", text)
        assert ids == tiny[1](text=text)["input_ids"][0].tolist()


@pytest.mark.slow
def test_a_file_and_words_in_both_languages(visit, tiny, recordings: dict, tmp_path: Path):
    page = visit("ru-RU")
    page.get_by_label("Слова").fill("Не могу поверить!")
    page.locator("#bars .best").wait_for()
    logits = torch.from_numpy(torch_logits(tiny, None, "Не могу поверить!"))
    scores = (logits / tiny[0].config.temperature).softmax(0)
    names = json.loads((PAGE.parent / "texts_ru.json").read_text(encoding="utf-8"))["emotions"]
    found = shown(page)
    assert [abs(found[names[label]] - 100 * score) <= 1 for label, score in zip(LABELS, scores, strict=True)] == [
        True
    ] * 7

    page.get_by_role("button", name="English").click()
    assert set(shown(page)) == set(LABELS)
    page.locator("#file").set_input_files(recordings["long"])
    page.locator("#status", has_text="on this device").wait_for(timeout=60_000)
    assert page.get_by_role("alert").inner_text().startswith("The words were left out")
    assert page.locator("#over-time").is_visible()
    assert sum(shown(page).values()) == pytest.approx(100, abs=4)
    page.get_by_role("button", name="Remove the recording").click()
    page.locator("#over-time").wait_for(state="hidden")

    (tmp_path / "notes.txt").write_text("not audio")
    page.locator("#file").set_input_files(tmp_path / "notes.txt")
    page.get_by_role("alert").get_by_text("cannot read the file").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_the_microphone_live(visit):
    page = visit()
    page.get_by_role("button", name="Microphone").click()
    page.locator("#status", has_text="The last").wait_for(timeout=60_000)
    assert page.locator("#clock").inner_text().startswith("0:")
    page.get_by_role("button", name="Stop").click()
    page.locator("#status", has_text="s of audio").wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Play").is_visible()


@pytest.mark.slow
def test_the_browser_refuses_other_sites(url: str):
    pytest.importorskip("playwright", reason="playwright is not installed")
    screenshot = pytest.importorskip("screenshot")
    if screenshot.find_browser() is None:
        pytest.skip("no browser here")
    with screenshot.open_window() as page:
        page.goto(url)
        refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => '', error => String(error))")
        reasons = page.evaluate(
            """() => new Promise(resolve => {
                addEventListener('securitypolicyviolation', event => resolve(event.effectiveDirective));
                fetch('http://127.0.0.1:9/').catch(() => null);
            })"""
        )
        assert "TypeError" in refused
        assert reasons == "connect-src"
