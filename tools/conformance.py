"""Run transformers' own common tests on the models, the configuration, and the processor.

python tools/conformance.py [--folder DIR] [NAME ...]

The tests (`ModelTesterMixin`, `ConfigTester`, `ProcessorTesterMixin`) are part of the source distribution of
transformers. pip downloads that of the installed version (11 MB); `--folder` keeps it for the next run. A NAME is part
of the name of a case or a test, such as `LateTransformer` or `test_initialization`.

Exit code 0 if nothing failed, 1 if a test failed, 3 if pip cannot fetch the tests. docs/conformance.md lists what is
skipped, and why.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from collections import Counter
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import torch
from transformers import ByT5Tokenizer, SeamlessM4TFeatureExtractor
from transformers.utils import logging

from bibier_hf import BiBiERConfig, BiBiERForEmotionClassification, BiBiERModel, BiBiERProcessor
from bibier_hf.model.sources_bibier import embedded_backbone

FAILED, NOT_FETCHED = 1, 3

CASES = {
    "TextTransformer": (None, "transformer"),
    "BiformerMamba": ("biformer", "mamba"),
    "BigraphFrameMlp": ("bigraph", "frame_mlp"),
    "BigatedNone": ("bigated", "none"),
    "BigatedgraphLstm": ("bigatedgraph", "lstm"),
    "BimambaMamba": ("bimamba", "mamba"),
    "LateTransformer": ("late", "transformer"),
}
"""Name of a test case -> fusion (None: a text-only model) and encoders of its models. Every encoder and every fusion
occurs."""

BATCH, TOKENS, VOCABULARY, WIDTH, HEADS = 3, 7, 60, 16, 2
FRAMES = BANDS = 12  # equal, because the tests mistake the last dimension of the main input for its length

# The distribution contains only the common tests. Modules that they import from other test folders are replaced by
# stand-ins in which every name is an empty class, except for these.
LEFT_OUT = {
    "url_to_local_path": lambda url: url,
    "config_common_kwargs": {  # set by ConfigTester; none is a default
        "return_dict": False,
        "output_hidden_states": True,
        "output_attentions": True,
        "dtype": "float16",
        "chunk_size_feed_forward": 3,
        "architectures": ["SomeModel"],
        "id2label": {0: "yes", 1: "no"},
        "label2id": {"yes": 0, "no": 1},
        "problem_type": "single_label_classification",
    },
}


class ModelTester:
    """What ModelTesterMixin needs to know about a model: a small configuration, a batch, and the shapes of the
    outputs."""

    batch_size, seq_length = BATCH, TOKENS
    hidden_size, num_attention_heads = WIDTH, HEADS
    is_training = True

    def __init__(self, fusion: str | None, encoder: str):
        self.fusion, self.encoder = fusion, encoder
        modalities = 2 if fusion else 1
        states = {None: 0, "late": 0, "bimamba": 1}.get(fusion, 2)
        self.expected_num_hidden_layers = states + (0 if encoder == "none" else 2 * modalities)
        attentions = modalities if encoder == "transformer" else 0
        # The tests use this name for the number of attentions.
        self.num_hidden_layers = attentions + (0 if fusion in (None, "late", "bimamba") else 2)

        # Of the first attention.
        self.encoder_seq_length = FRAMES if fusion else TOKENS
        self.key_length = self.encoder_seq_length if attentions else TOKENS

    def get_config(self) -> BiBiERConfig:
        """Return the configuration of a small model whose small backbones are trained, too."""
        small = {
            "hidden_size": WIDTH,
            "num_attention_heads": HEADS,
            "num_hidden_layers": 1,
            "intermediate_size": 2 * WIDTH,
        }
        audio = embedded_backbone("audio").to_dict() | small | {"feature_projection_input_dim": BANDS}
        text = embedded_backbone("text").to_dict() | small | {"vocab_size": VOCABULARY}
        modality = {
            "freeze_backbone": False,
            "encoder": self.encoder,
            "hidden_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": HEADS,
            "mamba_state_size": 4,
        }
        return BiBiERConfig(
            modalities=["audio", "text"] if self.fusion else ["text"],
            audio_config=modality | {"backbone": audio if self.fusion else None},
            text_config=modality | {"backbone": text, "max_tokens": 32},
            fusion=self.fusion or "late",
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=HEADS,
            classifier_size=WIDTH,
            gated_size=8,
            seg_len=8,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[BiBiERConfig, dict[str, torch.Tensor]]:
        """Return a configuration and a batch of clips with text."""
        audio = {
            "input_features": torch.randn(BATCH, FRAMES, BANDS),
            "audio_attention_mask": torch.ones(BATCH, FRAMES, dtype=torch.long),
        }
        text = {
            "input_ids": torch.randint(VOCABULARY, (BATCH, TOKENS)),
            "text_attention_mask": torch.ones(BATCH, TOKENS, dtype=torch.long),
        }
        return self.get_config(), audio | text if self.fusion else text


def model_case(name: str, fusion: str | None, encoder: str) -> type[unittest.TestCase]:
    """Return the tests of models and their configuration for one fusion and one kind of encoder."""
    from tests.test_configuration_common import ConfigTester
    from tests.test_modeling_common import ModelTesterMixin

    class ModelCase(ModelTesterMixin, unittest.TestCase):
        all_model_classes = (BiBiERModel, BiBiERForEmotionClassification)
        has_attentions = fusion not in (None, "late", "bimamba") or encoder == "transformer"

        def setUp(self) -> None:
            torch.manual_seed(0)
            if "_training" in self._testMethodName:  # there is no loss without a classifier
                self.all_model_classes = (BiBiERForEmotionClassification,)
            self.model_tester = ModelTester(fusion, encoder)
            self.config_tester = ConfigTester(
                self, BiBiERConfig, has_text_modality=False, common_properties=["hidden_size", "num_attention_heads"]
            )

        def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
            inputs = {key: value.clone() if torch.is_tensor(value) else value for key, value in inputs_dict.items()}
            if return_labels and model_class is BiBiERForEmotionClassification:
                inputs["labels"] = torch.arange(BATCH)
            return inputs

        def test_config(self) -> None:
            self.config_tester.run_common_tests()

    ModelCase.__name__ = ModelCase.__qualname__ = name
    return ModelCase


def processor_case() -> type[unittest.TestCase]:
    """The tests of processors."""
    from tests.test_processing_common import ProcessorTesterMixin

    class Processor(ProcessorTesterMixin, unittest.TestCase):
        processor_class = BiBiERProcessor

        @classmethod
        def setUpClass(cls) -> None:
            # The tests pass arrays without a sampling rate, which is an error unless there is a default.
            cls.before = BiBiERProcessor.audio_kwargs
            BiBiERProcessor.audio_kwargs = {**cls.before, "sampling_rate": 16_000}
            super().setUpClass()

        @classmethod
        def tearDownClass(cls) -> None:
            BiBiERProcessor.audio_kwargs = cls.before
            super().tearDownClass()

        @classmethod
        def _setup_feature_extractor(cls) -> SeamlessM4TFeatureExtractor:
            return SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2, padding_value=0.0)

        @classmethod
        def _setup_tokenizer(cls) -> ByT5Tokenizer:
            return ByT5Tokenizer()

    Processor.__qualname__ = Processor.__name__
    return Processor


def fetch(folder: Path) -> None:
    """Download the tests of the installed transformers, and what they import, into `folder`.

    Raises:
        OSError: pip cannot fetch them.
    """
    version = importlib.metadata.version("transformers")
    archive, extra = folder / f"transformers-{version}.tar.gz", folder / "extra"
    if not archive.exists():
        pip("download", "-d", str(folder), "--no-binary", ":all:", f"transformers=={version}")
    if importlib.util.find_spec("parameterized") is None and not extra.exists():
        pip("install", "--target", str(extra), "parameterized")

    with tarfile.open(archive) as distribution:
        for member in distribution:
            _, _, name = member.name.partition("/")
            if member.isfile() and name.startswith("tests/"):
                distribution.extract(member.replace(name=name), folder, filter="data")
    (folder / "tests" / "__init__.py").touch()


def pip(command: str, *arguments: str) -> None:
    """Run pip for single packages."""
    call = [sys.executable, "-m", "pip", command, "-q", "--disable-pip-version-check", "--no-deps", *arguments]
    run = subprocess.run(call, capture_output=True, text=True)
    if run.returncode:
        raise OSError(f"pip cannot fetch {arguments[-1]}: {(run.stderr.strip().splitlines() or ['no message'])[-1]}")


class StandIn(ModuleType):
    """A module in which every name is an empty class, except for those in LEFT_OUT."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return LEFT_OUT.get(name) or type(name, (), {})


