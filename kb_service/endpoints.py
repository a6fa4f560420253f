"""The LLM of the knowledge base elsewhere: any server with OpenAI's chat completions (vLLM, llama.cpp, Ollama, …).

A caption is one request for all its candidates; a server that gives fewer than asked is asked again for the rest.
Structured output is asked for, plain text where a server refuses that; a model that runs out of tokens before it
answers (it thinks) gets tokens to think from then on. What fails for the moment (429, 5xx, no connection, no answer in
time) is tried again after a growing pause; whatever fails in the end is an error that says why, which the knowledge
base hands on as ``degraded``. Whether a seed repeats an answer is up to the server.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import httpx

from kb_service.answers import rewrite_in
from kb_service.llm import TOKENS, Dialogue, GenerationCancelled
from kb_service.prompting import Turn
from semlink.errors import Unavailable
from semlink.hosts import httpx_options
from semlink.seeds import stable_seed
from semlink.settings import SecretUrl, without_secrets
from semlink.telemetry import logger

TOP_P: Final = 0.95
AT_ONCE: Final = 8
"""Requests in flight."""
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 8.0
"""Also of what the server asks for (Retry-After)."""
MAX_ANSWER_BYTES: Final = 2**20
THINKING_TOKENS: Final = 4096
"""On top of an answer's own, once a model has run out of tokens before it answered."""
JSON_TOKENS: Final = 16
"""Of the marks around a rewrite in structured output."""
RESPONSE_FORMAT: Final[dict[str, Any]] = {
    "type": "json_schema",
    "json_schema": {
        "name": "rewrite",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"rewrite": {"type": "string"}},
            "required": ["rewrite"],
            "additionalProperties": False,
        },
    },
}
_POLL_S: Final = 0.02
_UNSUPPORTED: Final = frozenset({400, 415, 422, 501})
_NAMES_THE_FORMAT: Final = re.compile(r"response_format|json_schema|structured output|grammar")
"""Some servers refuse a format with 500."""

_log = logger(__name__)


class _ForTheMoment(Exception):
    """Worth another try, after ``pause_s`` seconds if the server said so."""

    def __init__(self, why: str, pause_s: float | None = None) -> None:
        super().__init__(why)
        self.pause_s = pause_s


class _NoStructuredOutput(Exception):
    """The server refuses structured output, or may refuse because of it."""


@dataclass(slots=True)
class _Learned:
    """What the server has shown of itself."""

    structured: bool = True
    thinks: bool = False


