"""The answer within what a model wrote: without its thoughts, control tokens, or a code fence."""

import re

_TAG = r"(?:\w+:)?(?:think|thinking|thought|reasoning|reflection)"
_OPEN = re.compile(rf"<{_TAG}(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|begin_of_thought\|>", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_TAG}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>", re.IGNORECASE)
_CHANNEL = re.compile(r"^\s*(?:<\|channel\|>)?(?:analysis|commentary)(?:<\|message\|>|(?=\W|[A-Z]))")
_FINAL = re.compile(r"(?:<\|channel\|>|assistant)final(?:<\|message\|>)?")
"""gpt-oss thinks and answers in channels; some servers leave their names, with or without the control tokens."""

_CONTROL = re.compile(r"<\|\w+\|>|</s>|</?answer>", re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)```", re.DOTALL)


class UnfinishedAnswerError(ValueError):
    """A model that was cut off while it was thinking. Only more tokens, or less thinking, can help."""


def without_thinking(text: str) -> str:
    """What a model answers, without `<think>...</think>` and its like.

    There may be several blocks. A block may lack its beginning, which some chat templates put into the prompt. Control
    tokens that a server did not skip, such as `<|im_end|>`, are left out.

    Raises:
        UnfinishedAnswerError: nothing but thoughts, the last of them without an end.
    """
    if _CHANNEL.match(text):
        *_, text = (found := _FINAL.split(text))
        if len(found) == 1:
            raise UnfinishedAnswerError("the answer was cut off while the model was thinking")
    kept = []
    while opening := _OPEN.search(text):
        closing = _CLOSE.search(text, opening.end())
        kept.append(text[: opening.start()])
        if closing is None:
            text = ""
            if not "".join(kept).strip():
                raise UnfinishedAnswerError("the answer was cut off while the model was thinking")
            break
        text = text[closing.end() :]
    return _CONTROL.sub("", _CLOSE.split("".join([*kept, text]))[-1]).strip()


def without_fence(text: str) -> str:
    """The content of a Markdown code fence, if there is exactly one; else the text itself. A fence that was never
    closed ends with the text."""
    if text.count("```") == 1:
        text += "```"
    fenced = _FENCE.findall(text)
    return fenced[0].strip() if len(fenced) == 1 else text
