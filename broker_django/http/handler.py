"""Django's own handler, for requests that come from the broker instead of a web server."""

from __future__ import annotations

import contextlib
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.handlers import base
from django.core.handlers.base import BaseHandler
from django.core.signals import setting_changed
from django.middleware.cache import FetchFromCacheMiddleware, UpdateCacheMiddleware
from django.urls import get_resolver, get_script_prefix, get_urlconf, set_script_prefix, set_urlconf
from django.utils import translation
from django.utils.module_loading import import_string

from broker_core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest

BROKER = "broker_django.middleware"
"""The module of the broker's middleware, which is in a higher layer, so it is named instead of imported."""


class Handler(BaseHandler):
    """Loads the project's whole middleware, except a site-wide cache.

    A cached page would keep the view from running. And the cache would keep a replayed response for everybody: if code
    has named the user, the request has no session by which the cache could distinguish users.
    """

    def load_middleware(self, is_async: bool = False) -> None:  # noqa: FBT001, FBT002 - Django's signature
        with _loading:
            _base.settings = _WithoutSiteCache()
            try:
                super().load_middleware(is_async=is_async)
            finally:
                _base.settings = settings
        if not any(map(_is_the_brokers, settings.MIDDLEWARE)):
            raise ConfigurationError("MIDDLEWARE does not contain the middleware of the request broker")

    def make_view_atomic(self, view: Callable[..., Any]) -> Callable[..., Any]:
        view = super().make_view_atomic(view)
        return view if iscoroutinefunction(view) else _without_stop_iteration(view)


def _without_stop_iteration(view: Callable[..., Any]) -> Callable[..., Any]:
    """Under ASGI, a view runs in a thread, and older Python releases lose a thread's StopIteration (cpython#112182)."""

    def call(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return view(request, *args, **kwargs)
        except StopIteration as error:
            raise RuntimeError("the view raised StopIteration") from error

    return call


_base: Any = base
_loading = threading.Lock()


class _WithoutSiteCache:
    """The settings that Django's handler reads while it loads the middleware."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(settings, name)
        return [path for path in value if not _is_site_cache(path)] if name == "MIDDLEWARE" else value


def _is_site_cache(path: str) -> bool:
    middleware = import_string(path)
    return isinstance(middleware, type) and issubclass(middleware, FetchFromCacheMiddleware | UpdateCacheMiddleware)


def _is_the_brokers(path: str) -> bool:
    middleware = import_string(path)
    return isinstance(middleware, type) and any(base.__module__ == BROKER for base in middleware.__mro__)


def check_usable() -> None:
    """Raise any error that would keep all replays from their views: URLs or middleware that cannot be imported."""
    get_resolver().url_patterns  # noqa: B018 - the access imports them
    try:
        Handler().load_middleware(is_async=False)
    except Exception as error:  # noqa: BLE001 - middleware may raise anything
        try:
            Handler().load_middleware(is_async=True)  # the project may run under ASGI only
        except Exception:  # noqa: BLE001 - the first error is the one to report
            raise error from None


@lru_cache(maxsize=2)
def handler(*, is_async: bool) -> Handler:
    """Returns the handler, which is built once per process, and again when tests change settings.

    Middleware may behave differently under ASGI: RemoteUserMiddleware reads another variable there.
    """
    built = Handler()
    built.load_middleware(is_async=is_async)
    return built


setting_changed.connect(lambda **_: handler.cache_clear(), weak=False, dispatch_uid="request_broker.handler")


@contextlib.contextmanager
def thread_state() -> Iterator[None]:
    """Restore the thread's state afterwards: the thread may be in the middle of another request."""
    prefix, urlconf = get_script_prefix(), get_urlconf()
    try:
        with translation.override(translation.get_language()):
            yield
    finally:
        set_script_prefix(prefix)
        set_urlconf(urlconf)
