"""Tokens: a dispatch id and a signature over it. Whoever was not handed one cannot guess one."""

from __future__ import annotations

import uuid

from django.core.signing import BadSignature, Signer

from broker_core.errors import DispatchNotFoundError

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
