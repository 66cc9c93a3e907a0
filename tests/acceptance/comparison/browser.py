"""A client that returns all that the server sent, unchanged and in order, and keeps cookies."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.acceptance.comparison.shape import Headers

TIMEOUT = 60


class Connection(http.client.HTTPConnection):
    """Sends a request line unchanged, also with bytes above ASCII."""

    def _encode_request(self, request: str) -> bytes:
        return request.encode("latin-1")

    def _validate_path(self, url: str) -> None:
        """Accept every path of the table."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`port` is the client's port of the connection."""

    status: int
    reason: str
    headers: Headers
    body: bytes
    port: int = 0

    def all(self, name: str) -> list[str]:
        return [value for other, value in self.headers if other.lower() == name.lower()]

    def one(self, name: str) -> str:
        return next(iter(self.all(name)), "")


class Browser:
    """Keeps cookies by name only. Their flags are compared, but have no effect here."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url)
        self.cookies: dict[str, str] = {}

    def send(
        self,
        method: str,
        path: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        chunked: bool = False,
        cookies: Mapping[str, str] | None = None,
    ) -> Reply:
        connection = Connection(self.address.hostname or "", self.address.port, timeout=TIMEOUT)
        fields = [*self._own_fields(headers, cookies or {}), *headers]
        if chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        elif body or method in {"POST", "PUT", "PATCH"}:
            fields.append(("Content-Length", str(len(body))))
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in fields:
                connection.putheader(name.encode("latin-1"), value.encode("latin-1"))
            connection.endheaders(_pieces(body) if chunked else body or None, encode_chunked=chunked)
            return self._read(connection)
        finally:
            connection.close()

    def _own_fields(self, headers: Iterable[tuple[str, str]], cookies: Mapping[str, str]) -> Iterable[tuple[str, str]]:
        given = {name.lower() for name, _ in headers}
        if "host" not in given:
            yield "Host", self.address.netloc
        jar = {**cookies, **self.cookies}
        if jar and "cookie" not in given:
            yield "Cookie", "; ".join(f"{name}={value}" for name, value in jar.items())

    def _read(self, connection: http.client.HTTPConnection) -> Reply:
        port = connection.sock.getsockname()[1]
        response = connection.getresponse()
        reply = Reply(response.status, response.reason, tuple(response.getheaders()), response.read(), port)
        for line in reply.all("Set-Cookie"):
            self._keep(line)
        return reply

    def _keep(self, line: str) -> None:
        pair, *attributes = line.split(";")
        name, _, value = pair.partition("=")
        if "max-age=0" in (attribute.strip().lower() for attribute in attributes):
            self.cookies.pop(name, None)
        else:
            self.cookies[name] = value


def _pieces(body: bytes) -> list[bytes]:
    return [body[start : start + 1000] for start in range(0, len(body), 1000)]
