from django.urls import include, path

from tests.neighbours.traces import views

urlpatterns = [
    path("broker/", include("broker_django.urls")),
    path("fine/<int:pk>/", views.fine),
    path("fails/<int:pk>/", views.fails),
    path("fails-async/<int:pk>/", views.fails_async),
    path("asks/<int:pk>/", views.asks),
    path("flaky/<int:pk>/", views.flaky),
    path("answers/<int:status>/", views.answers),
    path("says/<int:pk>/", views.says),
    path("logs-and-fails/<int:pk>/", views.logs_and_fails),
    path("breaks-off/<int:pk>/", views.breaks_off),
    path("exits/<int:pk>/", views.exits),
    path("unsendable/<int:pk>/", views.unsendable),
    path("is-killed/<int:pk>/", views.is_killed),
    path("is-slow/<int:pk>/", views.is_slow),
    path("hangs/<int:pk>/", views.hangs),
    path("dispatches/", views.dispatches),
]
