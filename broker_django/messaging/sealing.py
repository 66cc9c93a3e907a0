"""Seals what leaves the process: requests for the queue, responses for the result backend."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from broker_core.envelope import context, key_id
from broker_core.errors import EnvelopeError, UnknownKeyError
from broker_core.message import VERSION as MESSAGE_VERSION
from broker_core.message import VERSIONS as MESSAGE_VERSIONS
from broker_core.message import RequestMessage
from broker_django.conf import conf

if TYPE_CHECKING:
    from broker_core.dispatches import SealedRequest
    from broker_core.message import ResponseMessage


def seal_request(message: RequestMessage, dispatch_id: str, queue: str) -> bytes:
    return conf.keyring.seal(message.encode(), context("request", dispatch_id, queue))


def open_request(sealed: bytes, dispatch_id: str, queue: str) -> bytes:
    """Raises EnvelopeError."""
    return conf.keyring.open(sealed, context("request", dispatch_id, queue))


def check_sealed(request: SealedRequest) -> None:
    """Raises EnvelopeError or MessageError if this process cannot read the request in the ledger.

    For a request in a file, only the key and the version are checked.
    """
    dispatch = request.dispatch
    if not request.file:
        RequestMessage.decode(open_request(request.content, str(dispatch.id), dispatch.queue))
    elif request.seal and not can_open(request.seal):
        raise UnknownKeyError("the file was sealed with a key or in a version that this process does not know")


def sealed_with(sealed: bytes) -> str:
    """Returns the version of the message and the id of the key: what a process needs to open this request."""
    return f"{MESSAGE_VERSION}.{key_id(sealed)}"


def can_open(seal: str) -> bool:
    """Whether this process knows the version and the key that `sealed_with` returned."""
    version, _, key = seal.partition(".")
    return version in {str(known) for known in MESSAGE_VERSIONS} and key in conf.keyring.key_ids


def seal_reference(name: str, dispatch_id: str, queue: str) -> bytes:
    """Seals the name of a file, which travels instead of the request in it."""
    return conf.keyring.seal(name.encode(), context("reference", dispatch_id, queue))


def open_reference(sealed: bytes, dispatch_id: str, queue: str) -> str:
    """Returns the name of the file. Raises EnvelopeError."""
    return conf.keyring.open(sealed, context("reference", dispatch_id, queue)).decode()


def seal_response(message: ResponseMessage, dispatch_id: str, attempt: int) -> str:
    return to_text(conf.keyring.seal(message.encode(), context("response", dispatch_id, str(attempt))))


def open_response(text: str, dispatch_id: str, attempt: int) -> bytes:
    """Raises EnvelopeError, also if the response belongs to another attempt."""
    return conf.keyring.open(from_text(text), context("response", dispatch_id, str(attempt)))


def to_text(sealed: bytes) -> str:
    return base64.b64encode(sealed).decode("ascii")


def from_text(text: str) -> bytes:
    """Raises EnvelopeError if the text is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise EnvelopeError("the envelope is not base64") from error


def task_argument(request: SealedRequest) -> str:
    """Returns the argument of the replay task: the sealed request, or the sealed name of the file that contains it."""
    if request.file:
        return to_text(seal_reference(request.file, str(request.dispatch.id), request.dispatch.queue))
    return to_text(request.content)


def argument_repr(request: SealedRequest) -> str:
    """Returns what Flower and Celery's log show instead of the arguments."""
    text = "<sealed request, in a file>" if request.file else f"<sealed request, {len(request.content)} bytes>"
    return f"('{text}',)"
