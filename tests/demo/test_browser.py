"""The page in a real browser, as a visitor uses it."""

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Page

from bibier_hf.demo.analysis import Limits
from bibier_hf.demo.app import build_app, serve
from bibier_hf.demo.examples import write_examples
from bibier_hf.demo.texts import TEXTS
from bibier_hf.palette import EMOTION_COLORS
from screenshot import BROWSERS, PATIENCE_MS, SIZE, find_browser, open_window, wait_for_recording

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason=f"no browser here ({', '.join(BROWSERS)})"),
]

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def url(pipe, tmp_path_factory):
    limits = Limits(megabytes=1)
    app = build_app(pipe, write_examples(tmp_path_factory.mktemp("examples")), limits)
    serve(app, limits, wait=False)
    yield app.local_url
    app.close()


class Visit:
    """A page, and what its browser complained of."""

    def __init__(self, page: Page, url: str):
        self.page = page
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("http://127.0.0.1", "blob:", "data:"))
                else self.foreign.append(request.url)
            ),
        )
        page.goto(url)
        page.locator(".together").wait_for()

    def upload(self, path: Path) -> None:
        self.page.get_by_label("Upload file").first.click()
        self.page.locator("input[type=file]").first.set_input_files(path)

    def press(self, language: str = "en") -> None:
        self.page.get_by_role("button", name=TEXTS[language].button, exact=True).click()

    def scores(self) -> dict[str, int]:
        """Shown percentages by shown name, once there are seven."""
        self.page.wait_for_function(
            "document.querySelectorAll('.together .confidence').length == 7", timeout=PATIENCE_MS
        )
        names = self.page.locator(".together .text").all_inner_texts()
        return dict(
            zip(
                names,
                (int(text.strip("%")) for text in self.page.locator(".together .confidence").all_inner_texts()),
                strict=True,
            )
        )

    def is_in_order(self) -> bool:
        """Nothing complained, nobody else was asked, and nothing stands out of the window."""
        assert self.complaints == []
        assert self.foreign == []
        assert self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        return True


def expected(pipe, sample: dict, language: str) -> dict[str, int]:
    return {TEXTS[language].emotions[entry["label"]]: round(100 * entry["score"]) for entry in pipe(sample)}


def agree(shown: dict[str, int], wanted: dict[str, int]) -> bool:
    assert set(shown) == set(wanted)
    return all(abs(shown[name] - wanted[name]) <= 1 for name in wanted)


def test_a_clip_a_text_and_the_other_language(url, pipe, recordings):
    with open_window() as page:
        visit = Visit(page, url)
        visit.upload(recordings["short"])
        wait_for_recording(page)
        page.get_by_label(TEXTS["en"].text).fill("What a day!")
        visit.press()
        sample = {"audio": str(recordings["short"]), "text": "What a day!"}
        assert agree(visit.scores(), expected(pipe, sample, "en"))
        page.get_by_label("Русский").click()
        page.get_by_text("Обратите внимание").wait_for()
        page.locator(".together").get_by_text(TEXTS["ru"].emotions["anger"]).first.wait_for()
        assert agree(visit.scores(), expected(pipe, sample, "ru"))
        assert page.get_by_role("button", name="Распознать").is_visible()
        assert not page.locator(".bands").is_visible()
        for title in (TEXTS["ru"].voice, TEXTS["ru"].words):  # both panels, with their three likeliest emotions
            panel = page.locator(".alone .bars", has_text=title)
            assert panel.locator(".confidence").count() == 3
            assert panel.is_visible()
        assert visit.is_in_order()


def test_what_carried_an_answer_is_shown_when_it_is_asked_for(url, pipe, recordings):
    with open_window() as page:
        visit = Visit(page, url)
        visit.upload(recordings["short"])
        wait_for_recording(page)
        page.get_by_label(TEXTS["en"].text).fill("What a day!")
        visit.press()
        visit.scores()
        page.get_by_role("button", name=TEXTS["en"].carried, exact=True).click()
        page.locator(".carried").wait_for(timeout=PATIENCE_MS)
        assert page.locator(".carried mark").all_inner_texts() == ["What", "a", "day!"]
        sample = {"audio": str(recordings["short"]), "text": "What a day!"}
        found = pipe(sample, explain=True)["explanation"]
        assert page.locator(".carried rect").count() == len(found["audio"])
        assert TEXTS["en"].emotions[found["label"]] in page.locator(".carried p").inner_text()
        page.get_by_label("Русский").click()
        page.locator(".carried p").get_by_text(TEXTS["ru"].emotions[found["label"]]).wait_for()
        assert visit.is_in_order()


def test_a_live_voice_is_answered_while_it_speaks(url):
    with open_window() as page:
        visit = Visit(page, url)
        page.get_by_role("button", name=TEXTS["en"].live).click()
        page.get_by_role("button", name="Record", exact=True).last.click()
        assert sum(visit.scores().values()) == pytest.approx(100, abs=4)
        assert visit.is_in_order()


