"""Tokens: a dispatch id and a signature over it. Whoever was not handed one cannot guess one."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.urls import NoReverseMatch, reverse

from broker_core.errors import DispatchNotFoundError

if TYPE_CHECKING:
    from django.http import HttpRequest

MAX_LENGTH = 200


def _signer() -> Signer:
    return Signer(sep=".", salt="request_broker.token")


def issue(dispatch_id: uuid.UUID) -> str:
    return _signer().sign(dispatch_id.hex)


def read(token: str) -> uuid.UUID:
    """The id that the token was issued for. Raises DispatchNotFoundError for any other text."""
    if len(token) > MAX_LENGTH:
        raise DispatchNotFoundError("the token is not of this site")
    try:
        return uuid.UUID(hex=_signer().unsign(token))
    except (BadSignature, ValueError) as error:
        raise DispatchNotFoundError("the token is not of this site") from error


def status_url(request: HttpRequest, dispatch_id: uuid.UUID) -> str:
    """The absolute URL of a dispatch's status. Raises NoReverseMatch where the broker's URLs are not included."""
    token = issue(dispatch_id)
    try:
        path = reverse("request_broker:task", args=[token])
    except NoReverseMatch:  # the request may have a URLconf of its own
        path = reverse("request_broker:task", args=[token], urlconf=settings.ROOT_URLCONF)
    return request.build_absolute_uri(path)
