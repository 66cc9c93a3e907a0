"""One client for both interfaces. Under ASGI a request takes the whole way of a server: Django's own test client
leaves out what the handler does before the middleware, such as the script prefix.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import RequestFactory
from django.utils.datastructures import CaseInsensitiveMapping

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: CaseInsensitiveMapping
    set_cookies: list[str]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return self.headers[name]

    def __contains__(self, name: str) -> bool:
        return name in self.headers

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


def _answer(status: int, fields: Iterable[tuple[str, str]], body: bytes) -> Answer:
    fields = list(fields)
    cookies = [value for name, value in fields if name.lower() == "set-cookie"]
    return Answer(status, CaseInsensitiveMapping(fields), cookies, body)


@dataclass
class Browser:
    """Keeps cookies. `mounted` is the prefix that a proxy in front strips from paths."""

    interface: str
    mounted: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cookies: SimpleCookie = field(default_factory=SimpleCookie)

    def get(self, url: str, **query: str | int) -> Answer:
        return self.send("GET", url, query=query)

    def post(self, url: str, data: dict[str, str] | None = None) -> Answer:
        body = urlencode(data or {}).encode()
        return self.send("POST", url, body, {"Content-Type": "application/x-www-form-urlencoded"})

    def delete(self, url: str) -> Answer:
        return self.send("DELETE", url)

    def send(
        self,
        method: str,
        url: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        query: dict[str, Any] | None = None,
    ) -> Answer:
        path = urlsplit(url).path.removeprefix(self.mounted)
        fields = {"Host": "testserver", **self.headers, **(headers or {})}
        kept = "; ".join(f"{name}={morsel.coded_value}" for name, morsel in self.cookies.items() if morsel.value)
        if kept:
            fields["Cookie"] = kept
        ask = _wsgi if self.interface == "wsgi" else async_to_sync(_asgi)
        answer = ask(method, path, urlencode(query or {}), fields, body)
        for line in answer.set_cookies:
            self.cookies.load(line)
        return answer


def _wsgi(method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Answer:
    environ = RequestFactory(headers=headers).generic(method, path, body, QUERY_STRING=query).environ
    environ["CONTENT_TYPE"] = headers.get("Content-Type", "")
    environ["REQUEST_METHOD"] = method
    environ["wsgi.multithread"] = True
    started: list[Any] = []
    response = WSGIHandler()(environ, lambda status, fields: started.append((int(status[:3]), fields)))
    try:
        content = b"".join(response)
    finally:
        response.close()
    return _answer(*started[0], content)


async def _asgi(method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Answer:
    import asyncio

    sent: list[dict[str, Any]] = []
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in asked:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
    }
    await ASGIHandler()(scope, receive, send)
    start = sent[0]
    fields = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
    return _answer(start["status"], fields, b"".join(message.get("body", b"") for message in sent[1:]))
