"""A language model behind one or several OpenAI-compatible servers, such as `vllm serve`."""

import base64
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ..text import valid_text
from .base import Answer, ChoiceTrie, LLMBackend, LLMError, Message, Sampling, Structure
from .pacing import RateLimiter, ServerPool, parse_retry_after

DIALECTS = ("vllm", "openai")

_NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
_CHARACTERS_PER_TOKEN = 3  # a careful guess for the limit of tokens a minute


class OpenAIBackend(LLMBackend):
    """Concurrent requests over HTTP, with retries, rate limits and several servers that stand in for each other.

    A time-out, a broken connection, 408, 409, 429, 5xx and a reply that is no completion are tried again after a
    growing delay, or after the time that the server names in `Retry-After`; after `max_attempts` the answer carries
    the error. A completion is never asked for again, even an empty one: the same request would bring the same answer.
    What no second try can mend (a wrong key, an unknown model, an exhausted quota, no server that answers) stops the
    whole call.

    Args:
        model: name that the servers know.
        base_urls: `http://host:port/v1` of each server; requests go to them in turn, and past the one that fails.
            `user:password@` and a query are sent, but never printed, stored or pickled.
        revision: a name for the weights and precision that the servers run, which they do not tell. Answers under
            another revision are asked for anew.
        dialect: `"vllm"` uses the extensions of vLLM's server (regular expressions, scores, thinking off), `"openai"`
            only what every server has (JSON schemas).
        api_key: default: the environment variable OPENAI_API_KEY; local servers need none.
        concurrency: requests under way at a time.
        max_attempts: tries a request.
        timeout_s: seconds a try.
        requests_per_minute, tokens_per_minute: limits over all servers; None: none.
        base_delay_s: the delay after the first failure.
    """

    name = "openai"
    _live = frozenset({"_clients", "_limiter", "_pool", "_access"})

    def __init__(
        self,
        model: str,
        base_urls: Sequence[str] = ("http://localhost:8000/v1",),
        revision: str | None = None,
        dialect: str = "vllm",
        api_key: str | None = None,
        concurrency: int = 32,
        max_attempts: int = 6,
        timeout_s: float = 120.0,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        base_delay_s: float = 1.0,
    ) -> None:
        super().__init__(model, revision)
        if dialect not in DIALECTS:
            raise LLMError(f"dialect={dialect!r}; allowed: {', '.join(DIALECTS)}.")
        if (
            isinstance(base_urls, str)
            or not base_urls
            or not all(isinstance(url, str) and url.startswith(("http://", "https://")) for url in base_urls)
        ):
            given = [base_urls] if isinstance(base_urls, str) else base_urls
            shown = ", ".join(public_url(str(url)) for url in given) or "none"
            raise LLMError(f"base_urls: give a list of addresses such as http://localhost:8000/v1, not {shown}.")
        if concurrency < 1 or max_attempts < 1:
            raise LLMError("concurrency and max_attempts must be at least 1.")
        self._access = {public_url(url): _read_access(url) for url in base_urls}
        self.base_urls = tuple(self._access)
        self.dialect = dialect
        self.api_key = api_key
        self.concurrency = concurrency
        self.max_attempts = max_attempts
        self.timeout_s = timeout_s
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.base_delay_s = base_delay_s

    @cached_property
    def revision(self) -> str | None:
        return self._asked_revision

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"dialect": self.dialect}

    def tokenize(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if self.dialect != "vllm":
            raise LLMError(
                "Answers can be scored by a vLLM server alone (dialect='vllm'). With other servers use generate."
            )
        self._connect()
        found = []
        for text in texts:
            body = {"model": self.model, "prompt": text, "add_special_tokens": False}
            found.append(
                tuple(
                    self._asked_of_root("tokenize", body, lambda content: [int(token) for token in content["tokens"]])
                )
            )
        return found

    def close(self) -> None:
        for client in vars(self).pop("_clients", {}).values():
            client.close()
        for name in ("_limiter", "_pool"):
            vars(self).pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        # Keys and passwords stay in memory: a pickle may be written to disk. A copy reads the environment.
        return super().__getstate__() | {"api_key": None}

    # One task a prompt

    def _generate(
        self, conversations: Sequence[list[Message]], sampling: Sampling, structure: Structure | None
    ) -> Iterator[tuple[int, Answer]]:
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "max_tokens": sampling.max_new_tokens,
            **self._form(structure),
        }

        def ask(conversation: list[Message], stop: threading.Event) -> Answer:
            return self._ask("chat/completions", body | {"messages": conversation}, _text_answer, stop)

        return self._concurrently(ask, conversations)

    def _score(self, conversations: Sequence[list[Message]], trie: ChoiceTrie) -> Iterator[tuple[int, Answer]]:
        # The server takes what was answered so far as text.
        begun = {
            node: self._asked_of_root(
                "detokenize", {"model": self.model, "tokens": list(node)}, lambda content: str(content["prompt"])
            )
            for node in trie.nodes
            if node
        }

        def ask(conversation: list[Message], stop: threading.Event) -> Answer:
            of_node = {}
            prompt_tokens = None
            for node, children in trie.nodes.items():
                body = {
                    "model": self.model,
                    "messages": conversation,
                    "max_tokens": 1,
                    "temperature": 0,
                    "logprobs": True,
                    "logprob_token_ids": list(children),
                    "return_tokens_as_token_ids": True,
                    **_NO_THINKING,
                }
                if node:
                    body["messages"] = [*conversation, {"role": "assistant", "content": begun[node]}]
                    body |= {"add_generation_prompt": False, "continue_final_message": True}
                answer = self._ask(
                    "chat/completions", body, lambda content, children=children: _score_answer(content, children), stop
                )
                if answer.error:
                    return answer
                of_node[node] = dict(zip(children, answer.log_probabilities or (), strict=True))
                prompt_tokens = prompt_tokens or answer.prompt_tokens
            return Answer(
                log_probabilities=trie.log_probabilities(of_node), prompt_tokens=prompt_tokens, new_tokens=len(of_node)
            )

        return self._concurrently(ask, conversations)

    def _form(self, structure: Structure | None) -> dict[str, Any]:
        """The parts of a request that turn thinking off and fix the form of the answer."""
        if self.dialect == "vllm":
            if structure is None:
                return _NO_THINKING
            form = (
                {"regex": structure.regex}
                if structure.regex is not None
                else {"json": dict(structure.json_schema or {})}
            )
            return _NO_THINKING | {"structured_outputs": form}
        if structure is None:
            return {}
        if structure.json_schema is None:
            raise LLMError(
                "An OpenAI server takes JSON schemas alone; this structure is a regular expression. Use "
                "dialect='vllm'."
            )
        schema = {"name": "answer", "strict": True, "schema": dict(structure.json_schema)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def _concurrently(
        self, ask: Callable[[list[Message], threading.Event], Answer], conversations: Sequence[list[Message]]
    ) -> Iterator[tuple[int, Answer]]:
        self._connect()
        stop = threading.Event()
        executor = ThreadPoolExecutor(self.concurrency, thread_name_prefix="llm")
        futures = {executor.submit(ask, conversation, stop): index for index, conversation in enumerate(conversations)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:  # Ctrl-C, an error, a caller that stops: no request goes out any more
            stop.set()
            executor.shutdown(wait=False, cancel_futures=True)
            self.close()
            raise
        executor.shutdown()

    def _key(self) -> str:
        return self.api_key or os.environ.get("OPENAI_API_KEY") or "none"

    def _hide(self, text: str) -> str:
        """A message of a server or a library without the keys and passwords that it may repeat."""
        secrets = [secret for access in vars(self).get("_access", {}).values() for secret in access.secrets]
        for secret in (*secrets, self._key()):
            if len(secret) > 3 and secret != "none":
                text = text.replace(secret, "***")
        return " ".join(text.split())[:300]

    # One request

    def _ask(
        self,
        path: str,
        body: dict[str, Any],
        read: Callable[[Mapping[str, Any]], Answer],
        stop: threading.Event | None = None,
    ) -> Answer:
        """The answer to one request, after as many tries as it takes and may take."""
        import openai

        tokens = len(json.dumps(body.get("messages", ""))) // _CHARACTERS_PER_TOKEN + body.get("max_tokens", 0)
        stop = stop or threading.Event()
        faults: list[str] = []
        unreachable = 0
        pool, clients = self._pool, self._clients
        for _ in range(self.max_attempts):
            url, rest_s = pool.next()
            if stop.wait(rest_s + self._limiter.reserve(tokens)):
                return Answer(error="stopped")
            retry_after_s = None
            content = None
            try:
                content = json.loads(clients[url].post(f"{url}/{path}", cast_to=str, body=body))
                if status := _error_within(content):
                    message = self._hide(_message_of(content["error"]))
                    if not _passes(status):
                        return Answer(error=f"{status}: {message}")
                    raise ValueError(message)
                answer = read(content)
            except openai.APITimeoutError:
                faults.append(f"no answer within {self.timeout_s:g} s")
            except openai.APIConnectionError as error:
                unreachable += 1
                faults.append(f"no connection to {url} ({self._hide(str(error.__cause__ or error))})")
            except openai.APIStatusError as error:
                message = self._hide(_message_of(error.body) or str(error))
                if error.status_code in (401, 403, 404) or error.code == "insufficient_quota":
                    raise LLMError(f"{url} refuses every request ({error.status_code}): {message}") from None
                if not _passes(error.status_code):
                    return Answer(error=f"{error.status_code}: {message}")
                retry_after_s = parse_retry_after(error.response.headers.get("retry-after"))
                faults.append(f"{error.status_code}: {message}")
            except (ValueError, LookupError, TypeError, AttributeError) as error:  # no JSON, or JSON of another shape
                fault = f"an answer that cannot be read ({type(error).__name__}: {self._hide(str(error))})"
                if isinstance(content, Mapping) and content.get("choices"):  # the same request brings the same again
                    return Answer(error=fault)
                faults.append(fault)
            else:
                pool.succeeded(url)
                return answer
            pool.failed(url, retry_after_s)
        if unreachable == self.max_attempts:
            raise LLMError(
                f"No server answers: {faults[-1]}. Tried {unreachable} times: {', '.join(self.base_urls)}. Start one, "
                "or mend base_urls."
            )
        return Answer(error=f"{self.max_attempts} tries: {'; '.join(dict.fromkeys(faults))}")

    def _asked_of_root(self, path: str, body: dict[str, Any], read: Callable[[Mapping[str, Any]], Any]) -> Any:
        """What vLLM's server says beside the OpenAI interface."""
        found = []

        def note(content: Mapping[str, Any]) -> Answer:
            found.append(read(content))
            return Answer()

        answer = self._ask(f"../{path}", body, note)
        if answer.error:
            raise LLMError(f"The server does not answer /{path}: {answer.error}")
        return found[0]

    def _connect(self) -> None:
        if "_clients" in vars(self):
            return
        try:
            import openai
        except ImportError as error:
            raise LLMError("The back end 'openai' needs the package openai: pip install 'bibier-hf[llm]'") from error
        key = self._key()
        self._clients = {}
        for url in self.base_urls:
            access = vars(self).get("_access", {}).get(url, _Access())
            # Sent with every request, to vLLM's own addresses too.
            authorization = f"Basic {access.basic}" if access.basic else f"Bearer {key}"
            self._clients[url] = openai.OpenAI(
                base_url=url,
                api_key=key,
                default_headers={"Authorization": authorization},
                default_query=dict(access.query),
                timeout=self.timeout_s,
                max_retries=0,  # retries are made here, where other servers can stand in
            )
        self._limiter = RateLimiter(self.requests_per_minute, self.tokens_per_minute)
        self._pool = ServerPool(list(self.base_urls), self.base_delay_s)


_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def _text_answer(content: Mapping[str, Any]) -> Answer:
    choice = content["choices"][0]
    message, finish_reason = choice["message"], choice.get("finish_reason")
    text = _joined_text(message.get("content"))
    if not text.strip():
        thoughts = next((message[key] for key in _THOUGHTS if message.get(key)), None)
        if isinstance(thoughts, str):
            # Some servers put the whole answer here when thinking is off. What was cut off here is no answer yet.
            text = f"<think>{thoughts}" if finish_reason == "length" else thoughts
        elif isinstance(message.get("refusal"), str):
            text = message["refusal"]
    return Answer(text=valid_text(text), finish_reason=finish_reason, **_usage(content))


def _joined_text(content: Any) -> str:
    """The text of a message: a string, or parts of which some may be thoughts; "" where there is none."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") in ("text", "output_text"))
    if content is not None and not isinstance(content, str):
        raise ValueError(f"the message has no text but {content!r:.100}")
    return content or ""


def _score_answer(content: Mapping[str, Any], tokens: Sequence[int]) -> Answer:
    """Log-probabilities of `tokens`, in their order."""
    entries = content["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    found = {int(entry["token"].removeprefix("token_id:")): float(entry["logprob"]) for entry in entries}
    return Answer(log_probabilities=tuple(found[token] for token in tokens), **_usage(content))


def _usage(content: Mapping[str, Any]) -> dict[str, Any]:
    usage = content.get("usage") or {}
    return {"prompt_tokens": usage.get("prompt_tokens"), "new_tokens": usage.get("completion_tokens")}


def _passes(status: int) -> bool:
    """May the same request succeed later?"""
    return status in (408, 409, 429) or status >= 500


def _error_within(content: Any) -> int:
    """The status of an error that a server sent as a successful reply; 0 where it sent none."""
    if not isinstance(content, Mapping) or not content.get("error") or content.get("choices"):
        return 0
    code = content["error"].get("code") if isinstance(content["error"], Mapping) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _message_of(body: Any) -> str:
    """What a server said."""
    return str((body.get("message") if isinstance(body, Mapping) else body) or "")


@dataclass(frozen=True)
class _Access:
    """What an address holds beside the address.

    Attributes:
        basic: user and password in Base64; "" for none.
        query: its names and values.
        secrets: what must never be printed.
    """

    basic: str = ""
    query: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()


def public_url(url: str) -> str:
    """An address without user, password, query and a slash at its end."""
    return re.sub(r"[?#].*", "", re.sub(r"^(\w+://)?.*@", r"\1", url)).rstrip("/")


def _read_access(url: str) -> _Access:
    try:
        parts = urlsplit(url)
        user, password, _ = unquote(parts.username or ""), unquote(parts.password or ""), parts.port
        if "@" in parts.path:
            raise ValueError("an @ behind the host")
    except ValueError as error:
        raise LLMError(
            f"base_urls: {public_url(url)!r} is no address. In a user's name or password write / as %2F, @ as %40."
        ) from error
    basic = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    query = tuple(parse_qsl(parts.query))
    secrets = (password, quote(password, safe=""), basic, *(value for _, value in query))
    return _Access(basic, query, tuple(filter(None, secrets)))
