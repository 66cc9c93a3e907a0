from django.urls import include, path

from tests.site.urls import urlpatterns as site

urlpatterns = [
    path("broker/", include("broker_django.urls"), {"section": "internal", "token": "another"}),
    *[pattern for pattern in site if "broker" not in str(pattern.pattern)],
]
