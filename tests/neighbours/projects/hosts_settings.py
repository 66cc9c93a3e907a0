from tests.neighbours.settings import SITE_APPS
from tests.settings import MIDDLEWARE

SETTINGS = {
    "INSTALLED_APPS": [*SITE_APPS, "django_hosts"],
    "MIDDLEWARE": [
        "django_hosts.middleware.HostsRequestMiddleware",
        *MIDDLEWARE[:-1],
        "django_hosts.middleware.HostsResponseMiddleware",
        MIDDLEWARE[-1],
    ],
    "ROOT_HOSTCONF": "tests.neighbours.projects.hosts_patterns",
    "DEFAULT_HOST": "www",
    "PARENT_HOST": "example.org",
}
