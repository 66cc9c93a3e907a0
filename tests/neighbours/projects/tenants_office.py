"""The URLs of tenants of another type."""

from django.urls import include, path

from tests.neighbours.projects.tenants import log_in, order

urlpatterns = [
    path("log-in/", log_in),
    path("desk/", order),
    path("broker/", include("broker_django.urls")),
]
