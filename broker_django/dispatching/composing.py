"""Compose requests made by code: turn a path and its parts into a message, as the site's server would."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

from django.http.request import HttpHeaders
from django.urls import get_script_prefix
from django.utils.encoding import iri_to_uri

from broker_core.errors import MessageError, UserInactiveError
from broker_core.message import RequestMessage
from broker_django.dispatching.arrival import is_allowed
from broker_django.http import bodies
from broker_django.identity import users

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker_django.http.bodies import Pairs

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, section 5.6.2."""

BODIES = frozenset({"json", "data", "files", "body"})


@dataclass(frozen=True, slots=True)
class Parts:
    """The arguments of `broker_django.dispatch` besides the path."""

    method: str | None = None
    json: Any = None
    data: Pairs | None = None
    files: Pairs | None = None
    body: bytes | str | None = None
    content_type: str | None = None
    query: Pairs | str | None = None
    headers: Mapping[str, Any] | None = None
    host: str | None = None
    user: Any = None
    tenant: str | None = None

    @property
    def given(self) -> list[str]:
        return [each.name for each in fields(self) if getattr(self, each.name) is not None]


def compose(path: str, parts: Parts) -> RequestMessage:
    """Returns the message, without what depends on the view.

    Raises TypeError if arguments contradict each other, and MessageError if a value is not valid in a request.
    """
    url = _split(path)
    host, scheme = _site(url, parts.host)
    body, content_type = _body(parts)
    headers, content_type = _headers(parts, content_type, host)
    prefix = get_script_prefix().rstrip("/")
    environ = {
        "REQUEST_METHOD": _method(parts),
        "SCRIPT_NAME": prefix,
        "PATH_INFO": _path_info(url, prefix),
        "QUERY_STRING": _query(url.query, parts.query),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        **headers,
    }
    if host:
        environ["HTTP_HOST"] = host
    if content_type:
        environ |= {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(body))}
    return RequestMessage(environ, body, scheme, user_key_of(parts.user), tenant=parts.tenant or "")


def _split(path: str) -> SplitResult:
    try:
        return urlsplit(path)
    except ValueError as error:
        raise MessageError(f"{path!r} is neither a path nor a URL of this site") from error


def _site(url: SplitResult, host: str | None) -> tuple[str, str]:
    """Returns the host (empty if it was not given) and the scheme."""
    if url.scheme and not url.netloc:
        raise MessageError(f"{url.geturl()!r} is neither a path nor a URL of this site")
    if url.netloc and host and url.netloc != host:
        raise TypeError(f"the URL has the host {url.netloc!r}, but host={host!r} was given")
    named = url.netloc or host or ""
    if url.scheme not in {"", "http", "https"} or (named and not is_allowed(named)):
        raise MessageError(f"{url.scheme or 'the host'} {named!r} is not a host of this site: see ALLOWED_HOSTS")
    return named, url.scheme or "http"


def _path_info(url: SplitResult, prefix: str) -> str:
    path = unquote(url.path) or ("/" if url.netloc else "")
    if not path.startswith("/"):
        raise MessageError(f"the path {path!r} does not begin with '/': use reverse() for the name of a URL")
    return path[len(prefix) :] if path.startswith(f"{prefix}/") else path


def _query(of_path: str, given: Pairs | str | None) -> str:
    added = given.removeprefix("?") if isinstance(given, str) else urlencode(bodies.pairs(given or {}))
    return iri_to_uri("&".join(filter(None, [of_path, added])))


def _method(parts: Parts) -> str:
    method = parts.method if parts.method is not None else "GET" if BODIES.isdisjoint(parts.given) else "POST"
    if not TOKEN.fullmatch(method):
        raise MessageError(f"{method!r} is not an HTTP method")
    if method.upper() in {"GET", "HEAD"} and not {"data", "files"}.isdisjoint(parts.given):
        raise TypeError(f"a {method.upper()} has no form: use query")
    return method.upper()


def _body(parts: Parts) -> tuple[bytes, str]:
    """Returns the body and its content type, which is empty without a body."""
    kinds = [name for name in parts.given if name in BODIES]
    if len(kinds) > 1 and kinds != ["data", "files"]:
        raise TypeError(f"a request has one body, but {' and '.join(kinds)} were given")
    if parts.content_type and (not kinds or kinds[0] in {"data", "files"}):
        raise TypeError("content_type needs body or json: a form has its own")
    if parts.json is not None:
        body, content_type = bodies.as_json(parts.json)
    elif parts.files is not None:
        body, content_type = bodies.as_upload(parts.data or {}, parts.files)
    elif parts.data is not None:
        body, content_type = bodies.as_form(parts.data)
    elif parts.body is not None:
        is_text = isinstance(parts.body, str)
        body = parts.body.encode() if isinstance(parts.body, str) else bytes(parts.body)
        content_type = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
    else:
        return b"", ""
    return body, parts.content_type or content_type


def _headers(parts: Parts, content_type: str, host: str) -> tuple[dict[str, str], str]:
    """Returns the header fields as CGI variables, and the content type, which may be given as a field."""
    given = {str(name): str(value) for name, value in (parts.headers or {}).items()}
    for name, value in given.items():
        if not TOKEN.fullmatch(name) or any(letter in value for letter in "\r\n\0"):
            raise MessageError(f"{name!r} is not a valid header field")
    environ = {HttpHeaders.to_wsgi_name(name): value for name, value in given.items()}
    named = environ.pop("CONTENT_TYPE", "")
    if named and (parts.content_type or not content_type or parts.data is not None or parts.files is not None):
        raise TypeError("the field Content-Type needs body or json, and no content_type")
    if "CONTENT_LENGTH" in environ:
        raise TypeError("the field Content-Length cannot be given: the body determines it")
    field = environ.pop("HTTP_HOST", host)
    if field != host:
        raise TypeError("give the host as host=, not as a header field")
    return environ, named or content_type


def user_key_of(user: Any) -> str | None:
    """Returns the key of a user, given as an object or primary key. Raises MessageError if the user is not active."""
    if user is None or getattr(user, "is_anonymous", False):
        return None
    if not hasattr(user, "is_authenticated"):
        try:
            return str(users.active_user(user).pk)
        except UserInactiveError as error:
            raise MessageError(f"there is no active user with the primary key {user!r}") from error
    model = users.user_model()
    if model is not None and not isinstance(user, model):
        raise MessageError(f"a {type(user).__name__} is not a user of this project, so the replay cannot act as it")
    if user.pk is None:
        raise MessageError("the user is not saved")
    if not users.is_active(user):
        raise MessageError(f"the user {user.pk} is not active")
    return str(user.pk)