def test_bars_have_the_colors_of_the_palette(url, recordings):
    with open_window() as page:
        visit = Visit(page, url)
        visit.upload(recordings["short"])
        wait_for_recording(page)
        visit.press()
        visit.scores()
        for label, color in EMOTION_COLORS.items():
            bar = page.locator(f'.together [data-testid="{label}-confidence-set"] .bar')
            rgb = ", ".join(str(value) for value in bytes.fromhex(color[1:]))
            assert bar.evaluate("bar => getComputedStyle(bar).backgroundColor") == f"rgb({rgb})"
        assert not page.locator(".alone").is_visible()  # no words were given: there is nothing to tell apart


def test_upload_and_microphone_are_equally_prominent(url):
    for size in (SIZE, PHONE):
        with open_window(size) as page:
            Visit(page, url)
            boxes = [page.get_by_label(label).last.bounding_box() for label in ("Upload file", "Record audio")]
            assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=2)
            assert boxes[0]["height"] == boxes[1]["height"] >= 40
            assert boxes[0]["y"] == boxes[1]["y"]


def test_an_example_keeps_the_language(url):
    with open_window(language="ru-RU") as page:
        visit = Visit(page, url)
        page.get_by_role("button", name="Распознать").wait_for()
        page.get_by_role("button", name="Сколько раз").click()
        wait_for_recording(page)
        assert page.get_by_label(TEXTS["ru"].text).input_value().startswith("Сколько раз")
        assert page.get_by_text(TEXTS["ru"].audio, exact=True).is_visible()
        assert visit.is_in_order()


def test_an_old_error_is_gone_when_an_answer_comes(url, recordings):
    with open_window() as page:
        visit = Visit(page, url)
        visit.press()
        error = page.get_by_text(TEXTS["en"].nothing_given)
        error.wait_for(timeout=PATIENCE_MS)
        visit.upload(recordings["short"])
        wait_for_recording(page)
        visit.press()
        visit.scores()
        error.wait_for(state="detached", timeout=5000)  # much sooner than it would go by itself
        assert not page.locator(".together").get_by_text("Error", exact=True).is_visible()
        assert visit.is_in_order()


def test_a_long_recording_on_a_russian_phone(url, recordings):
    with open_window(PHONE, language="ru-RU") as page:
        visit = Visit(page, url)
        page.get_by_role("button", name="Распознать").wait_for()  # the language of the browser
        visit.upload(recordings["long"])
        wait_for_recording(page)
        visit.press("ru")
        page.locator(".bands").wait_for(timeout=PATIENCE_MS)
        assert len(visit.scores()) == 7
        for part in (".together", ".bands", ".table"):  # one under the other, as wide as the phone
            box = page.locator(part).first.bounding_box()
            assert box["width"] > 300
            assert box["x"] + box["width"] <= PHONE["width"]
        bands = [band.bounding_box() for band in page.locator(".bands svg").all()]
        assert len(bands) == 7
        assert len({(band["x"], band["width"]) for band in bands}) == 1
        assert bands[0]["width"] > 120
        assert page.get_by_text("0:16").count()
        for caption, suffix in ((TEXTS["ru"].subtitles, "srt"), (TEXTS["ru"].table, "csv")):
            with page.expect_download() as waiting:
                page.get_by_text(caption).click()
            assert waiting.value.suggested_filename == f"long.{suffix}"
            assert "16" in Path(waiting.value.path()).read_text(encoding="utf-8")
        assert visit.is_in_order()


def test_a_recording_from_the_microphone(url):
    with open_window() as page:
        visit = Visit(page, url)
        page.get_by_label("Record audio").click()
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_timeout(2000)
        page.get_by_role("button", name="Stop", exact=True).first.click()
        wait_for_recording(page)
        visit.press()
        assert sum(visit.scores().values()) == pytest.approx(100, abs=4)
        assert visit.is_in_order()


def test_what_cannot_be_judged_is_said(url, recordings, tmp_path):
    with open_window() as page:
        visit = Visit(page, url)
        visit.press()
        page.get_by_text(TEXTS["en"].nothing_given).wait_for(timeout=PATIENCE_MS)
        visit.upload(recordings["silent"])
        wait_for_recording(page)
        visit.press()
        page.get_by_text(TEXTS["en"].silent).wait_for(timeout=PATIENCE_MS)
        assert page.locator(".bars .confidence").count() == 0
        assert visit.is_in_order()
    with open_window() as page:
        visit = Visit(page, url)
        visit.upload(recordings["text"])  # the player itself cannot show it and says so on the console
        page.locator(".together").wait_for()
        page.wait_for_timeout(2000)
        visit.press()
        page.get_by_text("text.wav cannot be read as audio").wait_for(timeout=PATIENCE_MS)
    large = tmp_path / "large.wav"
    large.write_bytes(recordings["short"].read_bytes() + bytes(1_500_000))
    with open_window() as page:
        visit = Visit(page, url)
        visit.upload(large)
        page.get_by_text("exceed", exact=False).first.wait_for(timeout=PATIENCE_MS)
