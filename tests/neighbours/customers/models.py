"""The tenants of the project with django-tenants."""

from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Customer(TenantMixin):
    name = models.CharField(max_length=100)
    type = models.CharField(max_length=10, default="shop")

    def __str__(self) -> str:
        return self.name


class Domain(DomainMixin):
    pass
