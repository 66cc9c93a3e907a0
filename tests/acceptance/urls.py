from django.urls import path

from tests.acceptance import poison
from tests.acceptance.views import (
    begun,
    brief,
    connections_made,
    endless,
    flaky,
    gate,
    gate_and_count,
    gate_and_fail,
    later,
    note,
    odd,
)
from tests.site.urls import urlpatterns as site

urlpatterns = [
    *site,
    path("begun/<slug:name>/", begun),
    path("brief/<slug:name>/", brief),
    path("connections/", connections_made),
    path("endless/", endless),
    path("flaky/<int:failures>/", flaky),
    path("gate/<slug:name>/", gate),
    path("gate-and-count/<slug:name>/", gate_and_count),
    path("gate-and-fail/<slug:name>/", gate_and_fail),
    path("later/", later),
    path("note/<slug:name>/", note),
    path("odd/<slug:name>/", odd),
    path("poison/<str:name>/", poison.poison),
    path("apoison/<str:name>/", poison.apoison),
    path("leave/<str:name>/", poison.leave),
    path("aleave/<str:name>/", poison.aleave),
    path("probe/", poison.probe),
]
