"""The test site with a database for each tenant, which a router chooses by the request."""

import os

from tests.acceptance.settings import *  # noqa: F403
from tests.acceptance.settings import DATABASES, MIDDLEWARE
from tests.settings import database

DATABASES["tenant"] = database({"DATABASE_PATH": os.environ["TENANT_PATH"]})
DATABASE_ROUTERS = [os.environ["TENANT_ROUTER"]]
MIDDLEWARE = ["tests.site.tenants.tenant_middleware", *MIDDLEWARE]
