"""A language model in this process through transformers, without further dependencies."""

import copy
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedTokenizerBase

from .base import Answer, ChoiceTrie, LLMBackend, LLMError, Message, Sampling, Structure, chat_token_ids


class TransformersBackend(LLMBackend):
    """`AutoModelForCausalLM` in batches of similar length, padded on the left.

    `score` computes the shared start of all prompts once. Greedy answers are generated in batches; sampled ones one by
    one, so that each follows from its own seed.

    Args:
        model: a folder or Hub id.
        revision: branch, tag or commit on the Hub.
        dtype: of the weights: `"float32"`, `"bfloat16"`, `"float16"` or `"auto"`. Logits in bfloat16 often tie, so
            score in float32 if it fits.
        device: `"cpu"`, `"cuda"`, ...; None: a GPU if there is one.
        batch_size: prompts per forward pass.
    """

    name = "transformers"
    enforces_structure = False
    _live = frozenset({"_tokenizer", "_model"})

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__(model, revision)

        if batch_size < 1:
            raise LLMError(f"batch_size={batch_size}; it must be at least 1.")

        self.dtype = dtype
        self.device = device
        self.batch_size = batch_size

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"dtype": self.dtype}

    def tokenize(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        tokenizer, _ = self._load()
        return [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]

    @property
    def end_token(self) -> int | None:
        tokenizer, _ = self._load()
        return tokenizer.eos_token_id

    def close(self) -> None:
        vars(self).pop("_tokenizer", None)
        vars(self).pop("_model", None)
        gc.collect()

    def _generate(
        self, conversations: Sequence[list[Message]], sampling: Sampling, structure: Structure | None
    ) -> Iterator[tuple[int, Answer]]:
        tokenizer, model = self._load()
        # Set every option: the defaults of the model may sample.
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}

        if not sampling.greedy:
            options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}

        for rows, inputs in self._batches(self._prompts(conversations), self.batch_size if sampling.greedy else 1):
            if not sampling.greedy:
                torch.manual_seed(sampling.seed)

            with torch.inference_mode():
                output = model.generate(
                    **inputs, **options, max_new_tokens=sampling.max_new_tokens, pad_token_id=tokenizer.pad_token_id
                )

            stops = _stop_tokens(tokenizer, model)

            for row, index in enumerate(rows):
                new = output[row, inputs["input_ids"].shape[1] :].tolist()
                length = next((position for position, token in enumerate(new) if token in stops), None)
                answer = Answer(
                    text=tokenizer.decode(new[:length], skip_special_tokens=True),
                    finish_reason="length" if length is None else "stop",
                    prompt_tokens=int(inputs["attention_mask"][row].sum()),
                    new_tokens=len(new) if length is None else length + 1,
                )
                yield index, answer

    def _score(self, conversations: Sequence[list[Message]], trie: ChoiceTrie) -> Iterator[tuple[int, Answer]]:
        _, model = self._load()
        prompts = self._prompts(conversations)
        shared = _common_start(prompts)
        start = self._read(shared) if shared else None

        for rows, inputs in self._batches([prompt[len(shared) :] for prompt in prompts], self.batch_size):
            cache = copy.deepcopy(start)
            if cache is not None:
                cache.batch_repeat_interleave(len(rows))

            own = inputs["attention_mask"]
            mask = torch.cat([own.new_ones(len(rows), len(shared)), own], dim=1)

            with torch.inference_mode():
                output = model(
                    input_ids=inputs["input_ids"],
                    attention_mask=mask,
                    position_ids=_positions(mask)[:, len(shared) :],
                    past_key_values=cache,
                    use_cache=cache is not None or not trie.single_token,
                    logits_to_keep=1,
                )
                scores: dict[tuple[int, ...], list[list[float]]] = {(): _scores(output.logits[:, -1], trie.nodes[()])}
                if inner := [node for node in trie.nodes if node]:
                    scores |= _score_inner_nodes(model, output.past_key_values, mask, inner, trie)

            for row, index in enumerate(rows):
                of_node = {
                    node: dict(zip(children, scores[node][row], strict=True)) for node, children in trie.nodes.items()
                }
                scored = trie.log_probabilities(of_node)
                yield index, Answer(log_probabilities=scored, prompt_tokens=int(mask[row].sum()), new_tokens=0)

    def _prompts(self, conversations: Sequence[list[Message]]) -> list[list[int]]:
        tokenizer, _ = self._load()
        return [chat_token_ids(tokenizer, conversation) for conversation in conversations]

    @torch.inference_mode()
    def _read(self, tokens: Sequence[int]) -> DynamicCache:
        """Return the keys and values of the tokens (1, T) that all prompts begin with."""
        _, model = self._load()
        return model(
            input_ids=torch.tensor([tokens], device=model.device), use_cache=True, logits_to_keep=1
        ).past_key_values

    def _batches(
        self, prompts: Sequence[Sequence[int]], batch_size: int
    ) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
        """Yield (indices, padded inputs), longest prompts first: if they do not fit into memory, it fails at once."""
        tokenizer, model = self._load()
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))

        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            padded = tokenizer.pad(
                {"input_ids": [list(prompts[index]) for index in rows]}, padding_side="left", return_tensors="pt"
            )
            yield rows, {name: padded[name].to(model.device) for name in ("input_ids", "attention_mask")}

    def _load(self) -> tuple[Any, Any]:
        if "_model" not in vars(self):
            try:
                revision = self._asked_revision or "main"
                tokenizer = AutoTokenizer.from_pretrained(self.model, revision=revision)
                model = AutoModelForCausalLM.from_pretrained(self.model, revision=revision, dtype=self.dtype)
            except (OSError, ValueError) as error:
                raise LLMError(f"transformers cannot load the language model {self.model}: {error}") from error

            assert tokenizer is not None

            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token

            self._tokenizer: PreTrainedTokenizerBase = tokenizer
            self._model = model.to(self.device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

        return self._tokenizer, self._model


def _common_start(prompts: Sequence[list[int]]) -> list[int]:
    """Return the longest common start of all prompts that leaves at least one token of each."""
    first, last = min(prompts, default=[]), max(prompts, default=[])
    length = next(
        (place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )

    return list(first[: min([length, *(len(prompt) - 1 for prompt in prompts)])])


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Return positions (B, T) that count tokens only, so that padding on the left changes nothing."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _scores(logits: torch.Tensor, tokens: Sequence[int]) -> list[list[float]]:
    """Return log-probabilities (B, tokens) for logits (B, V)."""
    return logits.float().log_softmax(-1)[:, list(tokens)].tolist()


def _score_inner_nodes(
    model: Any, cache: DynamicCache, mask: torch.Tensor, nodes: Sequence[tuple[int, ...]], trie: ChoiceTrie
) -> dict[tuple[int, ...], list[list[float]]]:
    """Score the continuations of every node in one pass over the keys and values of the prompts."""
    longest = max(map(len, nodes))
    tokens = torch.tensor([[*node, *[node[-1]] * (longest - len(node))] for node in nodes], device=mask.device)

    # One row per prompt and node. Padding comes after a node's own tokens, so it cannot reach them.
    cache.batch_repeat_interleave(len(nodes))
    repeated = mask.repeat_interleave(len(nodes), dim=0)
    tokens = tokens.repeat(len(mask), 1)
    full = torch.cat([repeated, torch.ones_like(tokens)], dim=1)

    logits = model(
        input_ids=tokens,
        attention_mask=full,
        position_ids=_positions(full)[:, -longest:],
        past_key_values=cache,
        use_cache=True,
    ).logits
    logits = logits.unflatten(0, (len(mask), len(nodes)))

    return {node: _scores(logits[:, place, len(node) - 1], trie.nodes[node]) for place, node in enumerate(nodes)}


def _stop_tokens(tokenizer: Any, model: Any) -> set[int]:
    """Return the token ids that end an answer."""
    stops = model.generation_config.eos_token_id
    if isinstance(stops, int):
        stops = [stops]

    return {*(stops or ()), tokenizer.eos_token_id}
