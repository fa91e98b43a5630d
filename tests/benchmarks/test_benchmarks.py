"""The benchmark compares equal computations, and its command writes what it measured. No test asserts a time."""

import functools
import json
import os
from pathlib import Path

import pytest
import torch

import growth_rows
import peers_rows
import picture
import registry
import report
import rooflines
import run
import textbook
from bibier_hf.model.mamba_bibier import MambaBlock, selective_scan
from bibier_hf.model.sequence_bibier import KeptSteps
from measuring import Row, compare


def test_the_textbook_scan_computes_the_same():
    torch.manual_seed(0)
    u, dt, B, C = torch.randn(2, 9, 5), torch.rand(2, 9, 5), torch.randn(2, 9, 3), torch.randn(2, 9, 3)
    inputs = u, dt, -torch.rand(5, 3), B, C, torch.randn(5)
    torch.testing.assert_close(textbook.scan(*inputs), selective_scan(*inputs), atol=1e-5, rtol=1e-5)
    pytest.importorskip("mambapy")
    torch.testing.assert_close(textbook.scan_mambapy(*inputs), selective_scan(*inputs), atol=1e-5, rtol=1e-5)


def test_the_textbook_block_computes_the_same():
    torch.manual_seed(0)
    theirs = textbook.MambaBlock(6, 32)
    ours = MambaBlock(6, inner_size=32, dt_rank=2)
    names = {
        "s_D.0.weight": None,
        "s_D.1.weight": "dt_proj.weight",
        "s_D.1.bias": "dt_proj.bias",
        "s_B.weight": None,
        "s_C.weight": None,
    }
    state = {}
    for key, value in theirs.state_dict().items():
        name = names.get(key, key.replace("conv.", "conv1d."))
        if name is not None:
            state[name if "proj" in name and "dt" not in name else f"forward_ssm.{name}"] = value
    own = theirs.state_dict()
    state["forward_ssm.x_proj.weight"] = torch.cat([own["s_D.0.weight"], own["s_B.weight"], own["s_C.weight"]])
    ours.load_state_dict(state)
    x = torch.randn(2, 9, 6)
    torch.testing.assert_close(ours(x, torch.ones(2, 9, dtype=torch.bool)), theirs(x), atol=1e-5, rtol=1e-4)


def test_kept_steps_side_by_side_and_back():
    x, mask = torch.randn(3, 4, 2), torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]]).bool()
    steps = KeptSteps(mask)
    packed = steps.pack(x)
    assert torch.equal(packed, x[mask])
    assert torch.equal(steps.unpack(packed), x * mask[..., None])
    assert [len(part) for part in steps.split(packed)] == [2, 4, 1]
    assert torch.equal(steps.join(list(steps.split(packed))), packed)
    whole = KeptSteps(torch.ones(3, 4, dtype=torch.bool))
    assert whole.all_kept
    assert whole.pack(x) is x
    assert torch.equal(whole.join(list(whole.split(x))), x)


def test_sides_take_turns():
    turns: list[str] = []
    row = compare("a", "b", 1.0, lambda: turns.append("ours"), lambda: turns.append("theirs"))
    assert turns == ["ours", "theirs"] * (row.repeats + 1)  # one for warming up
    assert row.repeats == 25
    assert compare("a", "b", 1.0, turns.clear, turns.clear, budget_s=0.0).repeats == 1


def measured(name: str, ratio: float, goal: float | None) -> Row:
    return Row(name, "a slow way", ratio, goal, 1.0, ratio, (1.0, 1.0), (ratio, ratio), 1)


