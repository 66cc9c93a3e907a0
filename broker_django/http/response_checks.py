"""Checks that a server can send a response: when it is created, instead of each time it is fetched."""

from __future__ import annotations

import re
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from broker_core.errors import ResponseBrokenError

if TYPE_CHECKING:
    from broker_core.message import Protocol, ResponseMessage

CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Control characters except the tab; field values may not contain them (RFC 9110, section 5.5)."""
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LAST_STATUS: dict[Protocol, int] = {"wsgi": 999, "asgi": 599}
"""WSGI servers send any three-digit status; uvicorn only sends those that HTTP defines."""
LAST_CHARACTER: dict[Protocol, str] = {"wsgi": "\xff", "asgi": "\x7f"}
"""The last character of a cookie that can be sent: Django's ASGI handler encodes cookies as ASCII."""
WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


def checked_response(message: ResponseMessage, method: str, protocol: Protocol) -> ResponseMessage:
    """Returns the response as a server sends it. Raises ResponseBrokenError if no server can send it."""
    if not 200 <= message.status <= LAST_STATUS[protocol]:
        raise ResponseBrokenError(f"the status {message.status} is not one of a final response")
    if CONTROLS.search(message.reason) or _has_character_after("\xff", message.reason):
        raise ResponseBrokenError("the reason phrase has a character that HTTP does not allow")
    for name, value in message.headers:
        _check_field(name, value)
    for cookie in message.cookies:
        if CONTROLS.search(cookie) or _has_character_after(LAST_CHARACTER[protocol], cookie):
            raise ResponseBrokenError(f"a cookie has a character that cannot be sent under {protocol.upper()}")
    return _with_declared_length(message if protocol == "wsgi" else _stripped(message), method, protocol)


def _check_field(name: str, value: str) -> None:
    if not TOKEN.fullmatch(name):
        raise ResponseBrokenError("a header field has an invalid name")
    if CONTROLS.search(value):
        raise ResponseBrokenError(f"the header field {name} has a control character")


def _stripped(message: ResponseMessage) -> ResponseMessage:
    """Remove white space around field values. It is not part of the value, and h11 rejects it."""
    return replace(message, headers=tuple((name, value.strip(" \t")) for name, value in message.headers))


def _has_character_after(last: str, text: str) -> bool:
    return max(text, default="") > last


def _with_declared_length(message: ResponseMessage, method: str, protocol: Protocol) -> ResponseMessage:
    """Make the body as long as Content-Length says (RFC 9110, section 8.6). WSGI servers cut off the rest."""
    declared = next((value.strip() for name, value in message.headers if name.lower() == "content-length"), None)
    if declared is None:
        return message
    if not (declared.isascii() and declared.isdigit()):
        raise ResponseBrokenError("Content-Length is not a number")
    if method == "HEAD" or message.status in WITHOUT_BODY or len(message.body) == int(declared):
        return message
    if len(message.body) < int(declared) or protocol == "asgi":
        raise ResponseBrokenError(f"Content-Length is {declared}, but the body has {len(message.body)} bytes")
    return replace(message, body=message.body[: int(declared)])
