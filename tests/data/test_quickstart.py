import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bibier_hf.augmentation.tts import SynthesisError
from bibier_hf.augmentation.tug import ComponentError
from bibier_hf.data.corpora import get_corpus, load_corpus
from bibier_hf.data.corpora.quickstart import NEUTRAL_SENTENCES, VARIANTS, demo_clips, read_quickstart
from bibier_hf.data.protocols import apply_protocol
from bibier_hf.data.tables import CorpusError
from bibier_hf.model.audio_bibier import decode_audio
from bibier_hf.model.labels_bibier import EMOTIONS

SMALL = {"train_per_class": 2, "dev_per_class": 1, "test_per_class": 1}


@pytest.mark.parametrize("seed", [42, 1, 2])
def test_the_plan_is_balanced_and_its_splits_share_no_text_and_no_voice(seed):
    clips = read_quickstart(seed=seed)
    counts = Counter((clip.split, clip.language, clip.label) for clip in clips)
    sizes = {"train": 72, "dev": 12, "test": 20}
    assert counts == {
        (split, language, emotion): sizes[split]
        for split in sizes
        for language in ("en", "ru")
        for emotion in EMOTIONS
    }
    for kind in ("text", "speaker"):
        values = [{getattr(clip, kind) for clip in clips if clip.split == split} for split in sizes]
        assert not values[0] & values[1] | values[0] & values[2] | values[1] & values[2]
    assert len({clip.id for clip in clips}) == len(clips)
    assert {(clip.source, clip.license) for clip in clips} == {("synthetic", "MIT")}


def test_the_size_of_a_split_changes_no_other_clip():
    def clips(**options):
        return {clip.id: (clip.split, clip.where) for clip in read_quickstart(**options)}

    sizes = {"train_per_class": 9, "dev_per_class": 3, "test_per_class": 5}
    before = clips(**sizes)

    for name, size in sizes.items():
        after = clips(**{**sizes, name: 4 * size})
        assert before.items() <= after.items()
        assert {split for identifier, (split, _) in after.items() if identifier not in before} == {
            name.removesuffix("_per_class")
        }


def test_variants_are_disjoint():
    variants = [variant for names in VARIANTS.values() for variant in names]
    assert len(set(variants)) == len(variants)


def test_no_voice_prefers_an_emotion():
    counts = Counter(
        (clip.speaker, clip.label) for clip in read_quickstart() if clip.split == "train" and clip.language == "en"
    )
    assert set(counts.values()) == {3}


def test_a_share_of_the_words_is_neutral():
    clips = [clip for clip in read_quickstart() if clip.split == "train" and clip.language == "ru"]
    beginnings = tuple(NEUTRAL_SENTENCES["ru"][0].split("/"))
    neutral = Counter(clip.label for clip in clips if clip.text.startswith(beginnings))
    assert neutral == dict.fromkeys(EMOTIONS, 22)
    # the same words occur with several emotions: only the voice tells
    texts: dict[str, set[str]] = {}
    for clip in clips:
        texts.setdefault(clip.text, set()).add(clip.label)
    assert max(len(labels) for labels in texts.values()) > 1


def test_texts_are_what_is_heard():
    assert not any("(" in clip.text for clip in read_quickstart())


def test_the_seed_decides():
    assert [clip.text for clip in read_quickstart(seed=1)] == [clip.text for clip in read_quickstart(seed=1)]
    assert [clip.text for clip in read_quickstart(seed=1)] != [clip.text for clip in read_quickstart(seed=2)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"neutral_share": 1.5}, CorpusError, "between 0 and 1"),
        ({"test_per_class": 0}, CorpusError, "at least 1"),
        ({"train_per_class": 2000, "neutral_share": 1.0}, CorpusError, "Lower neutral_share"),
        ({"train_per_class": 10**9}, ComponentError, "are possible"),
    ],
)
def test_what_cannot_be_made_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        read_quickstart(**options)


def test_a_small_one_is_spoken_loaded_and_arranged(tmp_path):
    corpus = load_corpus("quickstart", **SMALL)
    assert corpus.num_rows == {"train": 28, "dev": 14, "test": 14}
    for row in corpus["test"]:
        samples = decode_audio(row["audio"])
        assert 0.4 < len(samples) / 16_000 < 15
        assert len(samples) / 16_000 == pytest.approx(row["duration_s"], abs=1e-3)
        assert np.abs(samples).max() > 0.02
        letters = {character for character in row["text"].lower() if character.isalpha()}
        assert (row["language"] == "ru") == (max(letters) > "z")
    assert apply_protocol(corpus).num_rows == corpus.num_rows
    # built into a folder of choice, and not a second time
    built = load_corpus("quickstart", tmp_path / "data" / "quickstart", **SMALL)
    stamp = (tmp_path / "data" / "quickstart" / "corpus.json").stat().st_mtime_ns
    assert built["train"].to_dict() == corpus["train"].to_dict()
    load_corpus("quickstart", tmp_path / "data" / "quickstart", **SMALL)
    assert (tmp_path / "data" / "quickstart" / "corpus.json").stat().st_mtime_ns == stamp
    clips = demo_clips(tmp_path / "data" / "quickstart", **SMALL)
    assert {language: row["language"] for language, row in clips.items()} == {"en": "en", "ru": "ru"}
    assert all(row["id"] in corpus["test"]["id"] and row["text"] and row["audio"]["bytes"] for row in clips.values())

    # the first ones whose words express an emotion, whatever a model answers
    neutral = EMOTIONS.index("neutral")
    for language, row in clips.items():
        beginnings = tuple(NEUTRAL_SENTENCES[language][0].split("/"))
        clear = [
            (other["id"], other["text"])
            for other in corpus["test"]
            if other["language"] == language and other["label"] != neutral and not other["text"].startswith(beginnings)
        ]
        assert (row["id"], row["text"]) == clear[0]


def test_a_failing_voice_is_an_error_and_never_silence(tmp_path, monkeypatch):
    def fails(self, text, **options):
        raise SynthesisError("no voice today")

    monkeypatch.setattr("bibier_hf.augmentation.tts.EspeakTextToSpeech.synthesize", fails)
    with pytest.raises(SynthesisError, match="no voice today"):
        get_corpus("quickstart").prepare(None, tmp_path / "out", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_other_processes_and_hash_seeds_give_the_same_bytes(tmp_path, repository: Path):
    """The quickstart corpus and the splits of a table, made in two processes."""
    table = tmp_path / "t.csv"
    table.write_text(
        "text,label,language\n" + "".join(f"Фраза {n},{EMOTIONS[n % 7]},ru\n" for n in range(70)), encoding="utf-8"
    )
    script = repository / "dataset_scripts"
    code = (
        "import sys; sys.path.insert(0, {src!r})\n"
        "from bibier_hf.data.corpora import get_corpus\n"
        "get_corpus('quickstart').prepare(None, {out!r} + '/quickstart', **{options!r})\n"
        "get_corpus('csv').prepare({table!r}, {out!r} + '/csv')\n"
    )
    runs = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        source = code.format(src=str(script.parent / "src"), out=str(out), options=SMALL, table=str(table))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        runs.append(
            subprocess.Popen([sys.executable, "-c", source], env=environment, stderr=subprocess.PIPE, text=True)
        )
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
    for name in ("quickstart", "csv"):
        infos = [
            json.loads((tmp_path / seed / name / "corpus.json").read_text(encoding="utf-8")) for seed in ("1", "2")
        ]
        assert infos[0] == infos[1]  # with the hashes of the Parquet files