def test_table_json_markdown_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def absent():
        raise registry.Unavailable("pass --resd DIR")

    rows = {"good": lambda: measured("good", 4.0, 2.0), "bad": lambda: measured("bad", 1.0, 2.0), "absent": absent}
    rows["free"] = lambda: measured("free", 3.0, None)
    monkeypatch.setattr(run, "find_rows", lambda materials: (rows, {}))
    out = {
        option: tmp_path / "out" / name
        for option, name in (("json", "rows.json"), ("picture", "rows.png"), ("markdown", "rows.md"))
    }
    assert run.main([part for option, path in out.items() for part in (f"--{option}", str(path))]) == 0
    assert "1 of 2 goals reached; not: bad; not run: absent" in capsys.readouterr().out
    written = json.loads(out["json"].read_text())
    assert [
        (row["name"], row["ratio"], row["goal"], row["ours_s"], row["theirs_s"], row["reached"]) for row in written
    ] == [
        ("good", 4.0, 2.0, 1.0, 4.0, True),
        ("bad", 1.0, 2.0, 1.0, 1.0, False),
        ("free", 3.0, None, 1.0, 3.0, True),
    ]
    assert written[0]["run"]["threads"] == torch.get_num_threads()
    assert written[0]["run"]["instructions"].startswith(torch.backends.cpu.get_cpu_capability())
    assert out["picture"].read_bytes().startswith(b"\x89PNG")
    page = out["markdown"].read_text()
    assert "| `good` | a slow way | 4.00 | 2.00 | yes | 1.00 s | 4.00 s |  |" in page
    assert "| `bad` | a slow way | 1.00 | 2.00 | **no** |" in page
    assert "| `absent` |  |  |  | not run |  |  | pass --resd DIR |" in page
    assert "](rows.png)" in page
    # One row anew, the others as they were, with a word where they come from.
    monkeypatch.setattr(
        run, "machine_facts", lambda compiled: {**written[0]["run"], "commit": "later", "load at the end": "0"}
    )
    kept = ["--keep", "--only", "bad", *(part for option, path in out.items() for part in (f"--{option}", str(path)))]
    assert run.main(kept) == 0
    again = json.loads(out["json"].read_text())
    assert [(row["name"], row["run"]["commit"] == "later") for row in again] == [
        ("good", False),
        ("free", False),
        ("bad", True),
    ]
    page = out["markdown"].read_text()
    assert f"| 4.00 s | commit {written[0]['run']['commit']} |" in page
    assert "| `bad` | a slow way | 1.00 | 2.00 | **no** | 1.00 s | 1.00 s |  |" in page
    earlier = {
        key: value for key, value in written[0]["run"].items() if key != "instructions"
    }  # a file of an earlier release
    assert report.row_of_earlier_run(written[0] | {"run": earlier}, written[0]["run"]).note == "instructions not known"
    assert run.main(["--keep"]) == 2
    assert run.main(["--only", "no_such_row"]) == 2
    assert "no_such_row. Available: good, bad" in capsys.readouterr().err


def test_a_row_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def broken():
        raise RuntimeError("out of luck\nand more")

    rows = {"broken": broken, "good": lambda: measured("good", 4.0, 2.0)}
    monkeypatch.setattr(run, "find_rows", lambda materials: (rows, {}))
    assert run.main(["--json", str(tmp_path / "rows.json"), "--markdown", str(tmp_path / "rows.md")]) == 1
    printed = capsys.readouterr()
    assert "1 of 1 goals reached; not run: broken" in printed.out
    assert "Traceback" in printed.err
    assert [row["name"] for row in json.loads((tmp_path / "rows.json").read_text())] == ["good"]
    assert "| not run |  |  | failed: RuntimeError: out of luck |" in (tmp_path / "rows.md").read_text()


@pytest.mark.slow
def test_peers_answer_alike_in_both_ways(monkeypatch: pytest.MonkeyPatch, clip):
    pytest.importorskip("onnxruntime")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"conv_dim": (16,) * 7, "num_conv_pos_embedding_groups": 2}
    for name, (model_class, config_class) in peers_rows.PEERS.items():
        small = {name: (model_class, functools.partial(config_class, **sizes))}
        monkeypatch.setattr(peers_rows, "PEERS", small)
        model, extractor = peers_rows.peer_model(name), peers_rows.Wav2Vec2FeatureExtractor()
        samples = [clip(1.0), clip(2.7)]
        for given, (found,) in zip(samples, peers_rows.by_onnx(name)(samples), strict=True):
            inputs = extractor(given, sampling_rate=16_000, return_tensors="pt")["input_values"]
            torch.testing.assert_close(torch.from_numpy(found), model(inputs).logits.detach(), atol=1e-5, rtol=1e-4)
        answers = peers_rows.by_pipeline(name)(samples)
        assert [len(answer) for answer in answers] == [7, 7]
        assert peers_rows.operations(name, None) > 0
        monkeypatch.undo()


