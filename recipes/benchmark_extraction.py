"""How much faster the feature store extracts than one clip at a time in float32, and how far its values are from those.

python recipes/benchmark_extraction.py                                   # 64 clips of 0.5 to 16 s, a wav2vec2 of 12 layers of width 1024
python recipes/benchmark_extraction.py --clips 8 --longest_s 4 --hidden_size 128 --layers 2       # a quick look

The backbone has the architecture of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim and random weights: speed does not depend
on them.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Audio, Dataset
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification, BiBiERProcessor
from bibier_hf.data.features import InputExtractor, difference, row_keys
from bibier_hf.data.prepare import encode_flac


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=64, help="number of clips")
    parser.add_argument("--longest_s", type=float, default=16.0, help="seconds of the longest clip; the shortest has 0.5")
    parser.add_argument("--hidden_size", type=int, default=1024, help="width of the backbone")
    parser.add_argument("--layers", type=int, default=12, help="its layers")
    parser.add_argument("--batch_size", type=int, default=16, help="clips of a batch")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    results = compare(options.clips, options.longest_s, options.hidden_size, options.layers, options.batch_size)
    print(json.dumps(results, indent=2))
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def compare(clips: int, longest_s: float, hidden_size: int, layers: int, batch_size: int) -> dict:
    """Seconds of each way of extracting the same clips, in one process, and the drift of its values."""
    dataset = make_clips(clips, longest_s)
    model, processor = make_model(hidden_size, layers)
    results = {
        "clips": clips,
        "seconds_of_audio": round(sum(dataset["duration_s"]), 1),
        "parameters": sum(parameter.numel() for parameter in model.audio_backbone.parameters()),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
    }
    ways = {
        "one by one, float32": {"batch_size": 1},
        "length buckets, float32": {"batch_size": batch_size},
        "length buckets, bfloat16": {"batch_size": batch_size, "compute_dtype": "bfloat16", "dtype": "bfloat16"},
    }
    exact, baseline = None, None
    for name, options in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            extractor = InputExtractor(model, processor, cache_dir=folder, **options)
            extractor.extract(make_clips(1, 1.0, seed=1))  # casts the weights, fills caches
            start, cpu_start = time.perf_counter(), time.process_time()
            extraction = extractor.extract(dataset)["audio"]
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            values = torch.cat(list(extractor.stores["audio"].rows(row_keys(dataset)["audio"]))).double()
        exact, baseline = (values, seconds) if exact is None else (exact, baseline)
        results[name] = {
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),  # of all threads: what other load on the machine does not change
            "clips_per_second": round(clips / seconds, 2),
            "times_faster": round(baseline / seconds, 2),
            "stored_bytes": extraction.size,
            "drift": difference(values, exact),
        }
    return results | {"load_after": os.getloadavg()[0]}


def make_clips(count: int, longest_s: float, seed: int = 0) -> Dataset:
    """Clips of noise and sweeps, of 0.5 to `longest_s` seconds, in random order."""
    generator = np.random.default_rng(seed)
    rows = {"audio": [], "text": [""] * count, "duration_s": generator.permutation(np.linspace(0.5, longest_s, count)).tolist()}
    for seconds in rows["duration_s"]:
        time_s = np.arange(int(16_000 * seconds)) / 16_000
        clip = 0.3 * np.sin(2 * np.pi * (generator.uniform(100, 300) + 40 * time_s) * time_s)
        clip += 0.05 * generator.standard_normal(len(time_s))
        rows["audio"].append({"bytes": encode_flac(clip.astype(np.float32)), "path": None})
    return Dataset.from_dict(rows).cast_column("audio", Audio(sampling_rate=16_000, decode=False))


def make_model(hidden_size: int, layers: int) -> tuple[BiBiERForEmotionClassification, BiBiERProcessor]:
    """A model of audio alone over the published speech backbone with random weights, and its processor."""
    torch.manual_seed(0)
    backbone = Wav2Vec2Config(
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        intermediate_size=4 * hidden_size,
        feat_extract_norm="layer",
        conv_bias=True,
        do_stable_layer_norm=True,
    )
    config = BiBiERConfig(modalities=["audio"], audio_config=backbone)
    model = BiBiERForEmotionClassification(config, build_backbones=False)
    model.attach_backbone("audio", Wav2Vec2Model(backbone))
    front_end = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    return model, BiBiERProcessor(front_end, BiBiERProcessor.from_backbones().tokenizer)


if __name__ == "__main__":
    sys.exit(main())
