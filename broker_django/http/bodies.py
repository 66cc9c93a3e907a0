"""Encodes request bodies that code passes as Python objects: JSON, forms and uploads."""

from __future__ import annotations

import json
import mimetypes
import secrets
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, TypeAlias
from urllib.parse import urlencode

from django.core.serializers.json import DjangoJSONEncoder
from django.utils.datastructures import MultiValueDict

Pairs: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]
"""Names and values. For several values of one name, use a list or several pairs."""

_ESCAPED = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})
"""The escapes in names of fields and files (HTML Living Standard, "multipart form data")."""


def as_json(value: Any) -> tuple[bytes, str]:
    """Returns the body and its content type. Supports dates, decimals, UUIDs and lazy strings, as JsonResponse does."""
    return json.dumps(value, cls=DjangoJSONEncoder).encode(), "application/json"


def as_form(data: Pairs) -> tuple[bytes, str]:
    return urlencode(pairs(data)).encode(), "application/x-www-form-urlencoded"


def as_upload(data: Pairs, files: Pairs) -> tuple[bytes, str]:
    """Returns a multipart body and its content type.

    A file is a file object opened in binary mode, its bytes, or a tuple of its name, either of these, and optionally
    its content type.
    """
    boundary = secrets.token_hex(16)
    parts = [_part(boundary, f'name="{_escaped(name)}"', "", str(value).encode()) for name, value in pairs(data)]
    parts += [_file(boundary, name, file) for name, file in pairs(files, several=list)]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def pairs(given: Pairs, several: Any = (list, tuple)) -> list[tuple[str, Any]]:
    """Raises TypeError if `given` is not a mapping or a list of pairs, or if a form cannot contain a value."""
    found: list[tuple[str, Any]] = []
    for name, value in _items(given):
        for each in value if isinstance(value, several) else [value]:
            if each is None:
                raise TypeError(f"{name!r} is None, which a form cannot contain: leave it out, or use an empty string")
            found.append((str(name), each))
    return found


def _items(given: Any) -> Any:
    if isinstance(given, MultiValueDict):
        return given.lists()
    if isinstance(given, Mapping):
        return given.items()
    if isinstance(given, str | bytes):
        raise TypeError("a form must be a mapping or a list of pairs; pass an encoded body as `body`")
    return given


def _file(boundary: str, name: str, given: Any) -> bytes:
    filename, file, content_type = _described(name, given)
    content = file.read() if hasattr(file, "read") else file
    if not isinstance(content, bytes | bytearray):
        raise TypeError(f"the file {name!r} does not return bytes: open it with 'rb'")
    kind = content_type or mimetypes.guess_type(filename)[0] or "application/octet-stream"
    named = f'name="{_escaped(name)}"; filename="{_escaped(filename)}"'
    return _part(boundary, named, kind.translate(_ESCAPED), bytes(content))


def _described(name: str, given: Any) -> tuple[str, Any, str]:
    if isinstance(given, tuple):
        filename, file, *rest = given
        return str(filename), file, str(rest[0]) if rest else ""
    filename = PurePath(str(getattr(given, "name", "") or name)).name
    return filename, given, str(getattr(given, "content_type", "") or "")


def _part(boundary: str, described: str, content_type: str, content: bytes) -> bytes:
    head = f"--{boundary}\r\nContent-Disposition: form-data; {described}\r\n"
    if content_type:
        head += f"Content-Type: {content_type}\r\n"
    return head.encode() + b"\r\n" + content + b"\r\n"


def _escaped(name: str) -> str:
    return name.translate(_ESCAPED)
