"""The HTTP back end against a scripted server: what it sends, what it tries again, when it gives up."""

import base64
import pickle
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from bibier_hf.llm import LLMError, Sampling, Structure, get_backend
from bibier_hf.llm.openai_backend import _retry_after_s

FAULTS = {
    "429": {"status": 429, "headers": {"retry-after": "0"}},
    "500": {"status": 500},
    "503": {"status": 503},
    "time-out": {"delay_s": 0.7},
}


@pytest.mark.parametrize("fault", [*FAULTS, "malformed JSON", "no choices", "a page", "an error as a reply"])
def test_a_fault_that_passes_is_tried_again(fake, serve, backend_to, fault):
    bodies = {"malformed JSON": b'{"choices": [', "no choices": {"detail": "?"}, "a page": b"<html>busy</html>"}
    bodies["an error as a reply"] = {"error": {"code": 503, "message": "busy"}}

    def respond(path, body, seen):
        if seen >= 2:
            return fake.text_reply("fine")
        return fake.Reply(bodies.get(fault, {"error": {"message": "busy"}}), **FAULTS.get(fault, {}))

    server = serve(respond)
    (answer,) = backend_to(server).generate(["hello"])
    assert (answer.text, answer.error, answer.prompt_tokens, answer.new_tokens) == ("fine", None, 7, 3)
    assert len(server.requests) == 3


def test_a_fault_that_stays_becomes_the_error_of_its_answer_alone(fake, serve, backend_to):
    def respond(path, body, seen):
        poison = "poison" in body["messages"][-1]["content"]
        return fake.Reply({"error": {"message": "out of memory"}}, status=500) if poison else fake.text_reply("fine")

    server = serve(respond)
    answers = backend_to(server).generate(["one", "poison", "two"])
    assert [answer.text for answer in answers] == ["fine", None, "fine"]
    assert "4 attempts" in answers[1].error
    assert "out of memory" in answers[1].error
    assert server.questions().count("poison") == 4


def test_what_the_request_itself_is_to_blame_for_is_not_tried_again(fake, serve, backend_to):
    server = serve(lambda *_: fake.Reply({"message": "prompt too long"}, status=400))
    (answer,) = backend_to(server).generate(["hello"])
    assert "prompt too long" in answer.error
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("message", "finish_reason", "text"),
    [
        ({"content": None}, "stop", ""),
        ({"content": ""}, "length", ""),
        ({"content": "", "reasoning_content": "0.1, 0.9"}, "stop", "0.1, 0.9"),
        ({"content": None, "reasoning": "0.1, 0.9"}, "stop", "0.1, 0.9"),
        ({"content": "", "thinking": "0.1, 0.9"}, "stop", "0.1, 0.9"),
        ({"content": "0.1, 0.9", "reasoning_content": "Let me see: 0.5, 0.5"}, "stop", "0.1, 0.9"),
        ({"content": None, "reasoning_content": "0.5, 0.5 or"}, "length", "<think>0.5, 0.5 or"),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "0.1"}]}, "stop", "0.1"),
        ({"content": None, "refusal": "I cannot"}, "stop", "I cannot"),
        ({"content": "0.1\ud83d"}, "stop", "0.1\ufffd"),  # half an emoji, which no store takes
    ],
)
def test_the_text_is_where_the_server_puts_it_and_asked_for_once(
    fake, serve, backend_to, message, finish_reason, text
):
    """Even a reply without any text is asked for once: a greedy model would say the same again."""
    server = serve(lambda *_: fake.Reply({"choices": [{"message": message, "finish_reason": finish_reason}]}))
    (answer,) = backend_to(server).generate(["hello"])
    assert (answer.text, answer.finish_reason, answer.error) == (text, finish_reason, None)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"text": "another interface"}]},
        {"choices": [{"message": None, "finish_reason": "content_filter"}]},
        {"choices": [{"message": {"content": ["text"]}}]},
        {"error": {"code": 400, "message": "too long"}},
    ],
)
def test_a_reply_that_will_not_change_is_asked_for_once(fake, serve, backend_to, body):
    server = serve(lambda *_: fake.Reply(body))
    (answer,) = backend_to(server).generate(["hello"])
    assert answer.error
    assert len(server.requests) == 1


