"""The broker's admin classes, in the module that Django's autodiscovery imports."""

from broker_django.admin.dispatches import DispatchAdmin
from broker_django.admin.routers import RouterAdmin

__all__ = ["DispatchAdmin", "RouterAdmin"]
