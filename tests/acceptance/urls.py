from django.urls import path

from tests.acceptance.views import connections_made, endless, flaky, gate, note
from tests.site.urls import urlpatterns as site

urlpatterns = [
    *site,
    path("connections/", connections_made),
    path("endless/", endless),
    path("flaky/<int:failures>/", flaky),
    path("gate/<slug:name>/", gate),
    path("note/<slug:name>/", note),
]
