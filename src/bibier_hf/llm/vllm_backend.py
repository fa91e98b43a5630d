"""A language model in this process through vLLM.

vLLM pins a different transformers than the model of this package, so it needs a separate environment.
`constraints-vllm.txt` says how to create it, for a GPU and for a CPU.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from .base import Answer, ChoiceTrie, LLMBackend, LLMError, Message, Sampling, Structure, chat_token_ids

RESOURCE_OPTIONS = frozenset(
    "block_size cpu_offload_gb disable_log_stats distributed_executor_backend download_dir enforce_eager "
    "gpu_memory_utilization max_num_batched_tokens max_num_seqs pipeline_parallel_size swap_space "
    "tensor_parallel_size".split()
)
"""Arguments of `vllm.LLM` that change memory and speed, but not the result. Any other one, such as `quantization` or
`kv_cache_dtype`, may change an answer."""


class VLLMBackend(LLMBackend):
    """`vllm.LLM` with prefix caching, which computes the shared start of the prompts once.

    Args:
        model: a folder or Hub id.
        revision: branch, tag or commit on the Hub.
        dtype: `"auto"`, `"bfloat16"`, `"float16"` or `"float32"`. The logits of bfloat16 tie often.
        max_model_len: longest prompt plus answer, in tokens.
        chunk_size: number of prompts per call of vLLM; their answers arrive together.
        options: any other argument of `vllm.LLM`, such as `tensor_parallel_size=2` or `gpu_memory_utilization=0.8`.
    """

    name = "vllm"
    _live = frozenset({"_llm"})

    def __init__(
        self,
        model: str,
        revision: str | None = None,
        dtype: str = "auto",
        max_model_len: int | None = 2048,
        chunk_size: int = 512,
        **options: Any,
    ) -> None:
        super().__init__(model, revision)
        self.dtype = dtype
        self.max_model_len = max_model_len
        self.chunk_size = chunk_size
        self.options = options

    @property
    def settings(self) -> dict[str, Any]:
        options = {name: str(value) for name, value in self.options.items() if name not in RESOURCE_OPTIONS}
        return super().settings | {"dtype": self.dtype, "max_model_len": self.max_model_len, "options": options}

    def tokenize(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        tokenizer = self._load().get_tokenizer()
        return [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]

    @property
    def end_token(self) -> int | None:
        return self._load().get_tokenizer().eos_token_id

    def close(self) -> None:
        vars(self).pop("_llm", None)

    def _generate(
        self, conversations: Sequence[list[Message]], sampling: Sampling, structure: Structure | None
    ) -> Iterator[tuple[int, Answer]]:
        self._load()
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=sampling.max_new_tokens,
            structured_outputs=None if structure is None else StructuredOutputsParams(**structure.preferred),
        )

        for start in range(0, len(conversations), self.chunk_size):
            prompts = self._prompts(conversations[start : start + self.chunk_size])
            outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
            for index, output in enumerate(outputs, start):
                (completion,) = output.outputs
                answer = Answer(
                    text=completion.text,
                    finish_reason=completion.finish_reason,
                    prompt_tokens=len(output.prompt_token_ids),
                    new_tokens=len(completion.token_ids),
                )
                yield index, answer

    def _score(self, conversations: Sequence[list[Message]], trie: ChoiceTrie) -> Iterator[tuple[int, Answer]]:
        self._load()
        from vllm import SamplingParams

        nodes = list(trie.nodes)
        parameters = [
            SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=list(trie.nodes[node])) for node in nodes
        ]
        step = max(1, self.chunk_size // len(nodes))

        for start in range(0, len(conversations), step):
            prompts = self._prompts(conversations[start : start + step])
            queries = [
                {"prompt_token_ids": prompt["prompt_token_ids"] + list(node)} for prompt in prompts for node in nodes
            ]
            outputs = iter(self._llm.generate(queries, parameters * len(prompts), use_tqdm=False))

            for index, prompt in enumerate(prompts, start):
                of_node = {}
                for node in nodes:
                    scores = next(outputs).outputs[0].logprobs[0]
                    of_node[node] = {token: scores[token].logprob for token in trie.nodes[node]}
                scored, length = trie.log_probabilities(of_node), len(prompt["prompt_token_ids"])
                yield index, Answer(log_probabilities=scored, prompt_tokens=length, new_tokens=len(nodes))

    def _prompts(self, conversations: Sequence[list[Message]]) -> list[dict[str, list[int]]]:
        tokenizer = self._llm.get_tokenizer()
        return [{"prompt_token_ids": chat_token_ids(tokenizer, conversation)} for conversation in conversations]

    def _load(self) -> Any:
        if "_llm" not in vars(self):
            try:
                from vllm import LLM
            except ImportError as error:
                raise LLMError(
                    "The back end 'vllm' needs the package vllm in a separate environment; constraints-vllm.txt says "
                    "how to create it. Or run its server and use the back end 'openai'."
                ) from error

            try:
                self._llm = LLM(
                    model=self.model,
                    revision=self._asked_revision,
                    dtype=self.dtype,
                    max_model_len=self.max_model_len,
                    enable_prefix_caching=True,
                    **self.options,
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise LLMError(f"vLLM cannot load the language model {self.model}: {error}") from error

        return self._llm
