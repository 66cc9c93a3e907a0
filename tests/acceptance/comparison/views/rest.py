"""Django REST framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework import exceptions, status
from rest_framework.authentication import SessionAuthentication, TokenAuthentication
from rest_framework.decorators import action, api_view, parser_classes, permission_classes, renderer_classes
from rest_framework.generics import ListCreateAPIView
from rest_framework.pagination import LimitOffsetPagination
from rest_framework.parsers import FileUploadParser, FormParser, JSONParser, MultiPartParser
from rest_framework.permissions import DjangoModelPermissions, IsAdminUser, IsAuthenticated
from rest_framework.renderers import BrowsableAPIRenderer, JSONRenderer, StaticHTMLRenderer
from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer
from rest_framework.throttling import UserRateThrottle
from rest_framework.versioning import AcceptHeaderVersioning
from rest_framework.views import APIView
from rest_framework.viewsets import ModelViewSet

from tests.acceptance.comparison.models import Note
from tests.acceptance.comparison.views.seen import digest

if TYPE_CHECKING:
    from django.http import HttpRequest


class NoteSerializer(ModelSerializer):
    class Meta:
        model = Note
        fields = ["text"]


class Twice(UserRateThrottle):
    scope = "twice"


class Echo(APIView):
    """Returns the request as DRF parses it."""

    def _echo(self, request: Any) -> Response:
        data = request.data
        files = {name: [file.name, file.size, digest(file.read())] for name, file in request.FILES.items()}
        return Response(
            {
                "data": {key: value for key, value in data.items() if key not in files} if data else data,
                "files": files,
                "query": request.query_params,
                "user": str(request.user),
                "auth": type(request.auth).__name__,
                "renderer": request.accepted_renderer.format,
                "type": request.content_type,
            }
        )

    get = post = put = patch = delete = _echo


class Public(Echo):
    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []


class Private(Echo):
    permission_classes = [IsAuthenticated]


class ByToken(Private):
    authentication_classes = [TokenAuthentication]


class BySession(Private):
    authentication_classes = [SessionAuthentication]


class ForStaff(Echo):
    permission_classes = [IsAdminUser]


class Throttled(Echo):
    throttle_classes = [Twice]


class SetUp(Echo):
    """A view with a `setup` before its permissions are checked."""

    def setup(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().setup(request, *args, **kwargs)
        self.shop = kwargs["shop"]

    def get_permissions(self) -> list[Any]:
        return [IsAuthenticated()] if self.shop == "closed" else []


class Versioned(APIView):
    versioning_class = AcceptHeaderVersioning

    def get(self, request: Any) -> Response:
        return Response({"version": request.version})


class Upload(Echo):
    parser_classes = [FileUploadParser]


class Browsable(APIView):
    """A page for people."""

    renderer_classes = [JSONRenderer, BrowsableAPIRenderer]

    def get(self, request: Any) -> Response:
        return Response({"a": [1, "ü"]}, headers={"X-Rest": "yes"})


class NotePages(ListCreateAPIView):
    queryset = Note.objects.order_by("pk")
    serializer_class = NoteSerializer
    pagination_class = LimitOffsetPagination


class NoteSet(ModelViewSet):
    queryset = Note.objects.order_by("pk")
    serializer_class = NoteSerializer
    permission_classes = [DjangoModelPermissions]

    @action(detail=False, methods=["post"], url_path="bulk-add", permission_classes=[])
    def bulk_add(self, request: Any) -> Response:
        Note.objects.bulk_create([Note(text=text) for text in request.data["texts"]])
        return Response({"added": len(request.data["texts"])}, status=status.HTTP_201_CREATED)


@api_view(["GET", "POST"])
@parser_classes([JSONParser, FormParser, MultiPartParser])
@permission_classes([])
def function(request: Any) -> Response:
    return Response({"method": request.method, "data": request.data})


@api_view(["GET"])
@renderer_classes([StaticHTMLRenderer])
def html(request: Any) -> Response:
    return Response("<p>ü</p>")


ERRORS = {
    "validation": exceptions.ValidationError({"field": ["bad", "wörse"]}),
    "parse": exceptions.ParseError("what?"),
    "not-found": exceptions.NotFound(),
    "denied": exceptions.PermissionDenied(),
    "throttled": exceptions.Throttled(wait=1),
    "teapot": exceptions.APIException(detail="short and stout", code="teapot"),
    "value": ValueError("a secret"),
}


@api_view(["GET", "POST"])
def error(request: Any, case: str) -> Response:
    raise ERRORS[case]


def plain_request(request: HttpRequest) -> Response:
    """An APIView under a function of the project's."""
    response = Private.as_view()(request)
    response["X-Wrapped"] = "yes"
    return response
