"""Find the URLconf of a host or tenant, if django-hosts or django-tenants chooses it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.apps import apps
from django.conf import settings
from django.http.request import split_domain_port


def urlconf_of(host: str, tenant: str) -> Any:
    if hasattr(settings, "ROOT_HOSTCONF"):
        return _of_host(host)
    if apps.is_installed("django_tenants"):
        return _of_tenant(host, tenant) or settings.ROOT_URLCONF
    return settings.ROOT_URLCONF


def _of_host(host: str) -> Any:
    resolvers = import_module("django_hosts.resolvers")
    found = (each.urlconf for each in resolvers.get_host_patterns() if each.compiled_regex.match(host))
    return next(found, None) or resolvers.get_host().urlconf


def _of_tenant(host: str, tenant: str) -> Any:
    """Returns the URLconf of the public schema or of the tenant's type, as django-tenants does, or None.

    Queries the database only if tenants have types, or the tenant is unknown.
    """
    utils = import_module("django_tenants.utils")
    types = utils.get_tenant_types() if utils.has_multi_type_tenants() else {}
    public = utils.get_public_schema_name()
    of_public = types.get(public, {}).get("URLCONF") or getattr(settings, "PUBLIC_SCHEMA_URLCONF", None)
    if not types and (tenant or not of_public):
        return of_public if tenant == public else None
    found = _tenant(utils, host, tenant)
    if found is None:
        return None
    if of_public and found.schema_name == public:
        return of_public
    return types[found.get_tenant_type()]["URLCONF"] if types else None


def _tenant(utils: Any, host: str, tenant: str) -> Any:
    """Returns the tenant's row, by its schema name or else by the host: TENANT may return other names."""
    named = utils.get_tenant_model()._default_manager.filter(schema_name=tenant).first() if tenant else None
    if named is not None:
        return named
    name = utils.remove_www(split_domain_port(host)[0])
    domain = utils.get_tenant_domain_model()._default_manager.select_related("tenant").filter(domain=name).first()
    return domain and domain.tenant
