"""The transformers back end with a tiny Llama over bytes: batches, padding, scores, seeds."""

import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM, ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from bibier_hf.llm import LLMError, Sampling, Structure, get_backend
from bibier_hf.llm.base import ChoiceTrie, chat_token_ids
from bibier_hf.model.labels_bibier import EMOTIONS

PROMPTS = ["Hi", "What do you hear in this utterance?", [{"role": "user", "content": "Once more"}], ""]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with random weights and a tokenizer over bytes, as a folder."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backend(folder):
    return get_backend("transformers", str(folder), batch_size=3)


def test_a_batch_answers_as_its_prompts_do_one_by_one(backend):
    together = backend.generate(PROMPTS, Sampling(max_new_tokens=6))
    alone = [backend.generate([prompt], Sampling(max_new_tokens=6))[0] for prompt in PROMPTS]
    assert together == alone
    assert all(answer.new_tokens <= 6 and answer.finish_reason in ("stop", "length") for answer in together)


def test_sampled_answers_follow_from_their_own_seed(backend):
    sampling = Sampling(temperature=1.0, seed=5, max_new_tokens=6)
    assert backend.generate(PROMPTS, sampling)[1] == backend.generate(PROMPTS[1:2], sampling)[0]
    assert backend.generate(PROMPTS[1:2], sampling) != backend.generate(
        PROMPTS[1:2], Sampling(temperature=1.0, seed=6, max_new_tokens=6)
    )


@pytest.mark.parametrize(
    "choices", [EMOTIONS, ("a", "b", "c"), ("ab", "acd", "ace", "x"), ("sad", "sadness", "sadly", "x", "xy")]
)
def test_scores_are_the_probabilities_of_the_sequences(backend, folder, choices):
    """The slow twin: every choice behind every prompt, without a cache, a batch or padding. The end of the answer
    belongs to a choice that another one begins with."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = backend._load()[0]
    for prompt, answer in zip(PROMPTS, backend.score(PROMPTS, choices), strict=True):
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        start = chat_token_ids(tokenizer, messages)
        for choice, score in zip(choices, answer.log_probabilities, strict=True):
            tokens = start + tokenizer(choice, add_special_tokens=False)["input_ids"]
            if choice in ("sad", "x") and "xy" in choices:
                tokens = [*tokens, tokenizer.eos_token_id]
            with torch.no_grad():
                log_probabilities = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            expected = sum(
                log_probabilities[place - 1, tokens[place]].item() for place in range(len(start), len(tokens))
            )
            assert score == pytest.approx(expected, abs=2e-4)


def test_choices_that_cannot_be_told_apart(backend):
    for choices in (["a", "a"], ["", "b"]):
        with pytest.raises(LLMError, match="cannot be told apart"):
            backend.score(["x"], choices)
    trie = ChoiceTrie(["ab", "ac"], [(1, 2), (1, 3)])
    assert trie.nodes == {(): (1,), (1,): (2, 3)}


def test_the_end_decides_between_a_choice_and_a_longer_one():
    with pytest.raises(
        LLMError, match=r"\['a'\] are empty, equal, or a prefix of another, and this back end does not"
    ):
        ChoiceTrie(["a", "ab"], [(1,), (1, 2)])
    trie = ChoiceTrie(["a", "ab", "abc", "d"], [(1,), (1, 2), (1, 2, 3), (4,)], end=9)
    assert trie.paths == ((1, 9), (1, 2, 9), (1, 2, 3), (4,))
    assert trie.nodes == {(): (1, 4), (1,): (9, 2), (1, 2): (9, 3)}
    scores = {(): {1: -1.0, 4: -2.0}, (1,): {9: -0.5, 2: -3.0}, (1, 2): {9: -0.25, 3: -4.0}}
    assert trie.log_probabilities(scores) == (-1.5, -4.25, -8.0, -2.0)


def test_what_cannot_be_asked(backend, folder, tmp_path):
    with pytest.raises(LLMError, match="no structured output"):
        backend.generate(["x"], structure=Structure(regex="a"))
    with pytest.raises(LLMError, match="cannot load"):
        get_backend("transformers", str(tmp_path)).tokenize(["warm"])
    with pytest.raises(LLMError, match="Allowed: openai, transformers, vllm"):
        get_backend("vlm", "x")
    with pytest.raises(LLMError, match="end with the user's"):
        backend.generate([[{"role": "assistant", "content": "x"}]])


def test_the_revision_of_a_folder_is_that_of_its_files(folder, tmp_path):
    revision = get_backend("transformers", str(folder)).revision
    assert revision.startswith("sha256-")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert get_backend("transformers", str(tmp_path)).revision == revision
    (tmp_path / "generation_config.json").write_text("{}")
    assert get_backend("transformers", str(tmp_path)).revision != revision


def test_a_pickle_carries_no_weights(backend):
    backend.tokenize(["warm"])
    assert len(pickle.dumps(backend)) < 2000
