"""A language model behind one or several OpenAI-compatible servers, such as `vllm serve`."""

import base64
import itertools
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ..extras import require
from ..text import valid_text
from .base import Answer, ChoiceTrie, LLMBackend, LLMError, Message, Sampling, Structure

T = TypeVar("T")

DIALECTS = ("vllm", "openai")
LONGEST_DELAY_S = 60.0

_NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


class _RequestError(Exception):
    """One request failed; others may succeed."""


class OpenAIBackend(LLMBackend):
    """Send concurrent requests over HTTP, with retries; servers take turns and stand in for each other.

    A timeout, a lost connection, HTTP 408, 409, 429 and 5xx, and a reply that is not a completion are retried on the
    next server. After all servers have failed, the next attempt waits for the time given in `Retry-After`, or for a
    delay that doubles every round. After `max_attempts` the answer carries the error. A completion is never requested
    again, not even an empty one, because the same request would return the same answer. Errors that no retry can fix
    (an invalid key, an unknown model, an exhausted quota, no reachable server) stop the whole call.

    Args:
        model: the servers' name for the model.
        base_urls: `http://host:port/v1` of each server. `user:password@` and a query are sent, but never printed,
            stored or pickled.
        revision: a name for the weights and precision that the servers run, which they do not report. A new name
            makes stored answers invalid.
        dialect: `"vllm"` uses extensions of vLLM's server (regular expressions, scores, thinking off); `"openai"` only
            what every server supports (JSON schemas).
        api_key: default: the environment variable OPENAI_API_KEY. Local servers need none.
        concurrency: number of simultaneous requests.
        max_attempts: attempts per request.
        timeout_s: seconds per attempt.
        base_delay_s: delay after the first failed round, in seconds.
    """

    name = "openai"
    _live = frozenset({"_clients", "_access", "_turns"})

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
        base_delay_s: float = 1.0,
    ) -> None:
        super().__init__(model, revision)

        if dialect not in DIALECTS:
            raise LLMError(f"dialect={dialect!r}; allowed: {', '.join(DIALECTS)}.")

        if concurrency < 1 or max_attempts < 1:
            raise LLMError("concurrency and max_attempts must be at least 1.")

        given = [base_urls] if isinstance(base_urls, str) else [str(url) for url in base_urls]
        if isinstance(base_urls, str) or not given or not all(url.startswith(("http:", "https:")) for url in given):
            shown = ", ".join(map(public_url, given)) or "none"
            raise LLMError(f"base_urls: pass a list of addresses such as http://localhost:8000/v1, not {shown}.")

        self._access = {public_url(url): _read_access(url) for url in given}
        self.base_urls = tuple(self._access)
        self.dialect = dialect
        self.api_key = api_key
        self.concurrency = concurrency
        self.max_attempts = max_attempts
        self.timeout_s = timeout_s
        self.base_delay_s = base_delay_s

    @cached_property
    def revision(self) -> str | None:
        return self._asked_revision

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"dialect": self.dialect}

    def tokenize(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if self.dialect != "vllm":
            raise LLMError("Only vLLM's server scores answers (dialect='vllm'). With others, use generate.")

        self._connect()
        body = {"model": self.model, "add_special_tokens": False}

        def read(reply: Mapping[str, Any]) -> tuple[int, ...]:
            return tuple(map(int, reply["tokens"]))

        return [self._request_root("tokenize", body | {"prompt": text}, read) for text in texts]

    def close(self) -> None:
        for client in vars(self).pop("_clients", {}).values():
            client.close()

    def __getstate__(self) -> dict[str, Any]:
        # A pickle may be written to disk, so keys and passwords stay in memory. A copy reads the environment.
        return super().__getstate__() | {"api_key": None}

    # One task per prompt

    def _generate(
        self, conversations: Sequence[list[Message]], sampling: Sampling, structure: Structure | None
    ) -> Iterator[tuple[int, Answer]]:
        body = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "max_tokens": sampling.max_new_tokens,
            **self._form(structure),
        }

        def ask(conversation: list[Message], stop: threading.Event) -> Answer:
            return self._request("chat/completions", body | {"messages": conversation}, _text_answer, stop)

        return self._concurrently(ask, conversations)

    def _score(self, conversations: Sequence[list[Message]], trie: ChoiceTrie) -> Iterator[tuple[int, Answer]]:
        # The server expects the beginning of the answer as text.
        beginnings = {
            node: self._request_root(
                "detokenize", {"model": self.model, "tokens": list(node)}, lambda reply: str(reply["prompt"])
            )
            for node in trie.nodes
            if node
        }

        common = {"model": self.model, "max_tokens": 1, "temperature": 0, **_NO_THINKING}
        common |= {"logprobs": True, "return_tokens_as_token_ids": True}

        def ask(conversation: list[Message], stop: threading.Event) -> Answer:
            of_node = {}
            usage: dict[str, Any] = {}

            for node, children in trie.nodes.items():
                body = common | {"messages": conversation, "logprob_token_ids": list(children)}
                if node:
                    body["messages"] = [*conversation, {"role": "assistant", "content": beginnings[node]}]
                    body |= {"add_generation_prompt": False, "continue_final_message": True}

                reply = self._request("chat/completions", body, _with_scores(children), stop)
                of_node[node] = reply.pop("scores")
                usage = usage or reply

            scored = trie.log_probabilities(of_node)
            return Answer(log_probabilities=scored, prompt_tokens=usage["prompt_tokens"], new_tokens=len(of_node))

        return self._concurrently(ask, conversations)

    def _form(self, structure: Structure | None) -> dict[str, Any]:
        """Return the parts of a request that turn thinking off and fix the form of the answer."""
        if self.dialect == "vllm":
            return _NO_THINKING if structure is None else _NO_THINKING | {"structured_outputs": structure.preferred}

        if structure is None:
            return {}

        if structure.json_schema is None:
            raise LLMError("An OpenAI server only accepts JSON schemas. Use dialect='vllm' for a regular expression.")

        schema = {"name": "answer", "strict": True, "schema": dict(structure.json_schema)}

        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def _concurrently(
        self, ask: Callable[[list[Message], threading.Event], Answer], conversations: Sequence[list[Message]]
    ) -> Iterator[tuple[int, Answer]]:
        self._connect()
        stop = threading.Event()
        executor = ThreadPoolExecutor(self.concurrency, thread_name_prefix="llm")
        waiting = iter(enumerate(conversations))
        running: dict[Future[Answer], int] = {}

        try:
            while True:
                # A request goes out only when the caller has taken the answer before it, so that a kill loses no more
                # answers than there are connections.
                for index, conversation in itertools.islice(waiting, self.concurrency - len(running)):
                    running[executor.submit(ask, conversation, stop)] = index

                if not running:
                    break

                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    try:
                        answer = future.result()
                    except _RequestError as error:
                        answer = Answer(error=str(error))
                    yield running.pop(future), answer
        except BaseException:  # Ctrl-C, an error, or a caller that stops: send no further requests
            stop.set()
            executor.shutdown(wait=False, cancel_futures=True)
            self.close()
            raise

        executor.shutdown()

    # One request

    def _request(
        self, path: str, body: dict[str, Any], read: Callable[[Any], T], stop: threading.Event | None = None
    ) -> T:
        """Return what `read` extracts from the reply, after as many attempts as needed and allowed.

        The client's own retries are off: it would retry on one server only, could not be interrupted while it waits,
        and takes an error that is sent with status 200 for a reply.

        Raises:
            _RequestError: this request failed.
            LLMError: every request would fail.
        """
        import openai

        stop = stop or threading.Event()
        clients = self._clients
        servers = len(self.base_urls)
        first = next(self._turns)
        faults: list[str] = []
        unreachable = 0
        retry_after_s = None

        for attempt in range(self.max_attempts):
            if attempt and attempt % servers == 0:  # all servers have failed
                delay_s = min(LONGEST_DELAY_S, self.base_delay_s * 2 ** (attempt // servers - 1))
                # A random part, so that many requests do not return at the same moment.
                stop.wait(delay_s * random.uniform(0.5, 1.0) if retry_after_s is None else retry_after_s)
                retry_after_s = None

            if stop.is_set():
                raise _RequestError("stopped")

            url = self.base_urls[(first + attempt) % servers]
            reply = None

            try:
                reply = json.loads(clients[url].post(f"{url}/{path}", cast_to=str, body=body))
                self._raise_error_within(reply)
                return read(reply)
            except openai.APITimeoutError:
                faults.append(f"no answer within {self.timeout_s:g} s")
            except openai.APIConnectionError as error:
                unreachable += 1
                faults.append(f"no connection to {url} ({self._hide(str(error.__cause__ or error))})")
            except openai.APIStatusError as error:
                message = self._hide(_message_of(error.body) or str(error))

                if error.status_code in (401, 403, 404) or error.code == "insufficient_quota":
                    raise LLMError(f"{url} refuses every request ({error.status_code}): {message}") from None

                if not _may_pass(error.status_code):
                    raise _RequestError(f"{error.status_code}: {message}") from None

                retry_after_s = _retry_after_s(error.response.headers.get("retry-after"), retry_after_s)
                faults.append(f"{error.status_code}: {message}")
            except (ValueError, LookupError, TypeError, AttributeError) as error:  # not JSON, or an unexpected shape
                fault = f"an unreadable answer ({type(error).__name__}: {self._hide(str(error))})"
                if isinstance(reply, Mapping) and reply.get("choices"):  # a retry would return the same
                    raise _RequestError(fault) from None
                faults.append(fault)

        if unreachable == self.max_attempts:
            tried = f"Tried {unreachable} times: {', '.join(self.base_urls)}"
            raise LLMError(f"No server answers: {faults[-1]}. {tried}. Start one, or fix base_urls.")

        raise _RequestError(f"{self.max_attempts} attempts: {'; '.join(dict.fromkeys(faults))}")

    def _request_root(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        """Call an endpoint of vLLM's server outside the OpenAI interface."""
        try:
            return self._request(f"../{path}", body, read)
        except _RequestError as error:
            raise LLMError(f"The server does not answer /{path}: {error}") from None

    def _raise_error_within(self, reply: Any) -> None:
        """Raise the error that some servers send as a successful reply."""
        if not isinstance(reply, Mapping) or not reply.get("error") or reply.get("choices"):
            return

        code = reply["error"].get("code") if isinstance(reply["error"], Mapping) else None
        message = self._hide(_message_of(reply["error"]))

        if isinstance(code, int) and 400 <= code < 600 and not _may_pass(code):
            raise _RequestError(f"{code}: {message}")

        raise ValueError(message)

    def _connect(self) -> None:
        if "_clients" in vars(self):
            return

        require("openai")
        import openai

        key = self._key()
        self._turns = itertools.count()
        self._clients = {}

        for url in self.base_urls:
            access = vars(self).get("_access", {}).get(url, _Access())
            # Set as a header, so that vLLM's own endpoints get it as well.
            authorization = f"Basic {access.basic}" if access.basic else f"Bearer {key}"
            self._clients[url] = openai.OpenAI(
                base_url=url,
                api_key=key,
                default_headers={"Authorization": authorization},
                default_query=dict(access.query),
                timeout=self.timeout_s,
                max_retries=0,
            )

    def _key(self) -> str:
        return self.api_key or os.environ.get("OPENAI_API_KEY") or "none"

    def _hide(self, text: str) -> str:
        """Remove the keys and passwords that a server or library may repeat in a message."""
        secrets = [secret for access in vars(self).get("_access", {}).values() for secret in access.secrets]

        for secret in (*secrets, self._key()):
            if len(secret) > 3 and secret != "none":
                text = text.replace(secret, "***")

        return " ".join(text.split())[:300]


# Reading replies


def _text_answer(reply: Mapping[str, Any]) -> Answer:
    choice = reply["choices"][0]
    message, finish_reason = choice["message"], choice.get("finish_reason")
    text = _joined_text(message.get("content"))

    if not text.strip():
        thoughts = next((message[key] for key in _THOUGHTS if message.get(key)), None)
        if isinstance(thoughts, str):
            # Some servers put the whole answer here if thinking is off. If it was cut off, it is not an answer yet.
            text = f"<think>{thoughts}" if finish_reason == "length" else thoughts
        elif isinstance(message.get("refusal"), str):
            text = message["refusal"]

    return Answer(text=valid_text(text), finish_reason=finish_reason, **_usage(reply))


def _joined_text(content: Any) -> str:
    """Return the text of a message, given as a string or as parts of which some may be thoughts; "" without text."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") in ("text", "output_text"))

    if content is not None and not isinstance(content, str):
        raise ValueError(f"the message has no text but {content!r:.100}")

    return content or ""


def _with_scores(tokens: Sequence[int]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a reader of the log-probabilities of `tokens`."""

    def read(reply: Mapping[str, Any]) -> dict[str, Any]:
        entries = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found = {int(entry["token"].removeprefix("token_id:")): float(entry["logprob"]) for entry in entries}
        return {"scores": {token: found[token] for token in tokens}, **_usage(reply)}

    return read


def _usage(reply: Mapping[str, Any]) -> dict[str, Any]:
    usage = reply.get("usage") or {}
    return {"prompt_tokens": usage.get("prompt_tokens"), "new_tokens": usage.get("completion_tokens")}


def _may_pass(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in (408, 409, 429) or status >= 500


def _message_of(body: Any) -> str:
    return str((body.get("message") if isinstance(body, Mapping) else body) or "")


def _retry_after_s(header: str | None, before: float | None) -> float | None:
    """Return the seconds in a `Retry-After` header (a number or an HTTP date), or `before` if that is longer."""
    try:
        seconds = float(header or "")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header or "").timestamp() - time.time()
        except ValueError:
            return before

    return max(0.0, seconds, before or 0.0)


# Addresses


@dataclass(frozen=True)
class _Access:
    """The secret parts of an address.

    Attributes:
        basic: user and password in Base64, or "".
        query: names and values.
        secrets: strings that must never be printed.
    """

    basic: str = ""
    query: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()


def public_url(url: str) -> str:
    """Return an address without user, password, query and trailing slash."""
    return re.sub(r"[?#].*", "", re.sub(r"^(\w+://)?.*@", r"\1", url)).rstrip("/")


def _read_access(url: str) -> _Access:
    try:
        parts = urlsplit(url)
        user, password, _ = unquote(parts.username or ""), unquote(parts.password or ""), parts.port
        if "@" in parts.path:
            raise ValueError("an @ after the host")
    except ValueError as error:
        hint = "In a user's name or password, write / as %2F and @ as %40."
        raise LLMError(f"base_urls: {public_url(url)!r} is not a valid address. {hint}") from error

    basic = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    query = tuple(parse_qsl(parts.query))
    secrets = (password, quote(password, safe=""), basic, *(value for _, value in query))

    return _Access(basic, query, tuple(filter(None, secrets)))
