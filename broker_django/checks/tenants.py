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
    """A project whose tenants are schemas of one database, as django-tenants and django-pgschemas have it."""
    found: list[CheckMessage] = []
    of_tenants, shared = _apps_of_tenants()
    for app in ("broker_django", "django_celery_results") if of_tenants or shared else ():
        if apps.is_installed(app) and (app in of_tenants or app not in shared):
            text = f"{app!r} is not among the shared apps alone: no worker would look into the schemas of tenants."
            hint = (
                "Move it from TENANT_APPS to SHARED_APPS, and run migrate_schemas --shared; with django-pgschemas to "
                "TENANTS['public']['APPS'], and run migrate."
            )
            found.append(Error(text, hint=hint, id="request_broker.E016"))
    return found


def _apps_of_tenants() -> tuple[set[str], set[str]]:
    """What is in the schemas of tenants, of any type, and what they share."""
    public = getattr(settings, "PUBLIC_SCHEMA_NAME", "public")
    of_tenants, shared = (list(getattr(settings, name, ())) for name in ("TENANT_APPS", "SHARED_APPS"))
    for name, kind in {**getattr(settings, "TENANT_TYPES", {}), **_schemas()}.items():
        (shared if name == public else of_tenants).extend(kind.get("APPS", ()))
    return _packages(of_tenants), _packages(shared)


def _schemas() -> dict[str, Any]:
    """TENANTS, as django-pgschemas has it: the public schema, that of tenants by default, and others by name."""
    setting = getattr(settings, "TENANTS", None)
    named = setting.items() if isinstance(setting, dict) else ()
    schemas = {name: each for name, each in named if isinstance(each, dict)}
    return schemas if "APPS" in schemas.get("public", {}) else {}


def _packages(names: Iterable[str]) -> set[str]:
    """The packages of apps, which may be named by their configuration."""
    return {str(each).partition(".apps.")[0] for each in names}


@register("request_broker")
def check_tenant_paths(**_: Any) -> list[CheckMessage]:
    """Tenants below the paths of one host are told apart by nothing else."""
    if conf.TENANT is not None or not any(map(_finds_tenants_by_path, settings.MIDDLEWARE)):
        return []
    text = "The tenants have one host, and REQUEST_BROKER['TENANT'] is not set: equal users of two tenants are one."
    hint = "Name a function of a request that returns request.tenant.schema_name: docs/operations.md, Several tenants."
    return [Error(text, hint=hint, id="request_broker.E017")]


def _finds_tenants_by_path(path: str) -> bool:
    """Whether a middleware is that of django-tenants, or a subclass, under whatever name."""
    try:
        middleware = import_string(path)
    except ImportError:  # Django says so
        return False
    kinds = middleware.__mro__ if isinstance(middleware, type) else ()
    return any(kind.__module__ == SUBFOLDERS for kind in kinds)
