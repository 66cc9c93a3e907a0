from django.urls import include, path

from tests.chaos.views import work

urlpatterns = [
    path("broker/", include("broker_django.urls")),
    path("work/<int:milliseconds>/", work),
]
