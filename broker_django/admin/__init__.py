"""The broker in the admin. Django looks for it here."""

from broker_django.admin.dispatches import DispatchAdmin
from broker_django.admin.routers import RouterAdmin

__all__ = ["DispatchAdmin", "RouterAdmin"]
