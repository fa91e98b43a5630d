"""Extract a model's answer from its output: without thoughts, control tokens or a code fence."""

import re

_TAG = r"(?:\w+:)?(?:think|thinking|thought|reasoning|reflection)"
_OPEN = re.compile(rf"<{_TAG}(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|begin_of_thought\|>", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_TAG}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>", re.IGNORECASE)
_CHANNEL = re.compile(r"^\s*(?:<\|channel\|>)?(?:analysis|commentary)(?:<\|message\|>|(?=\W|[A-Z]))")
_FINAL = re.compile(r"(?:<\|channel\|>|assistant)final(?:<\|message\|>)?")
"""gpt-oss thinks and answers in channels. Some servers leave their names in the text, with or without the control
tokens."""

_CONTROL = re.compile(r"<\|\w+\|>|</s>|</?answer>", re.IGNORECASE)
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)```", re.DOTALL)


class UnfinishedAnswerError(ValueError):
    """The model was cut off while thinking. Only more tokens or less thinking can help."""


def without_thinking(text: str) -> str:
    """Return an answer without `<think>...</think>` and similar blocks.

    A block may lack its opening tag, which some chat templates put into the prompt. Control tokens that a server did
    not skip, such as `<|im_end|>`, are removed as well.

    Raises:
        UnfinishedAnswerError: there are only thoughts, and the last block is not closed.
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
    """Return the content of the Markdown code fence if there is exactly one, otherwise the text.

    A fence that is not closed ends with the text.
    """
    if text.count("```") == 1:
        text += "```"

    fenced = _FENCE.findall(text)

    return fenced[0].strip() if len(fenced) == 1 else text