def test_rows_of_growth_by_hand():
    cost = growth_rows.Cost
    flat = [cost(10, 9.0, 400), cost(60, 6.0, 500), cost(300, 30.0, 500), cost(3600, 396.0, 550)]
    time, memory = growth_rows.time_row("time", flat), growth_rows.memory_row("memory", flat)
    assert (time.ratio, time.reached) == (pytest.approx(1 / 1.1), True)
    assert (memory.ratio, memory.reached, memory.against) == (
        pytest.approx(1 / 1.1),
        True,
        "peak of 300 s; 3600 s of timeline",
    )
    steep = [*flat[:3], cost(3600, 450.0, 601)]
    assert not growth_rows.time_row("time", steep).reached
    assert not growth_rows.memory_row("memory", steep).reached
    assert growth_rows.memory_row("memory", flat[:3]).against == "peak of 60 s; 300 s of timeline"


@pytest.mark.slow
def test_costs_are_those_of_each_work():
    for work in growth_rows.WORKS:
        first, second = growth_rows.costs(work, (1, 2))
        assert (first.length_s, second.length_s) == (1, 2)
        assert min(first.seconds, second.seconds) > 0
        assert min(first.peak, second.peak) > 50 * 2**20


def test_rows_are_found_by_their_modules():
    quick, full = registry.find_rows(registry.Materials())
    assert {"scan_forward", "text_encoder", "pipeline_single"} <= quick.keys()
    assert not quick.keys() & full.keys()
    with pytest.raises(registry.Unavailable, match="pass --resd DIR"):
        full["resd_end_to_end"]()
    with pytest.raises(registry.Unavailable, match="there is no folder"):
        registry.Materials(backbones=Path("nowhere")).folder("backbones", "smollm2")


@pytest.mark.slow
def test_scoring_is_many_times_as_fast(tmp_path: Path):
    """Prints the speeds of both ways in one run (no assertion on time)."""
    folder = os.environ.get("BIBIER_BACKBONES")
    if not folder or not (Path(folder) / "smollm2").is_dir():
        pytest.skip("no small language model: BIBIER_BACKBONES names no folder with smollm2")
    assert run.main(["--only", "ls_llm_score", "--backbones", folder, "--json", str(tmp_path / "speed.json")]) == 0
    (row,) = json.loads((tmp_path / "speed.json").read_text())
    assert row["ratio"] > 0


def test_every_row_that_misses_its_goal_is_explained():
    docs = Path(__file__).parents[2] / "docs"
    page, explanation = ((docs / name).read_text(encoding="utf-8") for name in ("benchmark.md", "speed.md"))
    missed = [line.split("`")[1] for line in page.splitlines() if "| **no** |" in line]
    assert [name for name in missed if f"`{name}`" not in explanation] == []
    quick, full = registry.find_rows(registry.Materials())
    table = explanation.partition("## Rows that miss their goal")[2].splitlines()
    explained = {name for line in table if line.startswith("| `") for name in line.split("|")[1].split("`")[1::2]}
    assert explained
    assert explained <= set(quick | full)


def test_bounds_of_products_and_memory():
    x = torch.ones(8, 16)
    with rooflines._BytesMoved() as moved:
        x @ x.T  # a product, and a view
        x.add_(1.0)
    assert moved.total == 2 * x.numel() * 4
    machine = rooflines.Machine({"float32": 1e9}, 1e9)
    name, seconds, note = rooflines._part("a", lambda: x @ x.T + 1, {"float32": 2 * 8 * 8 * 16}, machine)
    assert name == "a"
    assert seconds > 0
    assert note.startswith("at least 0 ms: products 0, other operators 0")


def test_the_picture_names_rows_that_exist():
    quick, full = registry.find_rows(registry.Materials())
    drawn = [name for names in picture.GROUPS.values() for name in names]
    assert set(drawn) <= set(quick | full)
    assert len(drawn) == len(set(drawn))
