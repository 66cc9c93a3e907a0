"""Django's own handler, for requests that come from the broker and not from a web server."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import TYPE_CHECKING

from django.core.handlers.base import BaseHandler
from django.core.signals import setting_changed
from django.urls import get_script_prefix, get_urlconf, set_script_prefix, set_urlconf
from django.utils import translation

if TYPE_CHECKING:
    from collections.abc import Iterator


class Handler(BaseHandler):
    """With the project's whole middleware."""


@lru_cache(maxsize=2)
def handler(*, is_async: bool) -> Handler:
    """Built once a process, and again when settings change under test.

    Middleware may act otherwise under ASGI: RemoteUserMiddleware reads another variable there.
    """
    built = Handler()
    built.load_middleware(is_async=is_async)
    return built


setting_changed.connect(lambda **_: handler.cache_clear(), weak=False, dispatch_uid="request_broker.handler")


@contextlib.contextmanager
def thread_state() -> Iterator[None]:
    """Give the thread back as it was: it may be that of another request, which is being answered."""
    prefix, urlconf = get_script_prefix(), get_urlconf()
    try:
        with translation.override(translation.get_language()):
            yield
    finally:
        set_script_prefix(prefix)
        set_urlconf(urlconf)