@dataclass(frozen=True, slots=True)
class _Choice:
    """One answer. ``is_cut``: it ended for want of tokens."""

    text: str
    is_cut: bool


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """:class:`kb_service.rewriting.Generator` behind ``url`` (up to and with "/v1"). ``api_key`` "" sends none.

    User and password of ``url`` are sent as Basic authentication, which takes the place of the key.
    ``timeout_s`` bounds one try, ``retries`` the tries after the first. Blocks; for a thread without an event loop.
    """

    url: str
    model: str
    api_key: str
    timeout_s: float
    retries: int
    first_pause_s: float = FIRST_PAUSE_S
    _learned: _Learned = field(default_factory=_Learned, init=False, compare=False)

    def __repr__(self) -> str:
        return f"ChatEndpoint({self.name})"

    @property
    def name(self) -> str:
        """Identity for keys: where, and which model."""
        return endpoint_identity(self.url, self.model)

    @property
    def _secrets(self) -> tuple[str, ...]:
        return self.api_key, *SecretUrl(self.url).credentials()

    def prepare(self, beginnings: Sequence[tuple[Turn, ...]]) -> None:
        """Nothing: a server keeps its own prefixes."""

    def answer(
        self,
        dialogues: Sequence[Dialogue],
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> list[list[str]]:
        """Samples of each dialogue's next turn, as the model wrote them (:mod:`kb_service.answers` finds the rewrite).

        Raises Unavailable for a server that refuses, fails or answers nonsense, GenerationCancelled once
        ``cancelled()`` is true.
        """
        return asyncio.run(self._answer(dialogues, cancelled))

    async def _answer(
        self,
        dialogues: Sequence[Dialogue],
        cancelled: Callable[[], bool],
    ) -> list[list[str]]:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(
            headers=headers,
            auth=_basic_auth(self.url),
            timeout=self.timeout_s,
            **httpx_options(self.url),
        ) as http:

            async def one(dialogue: Dialogue) -> list[str]:
                async with gate:
                    return await self._samples(http, dialogue)

            work = [asyncio.create_task(one(dialogue)) for dialogue in dialogues]
            try:
                waiting = set(work)
                while waiting:
                    if cancelled():
                        raise GenerationCancelled("generation was cancelled")
                    done, waiting = await asyncio.wait(
                        waiting, timeout=_POLL_S, return_when=asyncio.FIRST_EXCEPTION
                    )
                    for task in done:
                        task.result()
                return [task.result() for task in work]
            finally:
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)

    async def _samples(self, http: httpx.AsyncClient, dialogue: Dialogue) -> list[str]:
        """As many samples as asked for, in as few requests as the server needs."""
        samples: list[str] = []
        while len(samples) < dialogue.num_samples:
            missing = dialogue.num_samples - len(samples)
            body = self._body(dialogue, missing, len(samples))
            could_think = self._learned.thinks
            choices = await self._completion(http, _with_thinking(body) if could_think else body)
            if not could_think and any(c.is_cut and not rewrite_in(c.text) for c in choices):
                try:
                    choices = await self._completion(http, _with_thinking(body))
                    self._learned.thinks = True
                except Unavailable as error:
                    _log.warning("the LLM has no tokens to think", why=error.message)
            samples += [choice.text for choice in choices[:missing]]
        return samples

    def _body(self, dialogue: Dialogue, number: int, first: int) -> dict[str, Any]:
        turns = (*dialogue.shared, Turn("user", dialogue.ask))
        return {
            "model": self.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "n": number,
            "temperature": dialogue.temperature,
            "top_p": TOP_P,
            "max_tokens": dialogue.max_new_tokens + JSON_TOKENS,
            # 31 bits: what every server takes
            "seed": stable_seed("llm", dialogue.seed, first) % 2**31,
        }

    async def _completion(self, http: httpx.AsyncClient, body: dict[str, Any]) -> list[_Choice]:
        """The answers of one request, at least one. Raises Unavailable after the last try."""
        if self._learned.structured:
            try:
                return await self._tries(http, {**body, "response_format": RESPONSE_FORMAT})
            except _NoStructuredOutput:
                choices = await self._tries(http, body)
                self._learned.structured = False
                return choices
        return await self._tries(http, body)

    async def _tries(self, http: httpx.AsyncClient, body: dict[str, Any]) -> list[_Choice]:
        pause_s = self.first_pause_s
        for left in range(self.retries, -1, -1):
            try:
                async with asyncio.timeout(self.timeout_s):
                    return await self._try(http, body)
            except (_ForTheMoment, httpx.TransportError, TimeoutError) as error:
                why = str(error) or f"no answer within {self.timeout_s:g} s"
                if not left:
                    raise Unavailable(
                        f"{self.name}: {why}, after {self.retries + 1} tries", field="llm"
                    ) from error
                asked = error.pause_s if isinstance(error, _ForTheMoment) else None
                await asyncio.sleep(min(LONGEST_PAUSE_S, pause_s if asked is None else asked))
                pause_s *= 2
        raise AssertionError("the last try returns or raises")

    async def _try(self, http: httpx.AsyncClient, body: dict[str, Any]) -> list[_Choice]:
        # httpx logs the URL of every request
        url = f"{_without_user(self.url).rstrip('/')}/chat/completions"
        try:
            async with http.stream("POST", url, json=body) as response:
                data = b""
                async for part in response.aiter_bytes():
                    data += part
                    if len(data) > MAX_ANSWER_BYTES:
                        raise Unavailable(
                            f"{self.name}: the answer is longer than {MAX_ANSWER_BYTES} bytes",
                            field="llm",
                        )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.DecodingError) as error:
            raise Unavailable(f"{self.name}: {error}", field="llm") from error
        status = response.status_code
        if status == 200:
            return _choices(data, self.name)
        why = f"status {status}{_error_message(data, self._secrets)}"
        if "response_format" in body and (
            status in _UNSUPPORTED or _NAMES_THE_FORMAT.search(why.lower())
        ):
            raise _NoStructuredOutput(why)
        if status == 429 or status >= 500:
            raise _ForTheMoment(why, _seconds(response.headers.get("retry-after", "")))
        raise Unavailable(f"{self.name}: {why}", field="llm")


def _with_thinking(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "max_tokens": body["max_tokens"] + THINKING_TOKENS}


def _choices(data: bytes, name: str) -> list[_Choice]:
    """The answers. Raises Unavailable for what is no chat completion."""
    try:
        answer = json.loads(data)
        choices = [
            _Choice(
                _text(choice["message"].get("content")), choice.get("finish_reason") == "length"
            )
            for choice in answer["choices"]
        ]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise Unavailable(
            f"{name}: the answer is no chat completion ({type(error).__name__})", field="llm"
        ) from error
    if not choices:
        raise Unavailable(f"{name}: the answer holds no text", field="llm")
    match answer:
        case {"usage": {"completion_tokens": int(tokens)}} if tokens > 0:  # not all servers say
            TOKENS.inc(tokens)
    return choices


def _text(content: object) -> str:
    """What an answer says: a string, nothing (it refuses, or only thinks), or parts of which some are thinking."""
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            return "".join(part["text"] for part in content if part["type"] == "text")
    raise TypeError(f"content is {type(content).__name__}")


def _error_message(data: bytes, secrets: Sequence[str]) -> str:
    """What a refusal says, short; a server that repeats a secret does not make us show it."""
    try:
        message = json.loads(data)["error"]["message"]
    except (ValueError, TypeError, KeyError, IndexError):
        message = data.decode(errors="replace")
    text = without_secrets(secrets, " ".join(str(message).split()))
    return f": {text[:200]}" if text else ""


def _seconds(retry_after: str) -> float | None:
    """What Retry-After asks for; a date counts as nothing said."""
    return float(retry_after) if retry_after.isdecimal() else None


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _basic_auth(url: str) -> httpx.BasicAuth | None:
    parts = urlsplit(url)
    if parts.username is None and parts.password is None:
        return None
    return httpx.BasicAuth(unquote(parts.username or ""), unquote(parts.password or ""))


def endpoint_identity(url: str, model: str) -> str:
    """What a model behind an endpoint is called in keys; without user and password, should the URL hold any."""
    parts = urlsplit(url)
    return f"endpoint:{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}:{model}"
