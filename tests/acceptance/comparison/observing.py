"""Send a shape in one of three ways, and make the result comparable."""

from __future__ import annotations

import datetime as dt
import enum
import gzip
import hashlib
import json
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from broker_django.identity.ownership import CLAIM
from tests.acceptance.comparison.browser import Browser, Reply

if TYPE_CHECKING:
    from tests.acceptance.comparison.shape import Headers, Shape

PATIENCE = 30

Observation = dict[str, Any]
"""What is compared: a name for each part, and its value. `header NAME` has all values of that field, in order."""

AMBIENT = frozenset(
    {
        "accept-encoding",
        "accept-language",
        "authorization",
        "host",
        "user-agent",
        "x-api-key",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-tenant",
        "x-timezone",
    }
)
"""What a client, or the proxy in front, sends with each of its requests, polls too."""


class Way(enum.StrEnum):
    """How a request is answered: by its view, after the client was held for it, or when the client polls."""

    DIRECT = "direct"
    HELD = "held"
    POLLED = "polled"


CHOICE: dict[Way, Headers] = {
    Way.DIRECT: (),
    Way.HELD: (("X-Queue", "bulk"), ("Prefer", f"wait={PATIENCE}")),
    Way.POLLED: (("X-Queue", "bulk"), ("Prefer", "respond-async")),
}


def observe(url: str, shape: Shape, way: Way) -> tuple[Observation, bool]:
    """Reset the site, send the request, and observe response and state. Also returns whether the client polled."""
    browser = Browser(url)
    token = _arrive(browser, shape)
    rules = Rules(browser)
    headers = (*shape.headers, *([("X-CSRFToken", token)] if token else []))
    replies = _replies(browser, shape, headers, way)
    seen = rules.observation(replies)
    jar = sorted(browser.cookies.items())
    seen["jar"] = {name: rules.text(value) for name, value in jar if name != CLAIM}  # which is for the poll alone
    left = json.loads(browser.send("GET", "/leave/").body)
    return {**seen, **{f"left: {name}": value for name, value in left.items()}}, len(replies) > 1


def _arrive(browser: Browser, shape: Shape) -> str:
    wanted = {"user": shape.user, "session": dict(shape.session), "csrf": shape.csrf}
    arrived = browser.send("POST", "/arrive/", [("Content-Type", "application/json")], json.dumps(wanted).encode())
    assert arrived.status == 200, arrived
    browser.cookies.update(shape.cookies)
    return str(json.loads(arrived.body)["token"])


def _replies(browser: Browser, shape: Shape, headers: Headers, way: Way) -> list[Reply]:
    """Returns all responses, the final one last."""
    first = browser.send(shape.method, shape.path, (*headers, *CHOICE[way]), shape.body, chunked=shape.chunked)
    status_path = urlsplit(first.one("Location")).path
    if first.status != 202 or "/broker/tasks/" not in status_path:
        return [first]
    assert way is Way.POLLED, "the client was held, and got a 202 none the less"
    ambient = [(name, value) for name, value in headers if name.lower() in AMBIENT]
    method = "HEAD" if shape.method == "HEAD" else "GET"
    return [first, browser.send(method, f"{status_path}response/?wait={PATIENCE}", ambient)]


def _unpacked(reply: Reply) -> bytes:
    return gzip.decompress(reply.body) if reply.one("Content-Encoding") == "gzip" else reply.body


def _md5(content: bytes) -> str:
    """As Django's set_response_etag does."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


NONCE = re.compile(r"""(?<=nonce-)[\w+/=]{22,}|(?<=nonce=")[\w+/=]{22,}""")
MASKED = re.compile(r"""(?<=name="csrfmiddlewaretoken" value=")\w{64}|(?<=csrfToken": ")\w{64}""")
SIGNED = re.compile(r"(?<=:)\w{6}:[\w-]{43}")
"""The time of a signature, and the signature."""
NUMBER = re.compile(r"\bnumber-[0-9a-f]{32}\b")
DATE = re.compile(r"\w{3}, \d\d[- ]\w{3}[- ]\d{4} \d\d:\d\d:\d\d GMT")
OF_THE_CONNECTION = frozenset({"connection", "transfer-encoding"})
"""The server determines the framing of the body and the connection, not the view."""
MAX_AGE = re.compile(r"(?<=Max-Age=)\d+")
FAR = dt.timedelta(days=400)
READABLE = 10_000


