"""The values of a Django request for conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import DisallowedHost, SuspiciousOperation
from django.utils import timezone

from broker_django.http import declared_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from django.http import HttpRequest


def values(request: HttpRequest, names: frozenset[str]) -> dict[str, Any]:
    """Returns the values of these names; see `broker_core.conditions.VARIABLES`."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = _VALUES[name](request)
        except SuspiciousOperation:
            continue  # the view gets the same error if it reads the value; a condition that reads it does not match
    return found


def _host(request: HttpRequest) -> str:
    try:
        return request.get_host()
    except DisallowedHost:
        return ""


def _user(attribute: str, default: object) -> Callable[[HttpRequest], Any]:
    def read(request: HttpRequest) -> Any:
        return getattr(getattr(request, "user", None), attribute, default)

    return read


def _user_id(request: HttpRequest) -> str:
    key = getattr(getattr(request, "user", None), "pk", None)
    return "" if key is None else str(key)


def _username(request: HttpRequest) -> str:
    user = getattr(request, "user", None)
    name = getattr(user, "get_username", None)  # a project's own user class may not have it
    return str(name()) if name is not None else ""


def _groups(request: HttpRequest) -> list[str]:
    user = getattr(request, "user", None)
    groups = getattr(user, "groups", None)  # AbstractBaseUser does not have it
    if groups is None or not getattr(user, "is_authenticated", False):
        return []
    return list(groups.values_list("name", flat=True))


_VALUES: Mapping[str, Callable[[HttpRequest], Any]] = {
    "request.method": lambda request: request.method,
    "request.path": lambda request: request.path,
    "request.full_path": lambda request: request.get_full_path(),
    "request.query": lambda request: request.GET.dict(),
    "request.headers": lambda request: {name.lower(): value for name, value in request.headers.items()},
    "request.cookies": lambda request: dict(request.COOKIES),
    "request.content_type": lambda request: request.content_type or "",
    "request.size": declared_size,
    "request.scheme": lambda request: request.scheme,
    "request.host": _host,
    "request.remote_addr": lambda request: request.META.get("REMOTE_ADDR", ""),
    "user.id": _user_id,
    "user.username": _username,
    "user.is_authenticated": _user("is_authenticated", default=False),
    "user.is_staff": _user("is_staff", default=False),
    "user.is_superuser": _user("is_superuser", default=False),
    "user.groups": _groups,
    "now": lambda _request: timezone.now(),
}
