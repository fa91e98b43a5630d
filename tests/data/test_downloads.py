from functools import partial

import httpx2
import pytest

from bibier_hf.data import downloads
from bibier_hf.data.corpora import load_corpus
from bibier_hf.data.downloads import download_all
from bibier_hf.data.tables import CorpusError

SITE = "https://example.org"


@pytest.fixture
def site(tmp_path, write_tone, monkeypatch):
    """A web server; the list of what it was asked for."""
    write_tone(tmp_path / "tone.wav")
    content = (tmp_path / "tone.wav").read_bytes()
    asked = []

    def answer(request):
        asked.append(request.url.path)
        if request.url.path == "/down.wav":
            raise httpx2.ConnectError("no route")
        if request.url.path == "/moved.wav":
            return httpx2.Response(302, headers={"location": "http://example.org/a.wav"})
        return httpx2.Response(200 if request.url.path.endswith("a.wav") else 404, content=content)

    monkeypatch.setattr(downloads, "get_session", partial(httpx2.Client, transport=httpx2.MockTransport(answer)))

    return asked


def test_a_file_is_downloaded_once(tmp_path, site):
    for _ in range(2):
        files = download_all([f"{SITE}/a.wav", f"{SITE}/a.wav", f"{SITE}/other/a.wav"], tmp_path / "files")
        assert [path.suffix for path in files.values()] == [".wav", ".wav"]
        assert {path.read_bytes() for path in files.values()} == {(tmp_path / "tone.wav").read_bytes()}
    assert sorted(site) == ["/a.wav", "/other/a.wav"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/a.wav", "only https is allowed"),
        (f"{SITE}/moved.wav", "it leads to http://example.org/a.wav"),
        (f"{SITE}/none.wav", "cannot be downloaded (HTTPStatusError: Client error '404 Not Found'"),
        (f"{SITE}/down.wav", "cannot be downloaded (ConnectError: no route)"),
    ],
)
def test_what_cannot_be_downloaded_is_said(tmp_path, site, url, message):
    said = download_all([url], tmp_path)[url]
    assert said.startswith(url)
    assert message in said
    assert "\n" not in said


def test_size_and_time_have_limits(tmp_path, site, monkeypatch):
    url = f"{SITE}/a.wav"
    monkeypatch.setattr(downloads, "LIMIT_BYTES", 1000)
    assert "has more than 0 MiB" in download_all([url], tmp_path / "files")[url]
    monkeypatch.setattr(downloads, "LIMIT_BYTES", 10**6)
    monkeypatch.setattr(downloads, "LIMIT_S", -1.0)
    assert "takes more than -1 seconds" in download_all([url], tmp_path / "files")[url]
    assert not (tmp_path / "files").exists()


def test_a_table_of_urls(tmp_path, site, write_csv):
    rows = [
        {"audio": f"{SITE}/{split}/a.wav", "label": "sad", "language": "en", "split": split}
        for split in ("train", "dev", "test")
    ]
    write_csv(tmp_path / "t.csv", rows)
    corpus = load_corpus("csv", tmp_path / "t.csv")
    assert corpus["train"][0]["duration_s"] == pytest.approx(0.2)
    ids = [splits[0]["id"] for splits in corpus.values()]
    (tmp_path / "elsewhere").mkdir()
    write_csv(tmp_path / "elsewhere" / "t.csv", rows)
    assert [splits[0]["id"] for splits in load_corpus("csv", tmp_path / "elsewhere" / "t.csv").values()] == ids
    assert len(site) == 3
    rows[1]["audio"] = f"{SITE}/none.wav"
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(
        CorpusError, match=r"\(1\):\n  t\.csv line 3: https://example\.org/none\.wav cannot be downloaded"
    ):
        load_corpus("csv", tmp_path / "t.csv")
