"""A whole labelling and a whole recognition over HTTP, with every fault that a server and a model have shown."""

import json

import pytest

from bibier_cli import run
from bibier_hf import EMOTIONS
from bibier_hf.data.label_tables import read_label_table
from bibier_hf.data.tables import read_table

NAMES = "good 429 500 timeout malformed dead six eight prose negative whole assistant".split()
FAILED = {"dead", "six", "eight", "prose", "negative"}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("BIBIER_CACHE", str(tmp_path / "cache"))
    table = tmp_path / "corpus.csv"
    lines = ["id,text,label,split,language"]
    lines += [f"row-{name},a case of {name},{EMOTIONS[number % 7]},train,en" for number, name in enumerate(NAMES)]
    lines += [f"test-{number},words {number},{EMOTIONS[number % 7]},test,ru" for number in range(7)]
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture
def respond(fake):
    """What the server answers to the text at the end of a prompt."""
    good = fake.GOOD
    texts = {
        "six": good.rpartition(",")[0],
        "eight": good + ", 0.00000",
        "prose": "The assistant thinks: happy.",
        "negative": good.replace("0.05000", "-0.05000", 1),
        "whole": "1, 0, 0, 0, 0, 0, 0",
    }
    passing = {
        "429": fake.Reply({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "0"}),
        "500": fake.Reply({"error": {"message": "oops"}}, status=500),
        "timeout": fake.text_reply(delay_s=0.7),
        "malformed": fake.Reply(b'{"choices": [{"mess'),
    }

    def answer(path, body, seen):
        name = body["messages"][-1]["content"].rpartition(" ")[2]
        if name == "dead":
            return fake.Reply({}, status=503)
        if name in passing and seen == 0:
            return passing[name]
        return fake.text_reply(texts.get(name, good))

    return answer


def options(server):
    values = {"timeout_s": 0.5, "base_delay_s": 0.02, "max_attempts": 5, "concurrency": 4}
    given = [f"--backend_options.{key}={value}" for key, value in values.items()]
    return ["--backend", "openai", "--model", "tiny", "--base_url", server.url, *given]


def test_every_row_ends_as_ok_or_failed_exactly_once(serve, respond, corpus, tmp_path, capsys):
    server = serve(respond)
    output = tmp_path / "labels.csv"
    command = ["--corpus", "csv", "--data_dir", str(corpus), "--output", str(output), *options(server)]
    assert run("label corpus", command) == 0
    rows = {row.text("text").rpartition(" ")[2]: row for row in read_table(output)}
    assert sorted(rows) == sorted(NAMES)
    assert len(read_table(output)) == len(NAMES)
    assert {name for name, row in rows.items() if row.text("status") == "failed"} == FAILED
    assert {row.text("status") for row in rows.values()} == {"ok", "failed"}
    table = read_label_table(output)
    assert int(table.labeled.sum()) == len(NAMES) - len(FAILED)
    assert "assistant thinks" in rows["prose"].text("raw")
    assert rows["dead"].text("raw") == ""
    assert "503" in rows["dead"].text("reason")
    assert json.loads(rows["good"].text("sampling"))["parser"] == "strict"
    said = capsys.readouterr().out
    assert f"{len(FAILED)} failed" in said
    assert "1 failed, such as row-dead: 5 attempts: 503" in said
    assert "2 failed, such as row-six: 6 parts between commas instead of 7" in said  # six and eight

    asked = len(server.requests)
    assert run("label corpus", command) == 0  # again: the row that never got an answer is all that is asked
    again = [text.rpartition(" ")[2] for text in server.questions()[asked:]]
    assert set(again) == {"dead"}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"body": {"error": {"message": "too long"}}, "status": 400}, "400: too long"),
        ({"body": {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}}, "the answer is empty"),
    ],
)
def test_a_run_in_which_every_row_failed_says_so(fake, serve, corpus, tmp_path, capsys, reply, reason):
    server = serve(lambda *_: fake.Reply(**reply))
    common = ["--corpus", "csv", "--data_dir", str(corpus), *options(server)]
    output = tmp_path / "labels.csv"
    assert run("label corpus", [*common, "--output", str(output)]) == 2
    said = capsys.readouterr()
    assert f"{len(NAMES)} failed, such as row-good: {reason}" in said.out
    assert said.err.strip().splitlines()[-1].startswith(f"error: All {len(NAMES)} rows failed")
    assert {row.text("status") for row in read_table(output)} == {"failed"}
    folder = tmp_path / "recognition"
    assert run("label recognize", [*common, "--way", "generate", "--output_dir", str(folder)]) == 2
    assert "error: All 7 rows failed" in capsys.readouterr().err
    assert not list(folder.glob("*.json"))


def test_a_recognizer_is_scored_like_any_model(serve, respond, corpus, tmp_path, capsys):
    server = serve(respond)
    folder = tmp_path / "recognition"
    command = [
        "--corpus",
        "csv",
        "--data_dir",
        str(corpus),
        "--way",
        "generate",
        "--output_dir",
        str(folder),
    ]
    assert run("label recognize", [*command, *options(server)]) == 0
    results = json.loads((folder / "recognition_test.json").read_text())
    (metrics,) = results["metrics"]["test"].values()
    assert metrics["uar"] == pytest.approx(1 / 7)  # "happy" to all
    assert results["failed"] == 0
    assert {path.suffix for path in folder.iterdir()} >= {".json", ".parquet", ".png"}
    assert not any(
        emotion in text.rpartition("\n")[2] for text in server.questions() for emotion in EMOTIONS
    )  # no label is shown
    assert run("label recognize", [*command, *options(server), "--prompt", "distribution_gold"]) == 2
    assert "states the gold label" in capsys.readouterr().err
