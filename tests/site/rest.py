"""Views of Django REST framework, whose import takes long: for projects that have it."""

from __future__ import annotations

from rest_framework.decorators import action
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from broker_django.decorators import queue
from tests.site.views import broker_seen


class TwoAMinute(SimpleRateThrottle):
    scope = "two"
    rate = "2/min"

    def get_cache_key(self, request: object, view: object) -> str:
        return f"throttle-{request.user.pk}"


@queue("payment")
class Rest(APIView):
    permission_classes = [IsAuthenticated]
    throttle_classes = [TwoAMinute]

    def post(self, request: object) -> Response:
        return Response({"user": request.user.get_username(), "data": request.data, "broker": broker_seen(request)})


class RestSet(ViewSet):
    def list(self, request: object) -> Response:
        return Response(broker_seen(request))

    @action(detail=True, methods=["post"])
    @queue("bulk")
    def archive(self, request: object, pk: str) -> Response:
        return Response({"pk": pk, "broker": broker_seen(request)})
