"""Tokens: a dispatch id, the time when it was accepted, and a signature over both. Nobody can guess a token.

A dispatch keeps the same token, so its URLs do not change.
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
    """Returns the id that the token was issued for. `now` is in seconds since the epoch.

    Raises DispatchNotFoundError for any other text, and TokenExpiredError after TOKEN_MAX_AGE seconds.
    """
    if len(token) > MAX_LENGTH:
        raise DispatchNotFoundError("this site did not issue the token")
    try:
        dispatch_id, _, accepted = _signer().unsign(token).partition("-")
        issued, found = b62_decode(accepted), uuid.UUID(hex=dispatch_id)
    except (BadSignature, ValueError, IndexError) as error:
        raise DispatchNotFoundError("this site did not issue the token") from error
    if issued + conf.TOKEN_MAX_AGE < (time.time() if now is None else now):
        raise TokenExpiredError("the URL of this dispatch has expired")
    return found


def status_url(request: HttpRequest, dispatch_id: uuid.UUID, accepted_at: datetime) -> str:
    """Returns the absolute URL of a dispatch's status.

    Raises NoReverseMatch if the URLconf of this request does not include the broker's URLs: then this host does not
    serve them.
    """
    token = issue(dispatch_id, accepted_at)
    path = reverse("request_broker:task", urlconf=getattr(request, "urlconf", None), args=[token])
    return f"{request.scheme}://{request.get_host()}{path}"
