from django.urls import path

from tests.acceptance.views import connections_made, endless, flaky, gate, gate_and_fail, later, note
from tests.site.urls import urlpatterns as site

urlpatterns = [
    *site,
    path("connections/", connections_made),
    path("endless/", endless),
    path("flaky/<int:failures>/", flaky),
    path("gate/<slug:name>/", gate),
    path("gate-and-fail/<slug:name>/", gate_and_fail),
    path("later/", later),
    path("note/<slug:name>/", note),
]
