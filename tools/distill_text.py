"""Make a small text encoder from a multilingual E5.

    python tools/distill_text.py bibier_tiny_text --corpora.0.data_dir PATH/TO/meld --corpora.1.data_dir PATH/TO/resd

The vocabulary is reduced to the pieces that the texts need and the most frequent Latin and Cyrillic ones. Their
embeddings are initialized with the principal components of E5's. A few layers on top learn E5's sentence embeddings
and the scores that a linear classifier computes from them.

The run file names the corpora (only train splits are used) and, as `text_backbone`, the folder to write. `bibier
train` with the same run file then trains the whole encoder on the labels.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

import bibier_cli
from bibier_hf import EMOTIONS
from bibier_hf.augmentation.tug import LANGUAGES, TemplateUtteranceGeneration, strip_sound_tags
from bibier_hf.commands.checkpoint import load_checkpoint
from bibier_hf.data.mixture import label_names, load_corpora
from bibier_hf.errors import ArgumentError
from bibier_hf.model.backbones_bibier import load_backbone
from bibier_hf.training.arguments import RunArguments, RunFile
from distill_speech import folder_to_write, grouped_batches, teacher_errors

CHARACTERS = re.compile(r"▁?[ -~А-Яа-яЁё№«»“”‘’…—–€£]?")
WORDS = re.compile(r"▁?([а-яё]+|[a-z']+)", re.IGNORECASE)
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
DROPPED_PIECES = 0.08


class DistillTextArguments(RunFile):
    """Make a small text encoder from a multilingual E5."""

    teacher: str = Field(
        "intfloat/multilingual-e5-small",
        description="Hub id or folder of an E5 model, or a trained text checkpoint that is based on one",
    )
    vocabulary: int = Field(7200, ge=300, description="pieces of the tokenizer")
    layers: int = Field(2, ge=1, description="layers of the encoder")
    heads: int = Field(3, ge=1, description="attention heads of each layer, with 64 dimensions each")
    templates: int = Field(250, ge=0, description="template utterances of each emotion and language")
    distill_epochs: int = Field(5, ge=0, description="passes over the texts")
    distill_batch: int = Field(64, ge=1, description="texts per step")


def training_texts(run: RunArguments, templates: int) -> tuple[list[str], np.ndarray]:
    """Return texts and labels of the train splits and of template utterances, which have the seven emotions."""
    texts, labels = [], []
    for splits in load_corpora(run.corpora, run.labels, needed=["train"]).values():
        rows = [
            (text, label)
            for text, label in zip(splits["train"]["text"], splits["train"]["label"], strict=True)
            if text
        ]
        texts += [text for text, _ in rows]
        labels += [label for _, label in rows]
        if templates and label_names(splits) != EMOTIONS:
            raise ArgumentError(f"templates: they exist only for {', '.join(EMOTIONS)}. Give 0 with other labels.")

    generation = TemplateUtteranceGeneration(run.seed)
    for language in LANGUAGES:
        for label, emotion in enumerate(EMOTIONS):
            texts += map(strip_sound_tags, generation.sample(emotion, language, templates))
            labels += [label] * templates
    return texts, np.array(labels)


def reduced_tokenizer(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], size: int
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Reduce a Unigram tokenizer to `size` pieces: special ones, single characters, those that occur at least twice in
    the texts, then the most frequent Latin and Cyrillic ones. Returns it with the old ids of the pieces."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    special = tokenizer.convert_tokens_to_ids(list(SPECIAL))
    counts = Counter(piece for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for piece in ids)
    ranked = sorted(range(len(vocabulary)), key=lambda piece: -vocabulary[piece][1])

    characters = [piece for piece in ranked if CHARACTERS.fullmatch(vocabulary[piece][0])]
    repeated = [piece for piece, count in counts.most_common() if count > 1]
    words = [piece for piece in ranked if WORDS.fullmatch(vocabulary[piece][0])]
    excluded = {*special, tokenizer.mask_token_id}
    kept = [piece for piece in dict.fromkeys(characters + repeated + words) if piece not in excluded]
    pieces = special + sorted(kept[: size - len(special)])

    content["model"]["vocab"] = [vocabulary[piece] for piece in pieces]
    content["model"]["unk_id"] = SPECIAL.index("<unk>")
    added = {token["content"]: token for token in content["added_tokens"]}
    content["added_tokens"] = [added[name] | {"id": place} for place, name in enumerate(SPECIAL) if name in added]
    for name, token in content["post_processor"].get("special_tokens", {}).items():
        token["ids"] = [SPECIAL.index(name)]
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    reduced = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        **dict(zip(names, SPECIAL, strict=True)),
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=128,
    )
    return reduced, pieces


def load_teacher(name: str) -> tuple[PreTrainedTokenizerFast, nn.Module]:
    """Return the tokenizer and the backbone of a checkpoint of this package or of an E5 model."""
    if (Path(name) / "processor_config.json").is_file():
        model, processor = load_checkpoint(name)
        return processor.tokenizer, model.base_model.text.backbone.eval()
    return AutoTokenizer.from_pretrained(name), load_backbone(name).eval()


@torch.no_grad()
def teacher_embeddings(teacher: nn.Module, ids: list[list[int]], padding: int) -> Tensor:
    """Return the mean of E5's hidden states for each text, (N, D)."""
    embeddings = torch.zeros(len(ids), teacher.config.hidden_size)
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    for start in range(0, len(order), 64):
        places = order[start : start + 64]
        given, mask = padded([ids[place] for place in places], padding)
        with torch.autocast("cpu", torch.bfloat16):
            states = teacher(input_ids=given, attention_mask=mask).last_hidden_state
        embeddings[places] = mean(states.float(), mask)
    return embeddings


