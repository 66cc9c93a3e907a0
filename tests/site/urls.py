from __future__ import annotations

from django.apps import apps
from django.contrib import admin
from django.urls import include, path, re_path

from tests.site import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("broker/", include("broker_django.urls")),
    path("echo/", views.echo),
    path("echo/<str:name>/", views.echo),
    path("body/", views.echo_body),
    path("pay/", views.pay),
    path("charge/", views.charge),
    path("pay-with-csrf/", views.pay_with_csrf),
    path("slow/", views.slow_echo),
    path("preferably/", views.preferably),
    path("immediately/", views.immediately),
    path("report/<int:year>/", views.Report.as_view()),
    path("decorated/", views.Decorated.as_view()),
    path("by-handler/", views.ByHandler.as_view()),
    path("moved/", views.moved),
    path("moved-for-good/", views.moved_for_good),
    path("teapot/", views.teapot),
    path("public/", views.public),
    path("broken/", views.broken),
    path("stream/<int:size>/", views.stream),
    path("async-stream/", views.async_stream),
    path("broken-stream/", views.broken_stream),
    path("download/", views.download),
    path("log-in/", views.log_in),
    path("set-cookie-field/", views.set_cookie_field),
    path("log-out/", views.log_out),
    path("count/", views.count),
    path("flashes/", views.flashes),
    path("cookies/", views.cookies),
    re_path(r"^legacy/(?P<name>\d+)/$", views.echo),
]

if apps.is_installed("rest_framework"):
    from rest_framework.routers import SimpleRouter

    from tests.site import rest

    router = SimpleRouter()
    router.register("things", rest.RestSet, basename="thing")
    urlpatterns += [path("rest/", rest.Rest.as_view()), path("rest-set/", include(router.urls))]
