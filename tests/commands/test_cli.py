"""The command `bibier` as a shell or a script meets it: answers, streams, exit codes, help, completion."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bibier_hf import EMOTIONS

from ..bibier_command import bibier

COMMAND = [sys.executable, "-m", "bibier_cli"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory, clip) -> Path:
    """A folder with two clips, one of them deeper inside, a broken one and a note."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "more").mkdir()
    soundfile.write(folder / "a.wav", clip(0.5, 1), 16_000)
    soundfile.write(folder / "more" / "b.FLAC", clip(0.4, 2), 16_000, format="FLAC")
    (folder / "broken.wav").write_bytes(b"RIFF, but no audio")
    (folder / "notes.txt").write_text("not audio")
    return folder


@pytest.fixture(scope="module")
def environment(repository) -> dict[str, str]:
    path = os.pathsep.join([str(repository / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_an_answer_for_reading(checkpoint, clips):
    done = bibier("predict", checkpoint, clips / "a.wav", "--text", "I can't believe it!", "--top_k", 2)
    assert done.exit_code == 0, done.output
    name, emotions = done.stdout.splitlines()
    assert name == f'{clips / "a.wav"}: "I can\'t believe it!"'
    assert [entry.split()[0] in EMOTIONS for entry in emotions.split(", ")] == [True, True]


def test_unsure_where_no_score_is_high_enough(checkpoint):
    sure, unsure = (
        json_lines(bibier("predict", checkpoint, "--text", "So.", "--json", "--threshold", threshold).stdout)
        for threshold in (0, 1)
    )
    assert [entry["label"] for entry in unsure[0]["emotions"]] == [
        "unsure",
        *(entry["label"] for entry in sure[0]["emotions"]),
    ]
    _, shown = bibier("predict", checkpoint, "--text", "So.", "--top_k", 2, "--threshold", 1).stdout.splitlines()
    assert [entry.split()[0] for entry in shown.split(", ")] == [
        "unsure",
        *(entry["label"] for entry in sure[0]["emotions"][:2]),
    ]


def test_a_text_alone(checkpoint):
    done = bibier("predict", checkpoint, "--text", "Не могу поверить!", "--json")
    assert done.exit_code == 0, done.output
    (answer,) = json_lines(done.stdout)
    assert (answer["input"], answer["text"]) == ("text", "Не могу поверить!")
    assert sorted(entry["label"] for entry in answer["emotions"]) == sorted(EMOTIONS)
    assert sum(entry["score"] for entry in answer["emotions"]) == pytest.approx(1, abs=1e-5)


def test_a_folder_and_a_file_in_which_some_inputs_fail(checkpoint, clips):
    """What fails is told in its place and costs the others nothing; stdout holds JSON alone."""
    done = bibier("predict", checkpoint, clips, clips / "nowhere.wav", "--json", "--top_k", 1)
    assert done.exit_code == 1
    answers = json_lines(done.stdout)
    assert [Path(answer["input"]).name for answer in answers] == ["a.wav", "broken.wav", "b.FLAC", "nowhere.wav"]
    assert [sorted(answer) for answer in answers] == [
        ["emotions", "input", "text", "unsure", "unsure_reason", "unsure_score"],
        ["error", "input"],
    ] * 2
    assert "cannot be read as audio" in answers[1]["error"]
    assert "1 files left out that are not audio" in done.stderr
    assert "2 of 4 inputs failed." in done.stderr
    alone = json_lines(bibier("predict", checkpoint, clips / "more" / "b.FLAC", "--json", "--top_k", 1).stdout)
    assert alone == answers[2:3]


def test_one_recording_that_no_decoder_reads_costs_the_others_nothing(checkpoint, tmp_path, clip):
    sound = clip(0.5, 1)
    (tmp_path / "a.raw").write_bytes(np.int16(32767 * sound).tobytes())
    soundfile.write(tmp_path / "gsm.wav", sound, 16_000, subtype="GSM610")
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 16_000)
    soundfile.write(tmp_path / "two.wav", np.stack([sound, -sound], axis=1), 16_000)
    files = [tmp_path / name for name in ("a.raw", "gsm.wav", "silent.wav", "two.wav")]
    for options in ([], ["--chunk_length_s", 0.4]):
        done = bibier("predict", checkpoint, *files, "--json", *options)
        assert done.exit_code == 1
        raw, gsm, silent, two = json_lines(done.stdout)
        assert "a.raw cannot be read as audio" in raw["error"]
        assert gsm["emotions"]
        assert (silent["unsure"], silent["unsure_reason"]) == (True, "too quiet")
        assert "--channel 0" in two["error"]
    done = bibier("predict", checkpoint, tmp_path / "two.wav", "--json", "--channel", 1)
    assert done.exit_code == 0, done.output


def test_paths_from_stdin(checkpoint, clips):
    done = bibier("predict", checkpoint, "-", stdin=f"{clips / 'a.wav'}\n\nnowhere.wav\n")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == str(clips / "a.wav")
    assert "error: nowhere.wav: No audio file" in done.stderr
    assert bibier("predict", checkpoint, "-", stdin="\n").exit_code == 2


def test_an_answer_that_should_not_be_trusted_says_why(checkpoint, tmp_path, clip):
    soundfile.write(tmp_path / "blink.wav", clip(0.1), 16_000)
    done = bibier("predict", checkpoint, tmp_path / "blink.wav")
    assert "(unsure: too short)" in done.stdout
    (answer,) = json_lines(bibier("predict", checkpoint, tmp_path / "blink.wav", "--json").stdout)
    assert (answer["unsure"], answer["unsure_reason"], answer["unsure_score"]) == (True, "too short", 1.0)

    talk = tmp_path / "talk.wav"
    soundfile.write(talk, np.concatenate([clip(2.0), 1e-3 * clip(4.0)]), 16_000)
    done = bibier("predict", checkpoint, talk, "--chunk_length_s", 2, "--output", tmp_path / "talk.csv")
    assert done.stdout.count("(unsure: too quiet)") == 3
    with open(tmp_path / "talk.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["unsure"], row["unsure_reason"]) for row in rows] == [("False", "")] + [("True", "too quiet")] * 2


def test_a_long_recording(checkpoint, tmp_path, clip):
    soundfile.write(tmp_path / "talk.wav", clip(5.0, 3), 16_000)
    arguments = ["predict", checkpoint, tmp_path / "talk.wav", "--chunk_length_s", 2, "--hop_length_s", 1.5]
    done = bibier(*arguments, "--json", "--output", tmp_path / "talk.csv")
    assert done.exit_code == 0, done.output
    (answer,) = json_lines(done.stdout)
    assert sorted(answer) == ["chunks", "emotions", "input", "text", "unsure", "unsure_reason", "unsure_score"]
    assert [chunk["timestamp"] for chunk in answer["chunks"]] == [[0.0, 2.0], [1.5, 3.5], [3.0, 5.0]]
    with open(tmp_path / "talk.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["p_anger"]) for row in rows] == [
        entry["score"] for chunk in answer["chunks"] for entry in chunk["emotions"] if entry["label"] == "anger"
    ]
    done = bibier(*arguments, "--output", tmp_path / "talk.srt")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[2].split()[:4] == ["0.00", "-", "2.00", "s"]
    assert "00:00:01,500 --> 00:00:03,000" in (tmp_path / "talk.srt").read_text()


def test_a_conversation(checkpoint, tmp_path, clip):
    soundfile.write(tmp_path / "talk.wav", clip(3.0, 3), 16_000)
    (tmp_path / "talk.srt").write_text(
        "1\n00:00:00,000 --> 00:00:01,000\nAnna: Yes. No!\n\n2\n00:00:00,500 --> 00:00:02,000\nБен: Well\n",
        encoding="utf-8",
    )
    talk = ["predict", checkpoint, tmp_path / "talk.wav", "--segments", tmp_path / "talk.srt"]
    files = ["--output", tmp_path / "talk.vtt", "--summary", tmp_path / "minutes.csv"]
    done = bibier(*talk, *files, "--granularity", "sentence", "--json", "--explain")
    assert done.exit_code == 0, done.output
    (answer,) = json_lines(done.stdout)
    assert [(chunk["speaker"], chunk["text"]) for chunk in answer["chunks"]] == [
        ("Anna", "Yes."),
        ("Бен", "Well"),
        ("Anna", "No!"),
    ]
    assert [part["text"] for part in answer["chunks"][1]["explanation"]["words"]] == ["Well"]
    assert [(part["speaker"], part["turns"]) for part in answer["speakers"]] == [("Anna", 2), ("Бен", 1)]
    assert "<v Бен>" in (tmp_path / "talk.vtt").read_text(encoding="utf-8")
    with open(tmp_path / "minutes.csv", encoding="utf-8", newline="") as file:
        assert [row["speaker"] for row in csv.DictReader(file)] == ["Anna", "Бен"]

    shown = bibier(*talk).stdout
    assert "Бен: " in shown
    assert "Anna, 1 turn, 1.0 s: " in shown
    (tmp_path / "late.csv").write_text("start,end\n1,9\n")
    late = bibier(*talk[:3], "--segments", tmp_path / "late.csv")
    assert late.exit_code == 1
    assert "but the recording ends at 3.000 s" in late.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav", "--segments", "nowhere.rttm"], "nowhere.rttm cannot be read"),
        (["a.wav", "--granularity", "word"], "granularity: word needs words with their times"),
        (["a.wav", "--granularity", "turn"], "turn needs speakers"),
        (["a.wav", "--transcript", "said.srt"], "transcript: needs a timeline"),
        (["a.wav", "--chunk_length_s", "4", "--summary", "minutes.csv"], "summary: needs speakers"),
        ([], "Nothing to do: give audio files, a folder, - (paths on stdin), --text or --demo."),
        (["EMPTY"], "holds no audio files (.3gp, "),
        (["a.wav", "--top_k", "0"], "top_k: Input should be greater than or equal to 1, got 0"),
        (["a.wav", "--topk", "1"], "topk: unknown key. Did you mean top_k?"),
        (["a.wav", "--threshold", "2"], "threshold: Input should be less than or equal to 1, got 2"),
        (["a.wav", "--top_k"], "top_k: needs a value"),
        (["a.wav", "-x"], "Cannot read '-x'"),
        (["a.wav", "--output", "talk.srt"], "give --chunk_length_s"),
        (["a.wav", "--merge"], "merge without chunks"),
        (["a.wav", "--chunk_length_s", "4", "--output", "talk.doc"], "must end in one of .json, .csv"),
        (["a.wav", "b.wav", "--chunk_length_s", "4", "--output", "talk.srt"], "the timeline of one recording"),
        (["a.wav", "--chunk_length_s", "2", "--hop_length_s", "3"], "would leave gaps"),
        (
            ["a.wav", "--chunk_length_s", "2", "--text", "Hello"],
            "a text without timestamps cannot be aligned with windows",
        ),
        (["a.wav", "--asr_language", "ru"], "such as --asr openai/whisper-base"),
        (["a.wav", "--asr", "nowhere/at-all"], "not a speech recognition model"),
    ],
)
def test_mistakes_in_the_command_line(checkpoint, tmp_path, arguments, message):
    done = bibier("predict", checkpoint, *[tmp_path if argument == "EMPTY" else argument for argument in arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["predict", "evaluate", "describe"])
def test_a_checkpoint_that_is_not_there(command, tmp_path):
    arguments = {"predict": ["--text", "Hello"], "evaluate": ["--corpus", "quickstart"], "describe": []}[command]
    done = bibier(command, tmp_path / "nowhere", *arguments)
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert done.stdout == ""


def test_evaluating(checkpoint, tmp_path, clip):
    lines = ["audio,text,label,split,language"]
    for index, label in enumerate(EMOTIONS):
        for split in ("train", "dev", "test"):
            soundfile.write(tmp_path / f"{split}{index}.wav", clip(0.3, index), 16_000)
            lines.append(f"{split}{index}.wav,words {split},{label},{split},en")
    (tmp_path / "few.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = [
        checkpoint,
        "--corpus",
        "csv",
        "--data_dir",
        tmp_path / "few.csv",
        "--output_dir",
        tmp_path / "report",
    ]
    done = bibier("evaluate", *arguments, "--feature_cache.enabled", "false", "--json")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert results == json.loads((tmp_path / "report" / "evaluation_test.json").read_text())
    assert results["metrics"]["test"]["few"]["samples"] == 7
    done = bibier("evaluate", *arguments, "--feature_cache.enabled", "false", "--split", "dev")
    assert "| few |" in done.stdout
    assert "| corpus | anger |" in done.stdout
    done = bibier("evaluate", *arguments, "--splitt", "dev")
    assert done.exit_code == 2
    assert "splitt: unknown key. Did you mean split?" in done.stderr


def test_calibrating_a_checkpoint(checkpoint, tmp_path, clip):
    """The checkpoint then answers with the temperature that suits the split best, and nothing else about it
    changes."""
    own = tmp_path / "model"
    shutil.copytree(checkpoint, own)
    rows = [f",{label} {split},{label},{split},en" for label in EMOTIONS for split in ("train", "dev", "test")]
    lines = ["audio,text,label,split,language", *rows]
    (tmp_path / "few.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = [
        own,
        "--corpus",
        "csv",
        "--data_dir",
        tmp_path / "few.csv",
        "--feature_cache.enabled",
        "false",
        "--calibrate",
        "true",
    ]
    done = bibier("evaluate", *arguments, "--split", "dev")
    assert done.exit_code == 0, done.output
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (checkpoint, own))
    assert after["temperature"] != before["temperature"]
    assert after | {"temperature": 0} == before | {"temperature": 0}
    assert f"temperature {after['temperature']:.3f}, fitted on dev and kept in {own}" in done.stdout
    report = json.loads((own / "evaluation-few" / "evaluation_dev.json").read_text())
    assert report["metrics"]["dev"]["few"]["nll"] < report["calibration"]["uncalibrated"]["dev"]["few"]["nll"]
    for refused, said in (
        ([*arguments, "--split", "test"], "Give --split dev"),
        (["owner/name", *arguments[1:], "--split", "dev"], "not a folder"),
    ):
        done = bibier("evaluate", *refused)
        assert done.exit_code == 2
        assert said in done.stderr


def test_help_shows_examples():
    for command in ("predict", "evaluate", "describe"):
        done = bibier(command, "--help")
        assert done.exit_code == 0
        examples = [line.strip() for line in done.stdout.splitlines() if f"bibier {command} " in line]
        assert len(examples) > 2  # with the usage
    assert "130 interrupted" in bibier("predict", "--help").stdout


def test_help_shows_defaults_and_where_other_options_are():
    assert "--strengths [{audio: 0.003, text: 0.01}]: C" in bibier("transfer", "--help").stdout
    assert "Options:\n  --KEY: any option of `bibier train`, for every trial\n" in bibier("search", "--help").stdout


HELP_ALONE = """
import sys
from bibier_cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, sorted({"torch", "transformers", "bibier_hf"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["augment", "--help"], 0), (["--version"], 0), ([], 2), (["push"], 2), (["nothing"], 2)],
)
def test_help_and_mistakes_come_without_pytorch(arguments, code, environment):
    done = subprocess.run(
        [sys.executable, "-c", HELP_ALONE, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{code} []"


def test_completion_in_bash(environment, tmp_path):
    """The script completes commands, the second word of groups, and options."""
    script = bibier("completion", "bash").stdout
    code = (
        script
        + """
        complete -p bibier
        complete_words() { COMP_WORDS=(bibier "$@"); COMP_CWORD=$#; _bibier; echo "${COMPREPLY[@]}"; }
        complete_words pre
        complete_words label rec
        complete_words predict outputs/resd --chu
        complete_words push dataset data/resd --fo
    """
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    registered, *words = done.stdout.splitlines()
    assert registered.endswith("-F _bibier bibier")
    assert words == ["predict prepare", "recognize", "--chunk_length_s", "--force_audio"]
    assert "-l chunk_length_s" in bibier("completion", "fish").stdout
    assert "bashcompinit" in bibier("completion", "zsh").stdout


def test_ctrl_c_keeps_what_is_answered(checkpoint, clips, environment, takes_ctrl_c):
    process = subprocess.Popen(
        [*COMMAND, "predict", str(checkpoint), "-", "--json"],
        env=environment,
        preexec_fn=takes_ctrl_c,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        process.stdin.write(f"{clips / 'a.wav'}\n")
        process.stdin.flush()
        answer = process.stdout.readline()  # told before the next path is there
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert json.loads(answer)["input"] == str(clips / "a.wav")
    assert rest == ""
    assert "Interrupted." in errors
    assert "Traceback" not in errors


def test_an_evaluation_of_something_else_is_not_written_over(checkpoint, tmp_path):
    """Another corpus gets a folder of its own; where a folder is named, what it holds must be of the same rows."""
    own = tmp_path / "model"
    shutil.copytree(checkpoint, own)
    rows = [f",{label} {split},{label},{split},en" for label in EMOTIONS for split in ("train", "dev", "test")]
    for name in ("few", "other"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["audio,text,label,split,language", *rows]) + "\n")
    options = ["--corpus", "csv", "--feature_cache.enabled", "false"]
    for name in ("few", "other"):
        done = bibier("evaluate", own, *options, "--data_dir", tmp_path / f"{name}.csv")
        assert done.exit_code == 0, done.output
        report = json.loads((own / f"evaluation-{name}" / "evaluation_test.json").read_text())
        assert list(report["protocol"]) == [name]
    before = (own / "evaluation-few" / "evaluation_test.json").read_bytes()
    refused = ["--data_dir", tmp_path / "other.csv", "--output_dir", own / "evaluation-few"]
    done = bibier("evaluate", own, *options, *refused)
    assert done.exit_code == 2
    assert "about other corpora" in done.stderr
    assert (own / "evaluation-few" / "evaluation_test.json").read_bytes() == before
    (own / "results.json").write_text("{}")
    done = bibier("evaluate", own, *options, "--data_dir", tmp_path / "few.csv", "--output_dir", own)
    assert done.exit_code == 2
    assert "holds the results of a run" in done.stderr