def padded(ids: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(row) for row in ids]
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True, padding_value=padding), mask


def mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def goals(embeddings: Tensor, labels: np.ndarray) -> Tensor:
    """Return standardized embeddings and the scores of a linear classifier on them, both with the same total
    weight."""
    x = ((embeddings - embeddings.mean(0)) / embeddings.std(0).clamp(min=1e-6)).numpy()
    classifier = LogisticRegression(C=0.003, class_weight="balanced", max_iter=100).fit(x, labels)
    scores = torch.from_numpy(classifier.decision_function(x)).float().reshape(len(x), -1)  # one column for two labels
    scores = (scores - scores.mean(0)) / scores.std(0)
    weight = (x.shape[1] / scores.shape[1]) ** 0.5
    return torch.cat([torch.from_numpy(x), weight * scores], dim=1)


def principal_components(table: Tensor, width: int) -> Tensor:
    """Reduce rows to `width` dimensions with a standard deviation of one."""
    centered = table - table.mean(0)
    directions = torch.linalg.svd(centered, full_matrices=False).Vh[:width]
    reduced = F.pad(centered @ directions.T, (0, width - len(directions)))
    return reduced / reduced.std()


def distill(model: BertModel, ids: list[list[int]], targets: Tensor, options: DistillTextArguments, seed: int) -> None:
    """Train an encoder whose mean state, after a linear map, equals the target of each text."""
    generator = np.random.default_rng(seed)
    projection = nn.Linear(model.config.hidden_size, targets.shape[1])
    parameters = [*model.parameters(), *projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    size = min(options.distill_batch, len(ids))
    batches = len(ids) // size
    steps = options.distill_epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=max(2, steps), pct_start=0.05)

    model.train()
    for epoch in range(options.distill_epochs):
        total = 0.0
        for places in grouped_batches([len(row) for row in ids], size, batches, 20, generator):
            given, mask = padded([ids[place] for place in places], model.config.pad_token_id)
            unknown = SPECIAL.index("<unk>")
            dropped = (torch.rand(given.shape) < DROPPED_PIECES) & (given > unknown)
            states = model(input_ids=given.masked_fill(dropped, unknown), attention_mask=mask).last_hidden_state
            loss = (projection(mean(states, mask)) - targets[places]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: error {total / batches:.3f}", flush=True)
    model.eval()


def make_encoder(options: DistillTextArguments) -> None:
    """Distill the encoder and save it with its tokenizer."""
    run = options.run
    folder = folder_to_write(run, "text", options.teacher)
    set_seed(run.seed)
    texts, labels = training_texts(run, options.templates)
    with teacher_errors(options.teacher):
        full, teacher = load_teacher(options.teacher)
    tokenizer, pieces = reduced_tokenizer(full, texts, options.vocabulary)
    prefixed = [f"query: {text}" for text in texts]
    embeddings = teacher_embeddings(
        teacher, full(prefixed, truncation=True, max_length=64)["input_ids"], full.pad_token_id
    )

    width = 64 * options.heads
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=2 * width,
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BertModel(config, add_pooling_layer=False)
    table = teacher.get_input_embeddings().weight.detach()[pieces]
    model.embeddings.word_embeddings.weight.data.copy_(principal_components(table, width))
    nn.init.zeros_(model.embeddings.token_type_embeddings.weight)

    ids = tokenizer(texts, truncation=True, max_length=96)["input_ids"]
    distill(model, ids, goals(embeddings, labels), options, run.seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"The encoder is in {folder}: {model.num_parameters() / 1e6:.1f} million weights.")


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    return bibier_cli.run("distill_text:make_encoder", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
