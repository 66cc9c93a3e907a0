"""Checks for projects with several tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.utils.module_loading import import_string

from broker_django.conf import conf

if TYPE_CHECKING:
    from collections.abc import Iterable

SUBFOLDERS = "django_tenants.middleware.subfolder"


@register("request_broker")
def check_tenant_apps(**_: Any) -> list[CheckMessage]:
    """For projects whose tenants are schemas of one database, as with django-tenants and django-pgschemas."""
    found: list[CheckMessage] = []
    of_tenants, shared = _apps_of_tenants()
    for app in ("broker_django", "django_celery_results") if of_tenants or shared else ():
        if apps.is_installed(app) and (app in of_tenants or app not in shared):
            text = f"{app!r} must be a shared app only: workers do not read the schemas of tenants."
            hint = (
                "Move it from TENANT_APPS to SHARED_APPS, and run migrate_schemas --shared; with django-pgschemas to "
                "TENANTS['public']['APPS'], and run migrate."
            )
            found.append(Error(text, hint=hint, id="request_broker.E016"))
    return found


def _apps_of_tenants() -> tuple[set[str], set[str]]:
    """Returns the apps in the schemas of tenants, of any tenant type, and the shared apps."""
    public = getattr(settings, "PUBLIC_SCHEMA_NAME", "public")
    of_tenants, shared = (list(getattr(settings, name, ())) for name in ("TENANT_APPS", "SHARED_APPS"))
    for name, kind in {**getattr(settings, "TENANT_TYPES", {}), **_schemas()}.items():
        (shared if name == public else of_tenants).extend(kind.get("APPS", ()))
    return _packages(of_tenants), _packages(shared)


def _schemas() -> dict[str, Any]:
    """Returns the schemas of django-pgschemas' TENANTS: the public one, the default for tenants, and any others by
    name.
    """
    setting = getattr(settings, "TENANTS", None)
    named = setting.items() if isinstance(setting, dict) else ()
    schemas = {name: each for name, each in named if isinstance(each, dict)}
    return schemas if "APPS" in schemas.get("public", {}) else {}


def _packages(names: Iterable[str]) -> set[str]:
    """Returns the packages of the apps; an app may be named by its AppConfig."""
    return {str(each).partition(".apps.")[0] for each in names}


@register("request_broker")
def check_tenant_paths(**_: Any) -> list[CheckMessage]:
    """Without TENANT, tenants below paths of one host cannot be distinguished."""
    if conf.TENANT is not None or not any(map(_finds_tenants_by_path, settings.MIDDLEWARE)):
        return []
    text = (
        "All tenants share one host, but REQUEST_BROKER['TENANT'] is not set: users of two tenants who have the same "
        "key count as one user."
    )
    hint = "Name a function that returns request.tenant.schema_name: docs/how-to/tenants.md."
    return [Error(text, hint=hint, id="request_broker.E017")]


def _finds_tenants_by_path(path: str) -> bool:
    """Whether a middleware is django-tenants' or a subclass of it, under any name."""
    try:
        middleware = import_string(path)
    except ImportError:  # Django reports it
        return False
    kinds = middleware.__mro__ if isinstance(middleware, type) else ()
    return any(kind.__module__ == SUBFOLDERS for kind in kinds)
