"""Responses that are final: what was stored goes out as stored, whatever the middleware around it would make of it.

The replay ran the whole middleware chain, and its view may have excused itself from parts of it. The chain around a
held request or a poll knows nothing of that.
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
"""The attribute of a response that came from the store, and is settled when it leaves the broker."""

STREAMED = "_request_broker_streamed"
"""The attribute of a streamed response that has all of the stored body."""


class SettledCookies(SimpleCookie):
    """Cookies that are final: whatever is set afterwards under the same name is ignored.

    The replay ran the whole middleware chain, so what the chain around it would still set or delete is out of date.
    """

    _settled: frozenset[str] = frozenset()

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__()
        for line in lines:
            morsel = self._morsel(line)
            self[morsel.key] = morsel
        self._settled = frozenset(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ([morsel.OutputString() for morsel in self.values()],)

    def _morsel(self, line: str) -> Morsel[str]:
        """RFC 6265, section 5.2. `load` is for the Cookie field: it drops what it takes for no cookie."""
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
            morsel["max-age"] = int(morsel["max-age"])  # as `set_cookie` has it
        return morsel

    def release(self) -> None:
        """Let all of them be changed again."""
        self._settled = frozenset()

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._settled:
            super().__setitem__(key, value)

    def __getitem__(self, key: str) -> Morsel[str]:
        morsel = super().__getitem__(key)
        return morsel.copy() if key in self._settled else morsel


class SettledHeaders(ResponseHeaders):
    """Header fields that are final, but for those that say who may read the response across origins (CORS).

    A field that was set in vain can still be read by its name, for middleware that looks at what it has just set. It is
    not among the fields that are sent.
    """

    def __init__(self, headers: ResponseHeaders) -> None:
        super().__init__(headers)
        self._in_vain: dict[str, str] = {}

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() in self._store

    def __getitem__(self, key: str) -> str:
        return super().__getitem__(key) if key in self else self._in_vain[key.lower()]

    def get(self, key: str, default: Any = None) -> Any:
        return self._store[key.lower()][1] if key in self else default

    def __setitem__(self, key: str, value: Any) -> None:
        if "_in_vain" not in self.__dict__ or _is_of_the_exchange(key):
            super().__setitem__(key, value)
        else:
            self._in_vain[key.lower()] = str(value)

    def pop(self, key: str, default: Any = None) -> Any:
        if _is_of_the_exchange(key):
            return super().pop(key, default)
        self._in_vain.pop(key.lower(), None)
        return self._store.get(key.lower(), default)


def _is_of_the_exchange(field: str) -> bool:
    return field.lower().startswith("access-control-")


_SETTLED = frozenset({"status_code", "reason_phrase", "headers", "cookies", "charset"})
_BODY = frozenset({"content", "streaming_content"})


class Settled:
    """Mixed into the class of a response. The body can be emptied, as for HEAD, but not replaced or encoded again.

    When the response is closed, it was sent, and is an ordinary one: test clients hand it out.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _BODY and not value:
            setattr(self, STREAMED, b"")
        elif name == "streaming_content":
            value = _instead_of(value, getattr(self, STREAMED, b""))
        elif name in _SETTLED or name in _BODY:
            return
        super().__setattr__(name, value)

    def write(self, content: object) -> None:
        """The body is complete."""

    writelines = write

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        _release(self)

    def __reduce_ex__(self, _protocol: object) -> tuple[Any, ...]:
        """By the class that was settled: caches pickle responses."""
        return _new, (type(self).__bases__[1],), self.__getstate__()


@lru_cache(maxsize=256)
def _settled_class(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Settled, kind), names)


def _new(kind: Any) -> Any:
    return object.__new__(_settled_class(kind))


def _release(response: Any) -> None:
    """Let a settled response be changed again."""
    response.__class__ = type(response).__bases__[1]
    response.headers = ResponseHeaders(response.headers)
    if isinstance(response.cookies, SettledCookies):
        response.cookies.release()


def _instead_of(made: Any, body: bytes) -> Any:
    """The stored body in place of a stream that middleware has made of it, which may end with something to be done."""
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
    """Whether it came from the store."""
    return getattr(response, STORED, False)


def settled(response: HttpResponseBase) -> HttpResponseBase:
    """The same response, final from now on if it came from the store."""
    if is_stored(response) and not isinstance(response, Settled):
        kind: Any = type(response)
        response.headers = SettledHeaders(response.headers)
        response.__class__ = _settled_class(kind)
    return response


def put_back(stored: HttpResponseBase, made: HttpResponseBase) -> HttpResponseBase:
    """The stored response in place of one that middleware has made of it. It takes over what it lets be added."""
    for name, value in made.items():
        stored[name] = value
    for name, morsel in made.cookies.items():
        stored.cookies[name] = morsel
    stored._resource_closers.extend(made._resource_closers)  # type: ignore[attr-defined]
    return stored