class StandInFinder(MetaPathFinder, Loader):
    """Finds modules of transformers' repository that its source distribution does not have."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        absent = fullname.partition(".")[0] in ("tests", "fetch_hub_objects_for_ci")
        return ModuleSpec(fullname, self, is_package=True) if absent else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class Result(unittest.TestResult):
    """Prints failures as they happen, and counts tests by case."""

    def __init__(self):
        super().__init__()
        self.counts: dict[str, Counter] = {}
        self.outcome = "passed"

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.outcome = "passed"

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.counts.setdefault(type(test).__name__, Counter())[self.outcome] += 1

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.outcome = "skipped"

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._failed(test, err)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._failed(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._failed(subtest, err)

    def _failed(self, test: unittest.TestCase, err: Any) -> None:
        self.outcome = "failed"
        print(f"FAILED {test.id().removeprefix('__main__.')}\n{self._exc_info_to_string(err, test)}", flush=True)


def main() -> int:
    """Fetch and run the tests. Prints failures, reasons for skipping, and a table of counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to keep what is downloaded; default: a temporary folder")
    parser.add_argument("names", nargs="*", metavar="NAME", help="run only tests with one of these in their names")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            fetch(folder)
        except OSError as error:
            print(f"Nothing was tested: {error}", file=sys.stderr)
            return NOT_FETCHED
        return run(folder, options.names)


def run(folder: Path, names: list[str]) -> int:
    """Run the tests in `folder`."""
    sys.path[:0] = [str(folder), str(folder / "extra")]
    sys.meta_path.append(StandInFinder())
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    cases = [model_case(name, *parts) for name, parts in CASES.items()] + [processor_case()]
    load = unittest.defaultTestLoader.loadTestsFromTestCase
    tests = [test for case in cases for test in load(case)]
    chosen = [test for test in tests if not names or any(name in test.id() for name in names)]

    start, result = time.perf_counter(), Result()
    unittest.TestSuite(chosen).run(result)
    reasons = Counter(reason for _, reason in result.skipped)
    for reason, count in reasons.most_common():
        print(f"skipped {count:>4}: {reason}")
    for name, counts in result.counts.items():
        print(f"{name:<26}", ", ".join(f"{counts[kind]} {kind}" for kind in ("passed", "failed", "skipped")))
    total = sum(result.counts.values(), Counter())
    print(
        f"transformers {importlib.metadata.version('transformers')}: {total['passed']} passed, {total['failed']} failed, "
        f"{total['skipped']} skipped, in {time.perf_counter() - start:.0f} s"
    )
    return FAILED if total["failed"] or not result.wasSuccessful() or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
