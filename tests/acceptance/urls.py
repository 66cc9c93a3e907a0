from django.urls import path

from tests.acceptance.views import gate, note
from tests.site.urls import urlpatterns as site

urlpatterns = [*site, path("gate/<slug:name>/", gate), path("note/<slug:name>/", note)]
