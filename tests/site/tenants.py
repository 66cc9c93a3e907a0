"""A project with a database for each tenant: a middleware finds the tenant, and a router follows it."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest

TENANT: ContextVar[str | None] = ContextVar("tenant", default=None)
SHARED = frozenset({"admin", "auth", "contenttypes", "sessions", "authtoken"})

_local = threading.local()


@sync_and_async_middleware
def tenant_middleware(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Sets the tenant of each request. It stays set in the thread or context."""
    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> Any:
            TENANT.set("tenant")
            return await get_response(request)

    else:

        def middleware(request: HttpRequest) -> Any:  # type: ignore[misc]
            TENANT.set("tenant")
            _local.tenant = "tenant"
            return get_response(request)

    return middleware


def of_header(request: HttpRequest) -> str:
    """For the setting TENANT."""
    return str(request.headers.get("X-Tenant", ""))


def leave() -> None:
    TENANT.set(None)
    _local.__dict__.clear()


class _Router:
    """Uses the tenant's database for all models that tenants do not share."""

    def tenant(self) -> str | None:
        raise NotImplementedError

    def db_for_read(self, model: Any, **_hints: Any) -> str | None:
        return None if model._meta.app_label in SHARED else self.tenant()

    db_for_write = db_for_read

    def allow_relation(self, one: Any, other: Any, **_hints: Any) -> bool:
        return one._state.db == other._state.db


class ByContext(_Router):
    def tenant(self) -> str | None:
        return TENANT.get()


class ByThread(_Router):
    def tenant(self) -> str | None:
        return getattr(_local, "tenant", None)


class Strict(_Router):
    """Fails without a request."""

    def tenant(self) -> str | None:
        tenant = TENANT.get()
        if tenant is None:
            raise RuntimeError("there is no tenant")
        return tenant


class Replica:
    """Reads from another database than it writes to."""

    def db_for_read(self, model: Any, **_hints: Any) -> str | None:
        return None if model._meta.app_label in SHARED else "tenant"


class Pinned:
    """Names the database of the broker's tables for every request, and allows its migrations only there."""

    def db_for_write(self, model: Any, **_hints: Any) -> str | None:
        return "tenant" if model._meta.app_label == "broker_django" else None

    def allow_migrate(self, db: str, app_label: str, **_hints: Any) -> bool | None:
        return db == "tenant" if app_label == "broker_django" else None
