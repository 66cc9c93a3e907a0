"""One row of the comparison: a request, who sends it, and what was in their session before."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
BOUNDARY = "a-boundary-of-ours"

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """`path` is what stands on the request line; `headers` are fields as they are sent, `cookies` beside the session's.

    user: who is logged in before. session: what is in the session before. csrf: whether the client has a CSRF cookie
    and sends its token. chunked: whether the body comes without a Content-Length. only: the one interface whose server
    takes such a request.
    """

    name: str
    path: str
    method: str = "GET"
    headers: Headers = ()
    body: bytes = b""
    cookies: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    session: Mapping[str, Any] = field(default_factory=dict)
    csrf: bool = False
    chunked: bool = False
    only: str = ""

    def __str__(self) -> str:
        return self.name

    def header(self, name: str) -> str:
        return next((value for other, value in self.headers if other.lower() == name.lower()), "")


def get(name: str, path: str, /, headers: Mapping[str, str] | None = None, **options: Any) -> Shape:
    return Shape(name, path, headers=tuple((headers or {}).items()), **options)


def send(
    name: str,
    path: str,
    body: bytes = b"",
    content_type: str = FORM,
    /,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> Shape:
    """A request with a body."""
    typed = {"Content-Type": content_type} if content_type else {}
    return Shape(name, path, method, tuple({**typed, **(headers or {})}.items()), body, **options)


def form(name: str, path: str, data: Mapping[str, Any], /, encoding: str = "utf-8", **options: Any) -> Shape:
    return send(name, path, urlencode(data, doseq=True, encoding=encoding).encode("ascii"), **options)


def as_json(name: str, path: str, data: Any, /, **options: Any) -> Shape:
    return send(name, path, json.dumps(data).encode(), JSON, **options)


def multipart(name: str, path: str, parts: list[tuple[str, bytes]], /, **options: Any) -> Shape:
    """`parts` are the header fields of a part, and its content."""
    lines = [f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts]
    body = b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()])
    return send(name, path, body, f"multipart/form-data; boundary={BOUNDARY}", **options)


def field_part(name: str, value: str) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', value.encode()


def file_part(name: str, filename: str, content: bytes, content_type: str = "text/plain") -> tuple[str, bytes]:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\nContent-Type: {content_type}'
    return head, content
