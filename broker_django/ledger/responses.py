"""Opens stored responses."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker_core.errors import EnvelopeError, MessageError
from broker_core.message import ResponseMessage
from broker_core.redaction import redacted
from broker_django.ledger import ledger
from broker_django.messaging.sealing import open_response

if TYPE_CHECKING:
    from broker_core.dispatches import Dispatch

logger = logging.getLogger("broker_django.ledger.responses")


def fetch(dispatch: Dispatch) -> ResponseMessage | None:
    """Returns the stored response of a dispatch. None if it was dropped, or if it was tampered with.

    Raises UnavailableError if the result store does not answer.
    """
    sealed = ledger.response(dispatch)
    if sealed is None:
        return None
    try:
        return ResponseMessage.decode(open_response(sealed, str(dispatch.id), dispatch.attempts))
    except (EnvelopeError, MessageError) as error:  # also if it belongs to another dispatch or attempt
        logger.error("The stored response of dispatch %s is refused: %s", dispatch.id, redacted(error))
        return None
