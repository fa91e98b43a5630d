"""What a training shows: a title, a table with one line for each evaluation, named bars in a terminal, and nothing
else."""

import sys

import pytest
from transformers import TrainerState

from bibier_hf.training.progress import Progress, table_head, table_line

METRICS = {"eval_loss": 1.5, "eval_uar": 0.25, "eval_wf1": 0.5, "eval_score": 0.375}


def test_a_log_file_gets_a_title_and_one_line_for_each_evaluation(make_trainer, capsys):
    make_trainer(num_train_epochs=3, learning_rate=1e-12).train()
    shown = capsys.readouterr()
    title, head, *lines = shown.out.splitlines()
    assert title == "training: up to 3 epochs (9 steps)"
    assert head == table_head()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert [line.endswith("*") for line in lines] == [True, False, False]  # equal scores: the first one is the best
    assert all(len(line.removesuffix(" *")) == len(head) for line in lines)
    assert "Writing model shards" not in shown.err
    assert "\r" not in shown.out


def test_a_resumed_training_says_where_it_goes_on(make_trainer, capsys):
    make_trainer(num_train_epochs=1).train()
    capsys.readouterr()
    make_trainer(num_train_epochs=2).train(resume_from_checkpoint=True)
    title, _, line = capsys.readouterr().out.splitlines()
    assert title == "training: up to 2 epochs (6 steps), resumed after epoch 1"
    assert line.split()[0] == "2"


def test_bars_are_named_in_a_terminal(make_trainer, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    trainer = make_trainer(num_train_epochs=2, disable_tqdm=False)
    trainer.train()
    trainer.predict_logits(trainer.eval_dataset, "test")
    shown = capsys.readouterr().err
    for name in ("epoch 1/2:", "epoch 2/2:", "dev:", "test:"):
        assert name in shown


@pytest.mark.parametrize(("best", "mark"), [(None, True), (0.3, True), (0.375, False), (0.4, False)])
def test_a_better_score_is_marked(best, mark):
    state = TrainerState(epoch=2.0, best_metric=best)
    cells = table_line(state, 2.25, METRICS).split()
    assert cells == ["2", "2.2500", "1.5000", "25.00", "50.00", "37.50", *["*"] * mark]
    assert table_line(state, None, METRICS).split()[1] == "-"  # evaluated before the first step


def test_only_the_main_process_prints(capsys):
    progress, state = Progress("training"), TrainerState(is_world_process_zero=False, max_steps=1, num_train_epochs=1)
    progress.on_train_begin(None, state, None)
    progress.on_evaluate(None, state, None, metrics=METRICS)
    assert capsys.readouterr().out == ""