def test_an_exhausted_quota_stops_the_call(fake, serve, backend_to):
    body = {"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}}
    server = serve(lambda *_: fake.Reply(body, status=429))
    with pytest.raises(LLMError, match="exceeded your quota"):
        backend_to(server, concurrency=1).generate(["hello"] * 5)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_request_can_pass_stops_the_call(fake, serve, backend_to, status):
    server = serve(lambda *_: fake.Reply({"error": {"message": "no such model"}}, status=status))
    with pytest.raises(LLMError, match=f"{status}.*no such model"):
        backend_to(server).generate(["hello"] * 40)
    assert len(server.requests) < 40


def test_no_server_at_all_is_an_error_with_a_remedy():
    backend = get_backend("openai", "tiny", base_urls=["http://127.0.0.1:9/v1"], base_delay_s=0.01, max_attempts=2)
    with pytest.raises(LLMError, match=r"No server answers.*127\.0\.0\.1:9.*fix base_urls"):
        backend.generate(["hello"])


def test_retry_after_is_waited_for(fake, serve, backend_to):
    server = serve(
        lambda path, body, seen: (
            fake.text_reply() if seen else fake.Reply({}, status=429, headers={"retry-after": "0.4"})
        )
    )
    start = time.monotonic()
    backend_to(server).generate(["hello"])
    assert time.monotonic() - start >= 0.4


def test_retry_after_in_every_form():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert _retry_after_s("2.5", None) == 2.5
    assert _retry_after_s("2.5", 7.0) == 7.0  # another server asked for more
    assert 28 < _retry_after_s(soon, None) <= 30
    assert _retry_after_s("Thu, 01 Jan 2026 11:00:00 GMT", None) == 0
    assert _retry_after_s(None, None) is None
    assert _retry_after_s("soon", None) is None


def test_servers_take_turns_and_stand_in_for_each_other(fake, serve, backend_to):
    good, bad = serve(lambda *_: fake.text_reply("good")), serve(lambda *_: fake.Reply({}, status=503))
    answers = backend_to(good, bad, base_delay_s=5.0).generate([str(number) for number in range(12)])
    assert {answer.text for answer in answers} == {"good"}
    assert 1 <= len(bad.requests) <= 8  # those under way before the first failure came back
    both = [serve(lambda *_: fake.text_reply()) for _ in range(2)]
    backend_to(*both, concurrency=1).generate(["x"] * 10)
    assert [len(server.requests) for server in both] == [5, 5]


def test_answers_keep_their_order_and_are_told_at_once(fake, serve, backend_to):
    def respond(path, body, seen):
        number = body["messages"][-1]["content"]
        return fake.text_reply(number, delay_s=0.01 * (int(number) * 3 % 7))

    server = serve(respond)
    told = {}
    answers = backend_to(server).generate([str(number) for number in range(20)], on_answer=told.__setitem__)
    assert [answer.text for answer in answers] == [str(number) for number in range(20)]
    assert told == dict(enumerate(answers))


def test_the_request_says_how_to_answer(fake, serve, backend_to):
    server = serve(lambda *_: fake.text_reply())
    sampling = Sampling(temperature=0.5, top_p=0.9, seed=3, max_new_tokens=11)
    structure = Structure(regex="a|b", json_schema={"type": "string"})
    backend_to(server).generate(["hello"], sampling, structure)
    backend_to(server, dialect="openai").generate(["hello"], sampling, structure)
    vllm, openai = (body for _, body in server.requests)
    for body in (vllm, openai):
        assert (body["temperature"], body["top_p"], body["seed"], body["max_tokens"], body["model"]) == (
            0.5,
            0.9,
            3,
            11,
            "tiny",
        )
    assert vllm["structured_outputs"] == {"regex": "a|b"}
    assert vllm["chat_template_kwargs"] == {"enable_thinking": False}
    assert openai["response_format"]["json_schema"]["schema"] == {"type": "string"}
    assert "structured_outputs" not in openai
    with pytest.raises(LLMError, match="dialect='vllm'"):
        backend_to(server, dialect="openai").generate(["hello"], structure=Structure(regex="a"))


def test_scores_of_choices_of_several_tokens(fake, serve, backend_to):
    """ "ab" and "ac" share their first token: the log-probability of each is the sum along its tokens."""
    tokens = {"ab": [1, 2], "ac": [1, 3], "d": [4]}
    scores = {None: {1: -0.5, 4: -1.0}, "a": {2: -0.25, 3: -2.0}}

    def respond(path, body, seen):
        if path.endswith("/detokenize"):
            assert body["tokens"] == [1]
            return fake.Reply({"prompt": "a"})
        if path.endswith("/tokenize"):
            return fake.Reply({"tokens": tokens[body["prompt"]]})
        begun = body["messages"][-1]["content"] if body["messages"][-1]["role"] == "assistant" else None
        assert body.get("continue_final_message", False) == (begun is not None)
        top = [{"token": f"token_id:{token}", "logprob": scores[begun][token]} for token in body["logprob_token_ids"]]
        return fake.Reply({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]})

    backend = backend_to(serve(respond))
    (answer,) = backend.score(["which?"], ["ab", "ac", "d"])
    assert answer.log_probabilities == (-0.75, -2.5, -1.0)
    with pytest.raises(LLMError, match="dialect='vllm'"):
        backend_to(serve(respond), dialect="openai").score(["which?"], ["ab", "d"])


