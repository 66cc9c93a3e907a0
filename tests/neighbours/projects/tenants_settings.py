import os

from tests.settings import MIDDLEWARE, database

OF_TENANTS = ["django.contrib.auth", "django.contrib.sessions", "django.contrib.messages", "tests.neighbours.shop"]
OURS = ["django_celery_results", "broker_django"]
SHARED = ["django_tenants", "tests.neighbours.customers", "django.contrib.contenttypes"]

SHARED_APPS = SHARED if "OURS_IN_TENANTS" in os.environ else [*SHARED, *OURS]
TENANT_APPS = [*OF_TENANTS, *OURS] if "OURS_IN_TENANTS" in os.environ else OF_TENANTS
BY_PATH = "tests.neighbours.projects.tenants.BelowPaths"
FINDS_TENANTS = BY_PATH if "BY_PATH" in os.environ else "django_tenants.middleware.main.TenantMainMiddleware"
BY_TYPE = {
    "HAS_MULTI_TYPE_TENANTS": True,
    "MULTI_TYPE_DATABASE_FIELD": "type",
    "TENANT_TYPES": {
        "public": {"APPS": SHARED_APPS, "URLCONF": "tests.neighbours.projects.tenants"},
        "shop": {"APPS": OF_TENANTS, "URLCONF": "tests.neighbours.projects.tenants"},
        "office": {"APPS": OF_TENANTS, "URLCONF": "tests.neighbours.projects.tenants_office"},
    },
}
NAMES = "tests.neighbours.projects.tenants.tenant_of"

SETTINGS = {
    "SHARED_APPS": SHARED_APPS,
    "TENANT_APPS": TENANT_APPS,
    "INSTALLED_APPS": [*SHARED, *OURS, *OF_TENANTS],
    "TENANT_MODEL": "customers.Customer",
    "TENANT_DOMAIN_MODEL": "customers.Domain",
    "DATABASE_ROUTERS": ["django_tenants.routers.TenantSyncRouter"],
    "DATABASES": {"default": {**database(os.environ), "ENGINE": "django_tenants.postgresql_backend"}},
    "MIDDLEWARE": [FINDS_TENANTS, *MIDDLEWARE],
    "REQUEST_BROKER": {
        "RULES": [{"when": '"x-queue" in request.headers', "queue": "bulk"}],
        "PREFIX": os.environ["PREFIX"],
        "TENANT": None if {"BY_PATH", "NO_NAMES"} & os.environ.keys() else NAMES,
    },
    **(BY_TYPE if "BY_TYPE" in os.environ else {}),
}
