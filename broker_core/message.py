"""Frozen records of one HTTP request and one HTTP response, and their encoding.

Layout: one version byte, the length of the head (4 bytes, big endian), the head as JSON, the body unchanged.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from broker_core.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 3
"""The version that is written. A head with other fields needs a new version."""
VERSIONS = frozenset({1, 2, 3})
"""The versions that are read: requests that an earlier release accepted may still wait during a deployment."""
_PREFIX = struct.Struct(">BI")

Protocol = Literal["wsgi", "asgi"]
Csrf = Literal["unchecked", "checked", "waived"]
"""What the CSRF middleware did before acceptance: nothing, a successful check, or an exemption of the request."""


def _pack(head: list[object], body: bytes) -> bytes:
    encoded = json.dumps(head, separators=(",", ":")).encode("ascii")
    return _PREFIX.pack(VERSION, len(encoded)) + encoded + body


def _unpack(data: bytes) -> tuple[int, list[Any], bytes]:
    """Returns the version, the head and the body."""
    if len(data) < _PREFIX.size:
        raise MessageError("the message is truncated")
    version, length = _PREFIX.unpack_from(data)
    if version not in VERSIONS:
        raise MessageError(f"version {version} is not supported; supported are {sorted(VERSIONS)}")
    end = _PREFIX.size + length
    if len(data) < end:
        raise MessageError("the message is truncated")
    try:
        head = json.loads(data[_PREFIX.size : end])
    except (ValueError, RecursionError) as error:
        raise MessageError("the head is not JSON") from error
    if not isinstance(head, list):
        raise MessageError("the head is not a list")
    return version, head, data[end:]


def _require_fields(head: list[Any], number: int) -> None:
    if len(head) != number:
        raise MessageError(f"the head does not have {number} fields")


def _request_head(version: int, head: list[Any]) -> list[Any]:
    """Returns the fields in the order of VERSION.

    Version 1 had no path, route, view and accepted_at. Version 2 had no tenant and principal.
    """
    if version == 1:
        _require_fields(head, 6)
        protocol, scheme, user, view_user, csrf, environ = head
        return [protocol, scheme, csrf, "", "", "", "", user, view_user, None, 0, environ]
    if version == 2:
        _require_fields(head, 10)
        *texts, user, view_user, accepted_at, environ = head
        return [*texts, "", user, view_user, None, accepted_at, environ]
    _require_fields(head, 12)
    return head


def _require(*, valid: bool, what: str) -> None:
    if not valid:
        raise MessageError(f"{what} is malformed")


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_text_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value)


_END_OF_TIME = 253_402_300_799
"""The last second that a datetime can represent."""


def _is_moment(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _END_OF_TIME


@dataclass(frozen=True, slots=True)
class RequestMessage:
    """One request as the broker received it.

    environ: the CGI variables (RFC 3875) and header fields, as text. body: the raw bytes. scheme: `http` or `https`.
    user: the primary key, as text, of the user for whom the request was accepted; None for an anonymous user.
    view_user: the same for the user whom the view itself authenticated, as API frameworks do.

    path: the path of the ASGI scope; empty under WSGI. route, view: the URL pattern and the view that the URL resolved
    to; empty if it was not resolved. tenant: the tenant of the request; empty without tenants. principal: what else is
    known about the sender, as JSON. accepted_at: seconds since the epoch; 0 if unknown.
    """

    environ: Mapping[str, str]
    body: bytes = b""
    scheme: str = "http"
    user: str | None = None
    protocol: Protocol = "wsgi"
    view_user: str | None = None
    csrf: Csrf = "unchecked"
    path: str = ""
    route: str = ""
    view: str = ""
    accepted_at: float = 0.0
    tenant: str = ""
    principal: Any = None

    @property
    def method(self) -> str:
        return self.environ.get("REQUEST_METHOD", "GET")

    def encode(self) -> bytes:
        texts = [self.protocol, self.scheme, self.csrf, self.path, self.route, self.view, self.tenant]
        who = [self.user, self.view_user, self.principal]
        return _pack([*texts, *who, self.accepted_at, dict(self.environ)], self.body)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises MessageError if the bytes are not an encoded request of a supported version."""
        version, head, body = _unpack(data)
        *texts, user, view_user, principal, accepted_at, environ = _request_head(version, head)
        _require(valid=all(isinstance(text, str) for text in texts), what="the scheme or route")
        protocol, scheme, csrf, path, route, view, tenant = texts
        _require(valid=protocol in get_args(Protocol), what="the protocol")
        _require(valid=csrf in get_args(Csrf), what="the CSRF state")
        _require(valid=all(key is None or isinstance(key, str) for key in (user, view_user)), what="the user")
        _require(valid=_is_moment(accepted_at), what="the moment of acceptance")
        _require(valid=_is_text_map(environ), what="the environ")
        return cls(
            environ,
            body,
            scheme,
            user,
            protocol,
            view_user,
            csrf,
            path,
            route,
            view,
            float(accepted_at),
            tenant,
            principal,
        )


@dataclass(frozen=True, slots=True)
class ResponseMessage:
    """One response. headers: in order, without cookies. cookies: the values of the `Set-Cookie` fields.

    accept_encoding: the request's Accept-Encoding field, kept only if the response has a content coding.
    """

    status: int
    reason: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    cookies: tuple[str, ...] = ()
    body: bytes = b""
    accept_encoding: str = ""

    @property
    def content_type(self) -> str:
        return next((value for name, value in self.headers if name.lower() == "content-type"), "")

    def encode(self) -> bytes:
        accepted = [self.accept_encoding] if self.accept_encoding else []
        return _pack([self.status, self.reason, self.headers, self.cookies, *accepted], self.body)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises MessageError if the bytes are not an encoded response. All versions have the same fields."""
        _version, head, body = _unpack(data)
        accepted = head.pop() if len(head) == 5 else ""
        _require_fields(head, 4)
        status, reason, headers, cookies = head
        _require(valid=isinstance(accepted, str), what="the content codings")
        _require(valid=type(status) is int and 100 <= status <= 999, what="the status")
        _require(valid=isinstance(reason, str), what="the reason")
        _require(valid=isinstance(headers, list) and all(map(_is_text_pair, headers)), what="a header")
        _require(valid=isinstance(cookies, list) and all(isinstance(line, str) for line in cookies), what="a cookie")
        return cls(status, reason, tuple((name, value) for name, value in headers), tuple(cookies), body, accepted)