def test_the_key_is_sent_and_not_pickled(fake, serve, backend_to):
    server = serve(lambda *_: fake.text_reply())
    backend = backend_to(server, api_key="secret-key")
    backend.generate(["hello"])
    assert server.headers[0].get("authorization") == "Bearer secret-key"
    content = pickle.dumps(backend)
    assert b"secret-key" not in content
    assert pickle.loads(content).generate(["hello"])[0].text == fake.GOOD


def test_passwords_in_an_address_are_sent_and_never_shown(fake, serve, backend_to):
    server = serve(lambda *_: fake.text_reply())
    url = server.url.replace("//", "//ann:pa%20ssword@") + "?token=to-ken"
    backend = get_backend("openai", "tiny", base_urls=[url])
    backend.generate(["hello"])
    assert server.headers[0]["authorization"] == f"Basic {base64.b64encode(b'ann:pa ssword').decode()}"
    assert server.requests[0][0] == "/v1/chat/completions?token=to-ken"
    assert backend.base_urls == (server.url,)
    assert b"ssword" not in pickle.dumps(backend)
    assert b"to-ken" not in pickle.dumps(backend)


@pytest.mark.parametrize("status", [401, 400, 503, None])
def test_errors_show_no_password(fake, serve, backend_to, status):
    def respond(path, body, seen):
        return fake.Reply({"error": {"message": "pa ssword, to-ken and pa%20ssword are wrong"}}, status=status)

    address = "http://127.0.0.1:9/v1" if status is None else serve(respond).url
    url = address.replace("//", "//ann:pa%20ssword@") + "?token=to-ken"
    backend = get_backend("openai", "tiny", base_urls=[url], max_attempts=2, base_delay_s=0.01)
    try:
        text = backend.generate(["hello"])[0].error
    except LLMError as error:
        text = "".join(traceback.format_exception(error, chain=True)[-1:])
    assert text
    assert "ssword" not in text
    assert "to-ken" not in text


@pytest.mark.parametrize(
    "url",
    ["ann:password@host/v1", "http://ann:password/@host/v1", "http://ann:12/password@host", "ftp://a:password@b"],
)
def test_an_address_that_cannot_be_read_is_shown_without_its_password(url):
    for given in (url, [url]):
        with pytest.raises(LLMError) as caught:
            get_backend("openai", "tiny", base_urls=given)
        assert "password" not in str(caught.value).replace("user's name or password", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dialect": "vlm"}, "allowed: vllm, openai"),
        ({"base_urls": "http://x/v1"}, "pass a list"),
        ({"base_url": ["http://x/v1"]}, "unexpected keyword argument 'base_url'.*base_urls"),
        ({"base_urls": ["http://x:port/v1"]}, "is not a valid address"),
        ({"base_urls": []}, "pass a list"),
        ({"concurrency": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(LLMError, match=message):
        get_backend("openai", "tiny", **options)
