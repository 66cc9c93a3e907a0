from django.urls import include, path

from tests.site.urls import urlpatterns as site

urlpatterns = [
    path("elsewhere/", include("broker_django.urls")),
    *[pattern for pattern in site if "broker" not in str(pattern.pattern)],
]
