"""Tokens: a dispatch id, when it was accepted, and a signature over both. Whoever was not handed one cannot guess one.

A dispatch has one token for as long as it is valid, so that its URLs stay what they are.
"""

from __future__ import annotations

import time
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.signing import BadSignature, Signer, b62_decode, b62_encode
from django.urls import reverse

from broker_core.errors import DispatchNotFoundError, TokenExpiredError
from broker_django.conf import conf

if TYPE_CHECKING:
    from datetime import datetime

    from django.http import HttpRequest

MAX_LENGTH = 200


def _signer() -> Signer:
    return _signer_with(settings.SECRET_KEY, tuple(settings.SECRET_KEY_FALLBACKS))


@lru_cache(maxsize=8)
def _signer_with(key: str | bytes, fallback_keys: tuple[str | bytes, ...]) -> Signer:
    return Signer(key=key, fallback_keys=list(fallback_keys), sep=".", salt="request_broker.token")


def issue(dispatch_id: uuid.UUID, accepted_at: datetime) -> str:
    return _signer().sign(f"{dispatch_id.hex}-{b62_encode(int(accepted_at.timestamp()))}")


def read(token: str, now: float | None = None) -> uuid.UUID:
    """The id that the token was issued for. `now` is in seconds since the epoch.

    Raises DispatchNotFoundError for any other text, and TokenExpiredError after TOKEN_MAX_AGE seconds.
    """
    if len(token) > MAX_LENGTH:
        raise DispatchNotFoundError("the token is not of this site")
    try:
        dispatch_id, _, accepted = _signer().unsign(token).partition("-")
        issued, found = b62_decode(accepted), uuid.UUID(hex=dispatch_id)
    except (BadSignature, ValueError, IndexError) as error:
        raise DispatchNotFoundError("the token is not of this site") from error
    if issued + conf.TOKEN_MAX_AGE < (time.time() if now is None else now):
        raise TokenExpiredError("the URL of this dispatch is not valid any more")
    return found


def status_url(request: HttpRequest, dispatch_id: uuid.UUID, accepted_at: datetime) -> str:
    """The absolute URL of a dispatch's status.

    Raises NoReverseMatch if the URLconf that serves this request, which may be one of its own, does not include the
    broker's URLs: at any other, nobody would find them on this host.
    """
    token = issue(dispatch_id, accepted_at)
    path = reverse("request_broker:task", urlconf=getattr(request, "urlconf", None), args=[token])
    return f"{request.scheme}://{request.get_host()}{path}"
