"""The rewrite in what an LLM answers: without thinking, courtesies, JSON, code fences, end tokens. Our definition.

Models answer in more than the rewrite, and some do not rewrite at all: they apologise, ask back, or run out of tokens
while they think. What is no rewrite must not reach the fusion, with the filter or without.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

MAX_ANSWER_CHARACTERS: Final = 2000
_MAX_LINE: Final = 3 * MAX_ANSWER_CHARACTERS

_THINKING: Final = r"think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|seed:think"
_OPENED: Final = re.compile(rf"<(?:{_THINKING})>|\[THINK\]|◁think▷", re.IGNORECASE)
_CLOSED: Final = re.compile(rf"</(?:{_THINKING})>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_FINAL_CHANNEL: Final = re.compile(r"<\|channel\|>final.*?<\|message\|>", re.DOTALL)
_CHANNEL: Final = re.compile(r"<\|channel\|>")
"""Of the harmony format (gpt-oss): other channels than *final* hold thinking."""
_TURN_BEGINS: Final = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|\[/INST\]|<\|assistant\|>|<\|im_start\|>\s*assistant|"
    r"<start_of_turn>\s*model|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>)"
)
_TURN_ENDS: Final = re.compile(
    r"</s>|<eos>|<\|[a-z_]+\|>|<(?:end|start)_of_turn>|\[/?INST\]|<｜[^｜>]+｜>"
)
_FENCE: Final = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|$)", re.DOTALL)
_TAG: Final = re.compile(
    r"<(answer|output|rewrite|rewritten|result|caption|response)>(.*?)(?:</\1>|$)", re.DOTALL
)
_JSON: Final = re.compile(r"[{\[]\s*[\"{\[]")
_KEYS: Final = (
    *("rewrite", "rewritten_caption", "rewritten", "rewrites", "paraphrase", "caption", "captions"),
    *("answer", "output", "result", "response", "text", "content"),
)
_CLAUSE: Final = r"[^:.]{0,200}"
_NOUNS: Final = r"(?:rewrit|rephras|reword|paraphras|version|caption|alternative|option|json)"
_COURTESY: Final = re.compile(
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|got it|understood)"
    r"(?:[!.,:]+\s*|\s+(?=here\b)|$)",
    re.IGNORECASE,
)
_INTRODUCTION: Final = re.compile(
    rf"(?:here(?:['’]s| is| are)|below (?:is|are))\b{_CLAUSE}{_NOUNS}{_CLAUSE}(?::\s*|$)|"
    rf"(?:this is|one|the|my|a)\b{_CLAUSE}{_NOUNS}{_CLAUSE}:\s*|(?:option|version|rewrite) \d+:\s*|"
    rf"(?:the|my|a) {_CLAUSE}{_NOUNS}\w* (?:is|would be|could be|reads)\s*(?=[\"“])",
    re.IGNORECASE,
)
_LABEL: Final = re.compile(
    r"(?:(?:final|your|new|here)\s+)?(?:rewritten|rewrite|rephrased|reworded|paraphrased?|revised|output|answer|"
    r"caption|response|result|assistant)(?: (?:caption|version|text|sentence|answer))?(?: this caption)?\s*:\s*",
    re.IGNORECASE,
)
_LIST_MARK: Final = re.compile(r"(?:[-*•>#]+|\(?\d{1,2}[.)]|\(?[a-c]\))\s+", re.IGNORECASE)
_REMARK: Final = re.compile(
    r"\s*[(\[](?:note|explanation|i (?:kept|have|changed))\b.*$", re.IGNORECASE
)
_QUOTED: Final = re.compile(r"[\"“”„‘'«`](.+)[\"“”’'»`]|[\"“](.+?[.!?])[\"”]\s.*")
_NO_REWRITE: Final = re.compile(
    r"(?:(?:i['’]?m|i am|we['’]re|we are)\s+)?(?:(?:so|very|really|terribly)\s+)?sorry\b|"
    r"(?:i|we) (?:apologi[sz]e|can(?:no|['’])t|can not|(?:am|are) (?:unable|not able)|won['’]t|will not|"
    r"do(?:n['’]t| not) (?:have|see|understand|know)|need|must|have to|should|want to|will)\b|(?:i|we)['’]ll\b|"
    r"(?:my )?apologies\b|unfortunately\b|as an? (?:ai|artificial|large language|language)\b|"
    r"(?:could|can|would) you\b|please (?:provide|share|clarify|give|specify|paste)\b|(?:there is )?no caption\b|"
    r"(?:(?:hmm+|well|so|first|now|wait)[, ]+)?(?:the user (?:wants|asks?|asked|is asking|has|gave|would|needs)|"
    r"let me|let['’]s|thinking process)\b",
    re.IGNORECASE,
)
"""Apologies, questions back, thinking aloud."""
_SAYS_SOMETHING: Final = re.compile(r"[^\W_]")


def rewrite_in(answer: str, source: str = "") -> str:
    """The rewrite that an answer holds, on one line; "" for none.

    The first line that says something is taken, without what introduces it and without marks around it. ``source``: a
    caption that itself opens like an apology or like thinking aloud may be rewritten so.
    """
    text = _without_thinking(answer)
    while found := _TURN_BEGINS.match(text):
        text = text[found.end() :]
    text = _TURN_ENDS.split(text, maxsplit=1)[0]
    for pattern in (_FENCE, _TAG):
        if found := pattern.search(text):
            text = found[found.lastindex or 0]
    line = next(filter(_SAYS_SOMETHING.search, map(_bare, _unpacked(text).splitlines())), "")
    if _NO_REWRITE.match(line) and not _NO_REWRITE.match(source):
        return ""
    return line[:MAX_ANSWER_CHARACTERS]


def _without_thinking(answer: str) -> str:
    text = _FINAL_CHANNEL.split(answer)[-1]
    if _CHANNEL.search(text):
        return ""
    # Chat templates may have opened the thinking before the answer begins; an answer may end before it is closed.
    return _OPENED.split(_CLOSED.split(text)[-1], maxsplit=1)[0].strip()


def _unpacked(text: str) -> str:
    """The text in a JSON value, "" for one that holds none or is cut off; the text itself without JSON."""
    start = _JSON.search(text)
    if start is None:
        return text
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start.start())
        return next(filter(None, _texts(value)), "")
    except (ValueError, RecursionError):
        return text if text[: start.start()].strip() else ""


def _texts(value: Any) -> Iterator[str]:
    """Texts of a JSON value, those of the likeliest names first."""
    match value:
        case str():
            yield value
        case list():
            for part in value:
                yield from _texts(part)
        case dict():
            lone = [*value] if len(value) == 1 and "error" not in value else []
            for key in (*_KEYS, *lone):
                if key in value:
                    yield from _texts(value[key])


def _bare(line: str) -> str:
    """A line without what introduces a rewrite and without marks around it; "" where nothing else stands."""
    text, before = " ".join(line[:_MAX_LINE].replace("**", "").split()), None
    while text != before:
        before = text
        for pattern in (_LIST_MARK, _COURTESY, _LABEL, _INTRODUCTION):
            text = text[found.end() :] if (found := pattern.match(text)) else text
        text = _REMARK.sub("", text)
        if found := _QUOTED.fullmatch(text):
            text = (found[1] or found[2]).strip()
    return text