def _until(cookie: str, now: dt.datetime) -> str:
    """Django computes Max-Age from the view's date and the current time."""
    date, age = DATE.search(cookie), MAX_AGE.search(cookie)
    if date is None or age is None:
        return cookie
    distance = parsedate_to_datetime(date[0].replace("-", " ")) - now
    until_then = abs(distance - dt.timedelta(seconds=int(age[0]))) < dt.timedelta(minutes=1)
    return MAX_AGE.sub("<until then>", cookie) if until_then and distance > FAR else cookie


class Rules:
    """Named rules for what differs between any two requests. Everything else is compared."""

    def __init__(self, browser: Browser) -> None:
        self._known = {
            browser.cookies[name]: f"<{name}>" for name in ("sessionid", "csrftoken") if name in browser.cookies
        }

    def observation(self, replies: list[Reply]) -> Observation:
        answer = replies[-1]
        now = parsedate_to_datetime(answer.one("Date"))
        self._learn(replies, answer)
        lines = [line for reply in replies for line in reply.all("Set-Cookie") if not line.startswith(f"{CLAIM}=")]
        seen: Observation = {
            "status": answer.status,
            "reason": answer.reason,
            "cookies": [self._dates(_until(self.text(line), now), now) for line in lines],
            "body": self._body(answer),
        }
        for name, value in answer.headers:
            if name.lower() not in {"set-cookie", *OF_THE_CONNECTION}:
                seen.setdefault(f"header {name}", []).append(self._field(name, value, answer, now))
        return seen

    def _learn(self, replies: list[Reply], answer: Reply) -> None:
        """Names sessions, CSRF secrets, nonces and request numbers, in order of appearance."""
        for reply in replies:
            for line in reply.all("Set-Cookie"):
                name, _, rest = line.partition("=")
                value = rest.partition(";")[0]
                if name in {"sessionid", "csrftoken"} and len(value) == 32:
                    self._name(value, f"new {name}")
        body = _unpacked(answer).decode("latin-1")
        for value in NUMBER.findall(" ".join([*answer.all("X-Request-Id"), body])):
            self._name(value, "number")
        for value in NONCE.findall(" ".join([*answer.all("Content-Security-Policy"), body])):
            self._name(value, "nonce")
        self._known[f'"REMOTE_PORT": {replies[0].port}'] = '"REMOTE_PORT": "<its own>"'

    def _name(self, value: str, kind: str) -> None:
        if value not in self._known:
            number = sum(name.startswith(f"<{kind} ") for name in self._known.values()) + 1
            self._known[value] = f"<{kind} {number}>"

    def text(self, text: str) -> str:
        for value, name in self._known.items():
            text = text.replace(value, name)
        return SIGNED.sub("<signed just now>", MASKED.sub("<masked>", text))

    def _dates(self, text: str, now: dt.datetime) -> str:
        """Replaces dates near the current time by minutes from now."""

        def relative(match: re.Match[str]) -> str:
            distance = parsedate_to_datetime(match[0].replace("-", " ")) - now
            return match[0] if abs(distance) > FAR else f"<now + {round(distance / dt.timedelta(minutes=1))} min>"

        return DATE.sub(relative, text)

    def _field(self, name: str, value: str, answer: Reply, now: dt.datetime) -> str:
        if name == "Content-Length" and answer.one("Content-Encoding") == "gzip":
            return "<as gzip has it>"  # which Django pads with a file name of a random length
        if name == "ETag":
            for content in (answer.body, _unpacked(answer)):  # a digest of what may differ by the rules above
                value = value.replace(f'"{_md5(content)}"', '"<of its body>"')
        return self._dates(self.text(value), now)

    def _body(self, answer: Reply) -> str:
        text = self.text(_unpacked(answer).decode("latin-1"))
        return text if len(text) < READABLE else f"{len(text)} bytes, {hashlib.sha256(text.encode()).hexdigest()}"
