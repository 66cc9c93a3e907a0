"""The endpoints for dispatches. Include them with `path("broker/", include("broker_django.urls"))`."""

from __future__ import annotations

from django.urls import path, register_converter

from broker_django.tracking import views


class TokenConverter:
    regex = "[A-Za-z0-9._-]+"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(TokenConverter, "broker_token")

app_name = "request_broker"
urlpatterns = [  # `answers` relies on the response and the events being below the status URL
    path("tasks/<broker_token:token>/", views.task, name="task"),
    path("tasks/<broker_token:token>/response/", views.response, name="task-response"),
    path("tasks/<broker_token:token>/events/", views.events, name="task-events"),
    path("health/", views.health, name="health"),
    path("openapi.json", views.openapi, name="openapi"),
]
