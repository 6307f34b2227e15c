"""Asking a model behind an OpenAI-compatible endpoint: one question, one answer, with patience for what passes.

Too many requests, faults of the server, dropped connections, slow answers and answers that are no chat completion are
asked again, with exponential backoff and jitter. The key stands in the request's header and nowhere else: whatever
the server says is cleared of it before anybody sees it.
"""

from __future__ import annotations

import email.utils
import ipaddress
import itertools
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from .. import __version__
from ..errors import InputError, MissingError

KEYS = ("ADAFLOW_API_KEY", "OPENAI_API_KEY")
"""The environment variables that may hold the key; the first that is set counts."""
PATH = "/chat/completions"
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before asking again, doubled each time
LONGEST_ASKED = 600.0  # seconds that a server may ask us to wait
CONNECT = 20.0  # seconds to be connected in
LARGEST = 4 << 20  # bytes of an answer
PASSING = (408, 425, 429)  # besides 5xx
SPENT = ("insufficient_quota", "billing_hard_limit_reached")  # these come as 429 but do not pass
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
AGAIN = "what was answered is kept, and the same command goes on"


class RefusedError(InputError):
    """The server will not answer this one question; it may answer others."""


@dataclass(frozen=True)
class Endpoint:
    """Where chat completions are, such as ``https://api.example.com/v1``.

    Attributes:
        scheme: ``http`` or ``https``.
        host: With its port where one was given.
        path: Without a slash at its end.
    """

    scheme: str
    host: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From what a person gives.

        Raises:
            InputError: it is no such address, or holds a password or a query, which might be secret.
        """
        try:
            parts = urlsplit(text.strip())
            port = parts.port  # ValueError where it is no number
        except ValueError:
            raise InputError("the endpoint is no address; give one such as https://api.example.com/v1") from None
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise InputError(
                f"the endpoint must be without user, password and query; a key goes into the variable {KEYS[0]}"
            )
        name = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", name):
            raise InputError(f"the endpoint is {text!r}; give an address such as https://api.example.com/v1")
        host = f"[{name}]" if ":" in name else name
        path = parts.path.rstrip("/").removesuffix(PATH).rstrip("/")
        return cls(parts.scheme, host if port is None else f"{host}:{port}", path)

    @property
    def url(self) -> str:
        """Where questions go."""
        return f"{self.scheme}://{self.host}{self.path}{PATH}"

    @property
    def local(self) -> bool:
        """Whether it is this very machine."""
        name = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")


@dataclass(frozen=True)
class Reply:
    """What was answered.

    Attributes:
        text: The answer.
        model: The model's name, as the server tells it.
        cut_off: Whether the server ended it before the model did.
    """

    text: str
    model: str
    cut_off: bool


def key_of_environment(names: Sequence[str] = KEYS) -> str:
    """The key in the first of these variables that is set; empty where none is.

    Raises:
        InputError: it cannot stand in a header.
    """
    for name in names:
        if key := os.environ.get(name, "").strip():
            if not re.fullmatch(r"[!-~]+", key):
                raise InputError(f"the variable {name} holds what is no key: a key has neither spaces nor line breaks")
            return key
    return ""


class Chat:
    """One model behind one endpoint.

    Args:
        endpoint: Where it is.
        model: Its name there.
        key: Sent as a bearer token; empty: none.
        timeout: Seconds in which an answer has to be there.
        retries: How often one question is asked again after a fault that may pass.
        key_name: The variable that holds the key, for messages.
        on_wait: Told of each such fault in a sentence.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        key: str = "",
        *,
        timeout: float = 120.0,
        retries: int = 6,
        key_name: str = KEYS[0],
        on_wait: Callable[[str], None] = lambda words: None,
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self._key = key
        self._key_name = key_name
        self._timeout = timeout
        self._retries = retries
        self._on_wait = on_wait
        self._random = random.Random()
        self._session = requests.Session()
        self._session.trust_env = not endpoint.local  # proxies of the environment are not for this machine itself
        self._session.headers.update({"Content-Type": "application/json", "User-Agent": f"adaflow/{__version__}"})

    @property
    def exposed(self) -> bool:
        """Whether a key goes over a network unencrypted."""
        return bool(self._key) and self.endpoint.scheme == "http" and not self.endpoint.local

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> Reply:
        """The answer to a conversation.

        Raises:
            RefusedError: the server takes no such question.
            InputError: the key, the model's name or the address is wrong, or the account is spent.
            MissingError: the server is not to be had, however often it is asked.
        """
        body = json.dumps({"model": self.model, "messages": messages}, ensure_ascii=False).encode()
        for attempt in itertools.count(1):
            try:
                return self._once(body)
            except _PassingError as fault:
                if fault.wait > LONGEST_ASKED:
                    raise MissingError(
                        f"{self.endpoint.host} {fault}, and asks to wait {fault.wait:.0f} s; {AGAIN} when run later"
                    ) from fault
                if attempt > self._retries:
                    times = "" if attempt == 1 else f" ({attempt} attempts)"
                    raise MissingError(
                        f"{self.endpoint.host} {fault}{times}; check the endpoint and the network; {AGAIN}"
                    ) from fault
                pause = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempt - 1)) * self._random.uniform(0.5, 1.0)
                pause = max(fault.wait, pause)
                self._on_wait(f"{self.endpoint.host} {fault}; asked again in {pause:.1f} s")
                time.sleep(pause)
        raise AssertionError

    def _once(self, body: bytes) -> Reply:
        status, headers, content = self._post(body)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        error, code = self._error(document)
        said = f"status {status}" + (f": {error}" if error else "")
        host = self.endpoint.host
        if status == 402 or code in SPENT:
            raise InputError(f"{host} says that the account is spent ({said}); {AGAIN} once it is not")
        if status in PASSING or status >= 500:
            what = "has too many requests" if status == 429 else "has a fault"
            raise _PassingError(f"{what} ({said})", _retry_after(headers.get("Retry-After")))
        if status in (401, 403):
            what = "refuses the key" if self._key else "wants a key"
            raise InputError(f"{host} {what} ({said}); set the variable {self._key_name} to one that it takes")
        if status == 404:
            raise InputError(
                f"{host} has no model {self.model!r}, or no chat completions at {self.endpoint.path or '/'} ({said})"
            )
        if 300 <= status < 400:
            raise InputError(f"{host} sends questions elsewhere (status {status}); give the address that it moved to")
        if status >= 400:
            raise RefusedError(f"{host} refuses the question ({said})")
        if error:  # some gateways pass on another server's fault as a success
            raise _PassingError(f"sends an error ({said})")
        return self._reply(document)

    def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer, all within the time."""
        begun = time.monotonic()
        try:
            with self._session.post(
                self.endpoint.url,
                data=body,
                auth=self._authorized,
                timeout=(min(CONNECT, self._timeout), self._timeout),
                stream=True,
                allow_redirects=False,  # the key is for this host
            ) as response:
                content = bytearray()
                for piece in response.iter_content(1):  # more at once may wait for ever for a server that trickles
                    content += piece
                    if len(content) > LARGEST:
                        raise _PassingError(f"sends more than {LARGEST >> 20} MiB for an answer")
                    if time.monotonic() - begun > self._timeout:
                        raise requests.Timeout
                return response.status_code, response.headers, bytes(content)
        except requests.exceptions.SSLError as error:
            raise InputError(f"{self.endpoint.host} has no valid certificate; check the endpoint's address") from error
        except requests.exceptions.ConnectTimeout as error:
            raise _PassingError("cannot be reached in time") from error
        except requests.Timeout as error:
            raise _PassingError(f"gives no answer within {self._timeout:g} s") from error
        except (requests.RequestException, HTTPError, OSError, UnicodeError) as error:
            raise _PassingError(_dropped(error, self._timeout)) from error

    def _authorized(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """With the key, or without any: requests would else look for one in ~/.netrc."""
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _error(self, document: Any) -> tuple[str, str]:
        """The server's own words for what is wrong, on one line, and its code; empty where there are none."""
        if not isinstance(document, Mapping):
            return "", ""
        error = document.get("error") or (None if "choices" in document else document.get("detail"))
        code = str(error.get("code") or error.get("type") or "") if isinstance(error, Mapping) else ""
        message = error.get("message") if isinstance(error, Mapping) else error
        if error and not isinstance(message, str):
            message = json.dumps(error)
        return self._cleared(" ".join(str(message or "").split()))[:200], code

    def _reply(self, document: Any) -> Reply:
        try:
            choice = document["choices"][0]
            content = choice["message"].get("content")
            if isinstance(content, list):
                content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
            if content is not None and not isinstance(content, str):
                raise TypeError
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise _PassingError("sends an answer that is no chat completion") from error
        name = document.get("model")
        model = " ".join(name.split())[:200] if isinstance(name, str) and name.strip() else self.model
        return Reply(self._cleared(content or ""), self._cleared(model), choice.get("finish_reason") == "length")

    def _cleared(self, text: str) -> str:
        """Without the key, and without what would harm a terminal or a file."""
        text = CONTROLS.sub("", text.encode(errors="replace").decode())
        return text.replace(self._key, "(key)") if self._key else text


class _PassingError(Exception):
    """A fault that may pass; `wait` is the seconds that the server asks for."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


def _dropped(error: Exception, timeout: float) -> str:
    """What a server did that gave no answer; requests tells the cases apart in words only."""
    if "timed out" in str(error):
        return f"gives no answer within {timeout:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "aborted" in str(error):
        return "drops the connection"
    return "cannot be reached"


def _retry_after(value: str | None) -> float:
    """Seconds to wait, of a header that gives them or a date; 0 where it gives neither."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
