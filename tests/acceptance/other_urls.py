"""The URLs of another release: one is missing, and one leads to another view."""

from django.urls import path

from tests.acceptance.urls import urlpatterns as site
from tests.acceptance.views import gate

GONE = "note/<slug:name>/"
MOVED = "flaky/<int:failures>/"

urlpatterns = [
    *(each for each in site if str(each.pattern) not in {GONE, MOVED}),
    path("flaky/<str:name>/", gate),
]
