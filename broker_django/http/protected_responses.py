"""Protects stored responses from the middleware around the broker: they are sent as they were stored.

The replay ran the whole middleware chain, and its view may be exempt from parts of it. The chain around a waiting
request or a poll does not know that.
"""

from __future__ import annotations

from functools import lru_cache
from http.cookies import Morsel, SimpleCookie
from typing import TYPE_CHECKING, Any

from django.http.response import ResponseHeaders

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

    from django.http.response import HttpResponseBase

STORED = "_request_broker_stored"
"""The attribute of a response that comes from the store. It is protected when it leaves the broker."""

STREAMED = "_request_broker_streamed"
"""The attribute of a streaming response that contains the whole stored body."""


class ProtectedCookies(SimpleCookie):
    """Cookies that middleware cannot change: setting a cookie of the same name has no effect.

    The replay ran the whole middleware chain, so what the outer chain would set or delete is out of date.
    """

    _protected: frozenset[str] = frozenset()

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__()
        for line in lines:
            morsel = self._morsel(line)
            self[morsel.key] = morsel
        self._protected = frozenset(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ([morsel.OutputString() for morsel in self.values()],)

    def _morsel(self, line: str) -> Morsel[str]:
        """Parse a Set-Cookie field (RFC 6265, section 5.2). `load` parses the Cookie field, and drops what is invalid
        there.
        """
        pair, *attributes = line.split(";")
        name, _, coded = pair.partition("=")
        morsel: Morsel[str] = Morsel()
        morsel.set(name, *self.value_decode(coded))
        for attribute in attributes:
            key, separator, value = attribute.strip().partition("=")
            if morsel.isReservedKey(key):
                # A comment is quoted when it is written, so it must not be quoted here.
                morsel[key] = self.value_decode(value)[0] if separator else True
        if str(morsel["max-age"]).isdigit():
            morsel["max-age"] = int(morsel["max-age"])  # the same type as `set_cookie` uses
        return morsel

    def release(self) -> None:
        """Allow changes again."""
        self._protected = frozenset()

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._protected:
            super().__setitem__(key, value)

    def __getitem__(self, key: str) -> Morsel[str]:
        morsel = super().__getitem__(key)
        return morsel.copy() if key in self._protected else morsel


class ProtectedHeaders(ResponseHeaders):
    """Header fields that middleware cannot change, except the CORS fields.

    A field that was set without effect can still be read by name, for middleware that reads what it has set. It is not
    sent.
    """

    def __init__(self, headers: ResponseHeaders) -> None:
        super().__init__(headers)
        self._ignored: dict[str, str] = {}

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._store

    def __getitem__(self, key: str) -> str:
        return super().__getitem__(key) if key in self else self._ignored[key.lower()]

    def get(self, key: str, default: Any = None) -> Any:
        return self._store[key.lower()][1] if key in self else default

    def __setitem__(self, key: str, value: Any) -> None:
        if "_ignored" not in self.__dict__ or _is_cors_field(key):
            super().__setitem__(key, value)
        else:
            self._ignored[key.lower()] = str(value)

    def pop(self, key: str, default: Any = None) -> Any:
        if _is_cors_field(key):
            return super().pop(key, default)
        self._ignored.pop(key.lower(), None)
        return self._store.get(key.lower(), default)


def _is_cors_field(field: str) -> bool:
    return field.lower().startswith("access-control-")


_PROTECTED = frozenset({"status_code", "reason_phrase", "headers", "cookies", "charset"})
_BODY = frozenset({"content", "streaming_content"})


class ProtectedResponse:
    """Mixed into the class of a response. Middleware can empty the body, as for HEAD, but not replace or encode it.

    Once the response is closed, it was sent, and becomes an ordinary response again: test clients return it.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _BODY and not value:
            setattr(self, STREAMED, b"")
        elif name == "streaming_content":
            value = _with_stored_body(value, getattr(self, STREAMED, b""))
        elif name in _PROTECTED or name in _BODY:
            return
        super().__setattr__(name, value)

    def write(self, content: object) -> None:
        """Ignored: the body is complete."""

    writelines = write

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        _release(self)

    def __reduce_ex__(self, _protocol: object) -> tuple[Any, ...]:
        """Pickle the original class: caches pickle responses."""
        return _new, (type(self).__bases__[1],), self.__getstate__()


@lru_cache(maxsize=256)
def _protected_class(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (ProtectedResponse, kind), names)


def _new(kind: Any) -> Any:
    return object.__new__(_protected_class(kind))


def _release(response: Any) -> None:
    """Make a protected response an ordinary one again."""
    response.__class__ = type(response).__bases__[1]
    response.headers = ResponseHeaders(response.headers)
    if isinstance(response.cookies, ProtectedCookies):
        response.cookies.release()


def _with_stored_body(made: Any, body: bytes) -> Any:
    """Replace a stream that middleware has wrapped by the stored body.

    The stream is read to its end, for its clean-up.
    """
    return _after_async(made, body) if hasattr(made, "__aiter__") else _after(made, body)


def _after(made: Iterable[object], body: bytes) -> Iterator[bytes]:
    for _ in made:
        pass
    yield body


async def _after_async(made: AsyncIterable[object], body: bytes) -> AsyncIterator[bytes]:
    async for _ in made:
        pass
    yield body


def is_stored(response: HttpResponseBase) -> bool:
    """Whether the response comes from the store."""
    return getattr(response, STORED, False)


def protected(response: HttpResponseBase) -> HttpResponseBase:
    """Returns the same response, protected from now on if it comes from the store."""
    if is_stored(response) and not isinstance(response, ProtectedResponse):
        kind: Any = type(response)
        response.headers = ProtectedHeaders(response.headers)
        response.__class__ = _protected_class(kind)
    return response


def restore(stored: HttpResponseBase, made: HttpResponseBase) -> HttpResponseBase:
    """Returns the stored response instead of a new one that middleware made of it, with the additions it allows."""
    for name, value in made.items():
        stored[name] = value
    for name, morsel in made.cookies.items():
        stored.cookies[name] = morsel
    stored._resource_closers.extend(made._resource_closers)  # type: ignore[attr-defined]
    return stored
