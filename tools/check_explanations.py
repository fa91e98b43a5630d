"""Measure whether the parts that explanations name really carry the answers.

    python tools/check_explanations.py CHECKPOINT --corpus resd --data_dir PATH/TO/resd --clips 60 --fold 0

For each clip of the test set, this leaves out the fifth of the words and quarter-seconds that the explanation names,
all at once, and then the same number of random ones (ten draws). Prints in how many clips leaving out the named parts
lowers the probability of the best label more than leaving out random ones does on average, with a 95% Wilson interval,
and how well the effects add up.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, concatenate_datasets
from scipy.stats import binomtest

from bibier_hf.commands.checkpoint import load_pipeline
from bibier_hf.data.corpora import load_corpus
from bibier_hf.model.audio_bibier import SAMPLING_RATE, decode_audio
from bibier_hf.model.explaining_bibier import cut_stretches, remove

DRAWS = 10


def main() -> None:
    """Explain clips of a test set and print the comparison with random deletion."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of a trained model")
    parser.add_argument("--corpus", default="quickstart", help="key of a corpus, or its Python file")
    parser.add_argument("--data_dir", help="folder of the corpus")
    parser.add_argument("--clips", type=int, default=100, help="clips of the test set, drawn at random")
    parser.add_argument("--fold", type=int, help="use this fold of the corpus instead of its test split")
    parser.add_argument("--without_text", action="store_true", help="use only the recordings")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--backbone_dir", help="folder with copies of backbones that the checkpoint only names")
    arguments = parser.parse_args()

    pipe = load_pipeline(arguments.checkpoint, arguments.backbone_dir)
    generator = np.random.default_rng(arguments.seed)
    rows = test_rows(arguments.corpus, arguments.data_dir, arguments.fold)
    drawn = generator.permutation(len(rows))[: arguments.clips]
    named, random, summed = [], [], []

    for number, place in enumerate(sorted(drawn.tolist()), 1):
        row = rows[place]
        audio, text = decode_audio(row["audio"]), None if arguments.without_text else row["text"] or None
        found = pipe(as_input({"audio": audio, "text": text}), explain=True)["explanation"]
        words, stretches = (text or "").split(), cut_stretches(len(audio))
        counts = [len(found["carried_by"][name]) for name in ("words", "audio")]
        answers = pipe(
            [
                as_input(remove(audio, words, stretches, *draw(generator, counts, (words, stretches))))
                for _ in range(DRAWS)
            ],
            batch_size=DRAWS,
        )
        scores = [entry["score"] for answer in answers for entry in answer if entry["label"] == found["label"]]

        named.append(found["additivity"]["joint"])
        summed.append(found["additivity"]["sum"])
        random.append(found["score"] - np.mean(scores))
        if number % 10 == 0:
            print(f"{number} clips: {np.mean(np.array(named) > np.array(random)):.1%}", flush=True)

    wins = int(np.sum(np.array(named) > np.array(random)))
    interval = binomtest(wins, len(named)).proportion_ci(method="wilson")
    print(
        f"The named fifth lowers the probability more than a random fifth in {wins} of {len(named)} clips: "
        f"{wins / len(named):.1%} (95 % interval {interval.low:.1%} to {interval.high:.1%})."
    )
    print(
        f"Mean loss of probability: {np.mean(named):.3f} without the named, {np.mean(random):.3f} without random ones."
    )
    print(f"Sum of the effects: {np.mean(summed):.3f} on average, correlation {np.corrcoef(summed, named)[0, 1]:.2f}.")


def test_rows(corpus: str, data_dir: str | None, fold: int | None) -> Dataset:
    """Return the rows to explain: the test split, or a fold of all splits."""
    splits = load_corpus(corpus, data_dir)
    if fold is None:
        return splits["test"]
    rows = concatenate_datasets(list(splits.values()))
    return rows.select([place for place, value in enumerate(rows["fold"]) if value == fold])


def draw(generator: np.random.Generator, counts: Sequence[int], kinds: Sequence[Sequence]) -> list[list[int]]:
    """Draw `counts` random places among the parts of each kind."""
    return [
        generator.choice(len(parts), count, replace=False).tolist() for parts, count in zip(kinds, counts, strict=True)
    ]


def as_input(clip: dict) -> dict:
    """Return a decoded clip in the form that the pipeline takes."""
    audio = clip["audio"]
    return {**clip, "audio": None if audio is None else {"array": audio, "sampling_rate": SAMPLING_RATE}}


if __name__ == "__main__":
    main()
