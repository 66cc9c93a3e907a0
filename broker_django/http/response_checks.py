"""What a server can send. A response that it cannot is refused when it is made, not each time that it is fetched."""

from __future__ import annotations

import re
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from broker_core.errors import ResponseBrokenError

if TYPE_CHECKING:
    from broker_core.message import Protocol, ResponseMessage

CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Control characters but for the tab, which no field value may have (RFC 9110, section 5.5)."""
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LAST_STATUS: dict[Protocol, int] = {"wsgi": 999, "asgi": 599}
"""WSGI servers send any three digits; uvicorn has no more than HTTP knows."""
LAST_CHARACTER: dict[Protocol, str] = {"wsgi": "\xff", "asgi": "\x7f"}
"""Of a cookie: Django's handler for ASGI encodes them as ASCII."""
WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


def sendable(message: ResponseMessage, method: str, protocol: Protocol) -> ResponseMessage:
    """The response to a request with this method, as a server sends it. Raises ResponseBrokenError if none could."""
    if not 200 <= message.status <= LAST_STATUS[protocol]:
        raise ResponseBrokenError(f"the status {message.status} is not one of a final response")
    if CONTROLS.search(message.reason) or _beyond("\xff", message.reason):
        raise ResponseBrokenError("the reason phrase has a character that HTTP does not allow")
    for name, value in message.headers:
        _check_field(name, value)
    for cookie in message.cookies:
        if CONTROLS.search(cookie) or _beyond(LAST_CHARACTER[protocol], cookie):
            raise ResponseBrokenError(f"a cookie has a character that cannot be sent under {protocol.upper()}")
    return _framed(message if protocol == "wsgi" else _stripped(message), method, protocol)


def _check_field(name: str, value: str) -> None:
    if not TOKEN.fullmatch(name):
        raise ResponseBrokenError("a header field has a name that is none")
    if CONTROLS.search(value):
        raise ResponseBrokenError(f"the header field {name} has a control character")


def _stripped(message: ResponseMessage) -> ResponseMessage:
    """The response without white space around fields, which is no part of them, and which h11 takes for an error."""
    return replace(message, headers=tuple((name, value.strip(" \t")) for name, value in message.headers))


def _beyond(last: str, text: str) -> bool:
    return max(text, default="") > last


def _framed(message: ResponseMessage, method: str, protocol: Protocol) -> ResponseMessage:
    """The response with a body as long as it says (RFC 9110, section 8.6). WSGI servers cut off what is more."""
    said = next((value.strip() for name, value in message.headers if name.lower() == "content-length"), None)
    if said is None:
        return message
    if not (said.isascii() and said.isdigit()):
        raise ResponseBrokenError("Content-Length is not a number")
    if method == "HEAD" or message.status in WITHOUT_BODY or len(message.body) == int(said):
        return message
    if len(message.body) < int(said) or protocol == "asgi":
        raise ResponseBrokenError(f"Content-Length is {said}, but the body has {len(message.body)} bytes")
    return replace(message, body=message.body[: int(said)])
