"""Two releases of the site, chosen by the environment: the new one adds a URL, removes one, and moves one."""

import os

from django.urls import include, path

from chaos.site import views

OF_RELEASE = {
    "old": [
        path("old/<int:milliseconds>/", views.work_of_old),
        path("moved/<int:milliseconds>/", views.work_of_old),
    ],
    "new": [
        path("new/<int:milliseconds>/", views.work_of_new),
        path("moved/<int:milliseconds>/", views.work_of_new),
    ],
}

urlpatterns = [
    path("broker/", include("broker_django.urls")),
    path("work/<int:milliseconds>/", views.work),
    path("async-work/<int:milliseconds>/", views.async_work),
    path("poison/<slug:name>/", views.poisonous),
    path("async-poison/<slug:name>/", views.async_poisonous),
    *OF_RELEASE[os.environ["CHAOS_RELEASE"]],
]
