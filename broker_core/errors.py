"""The error tree. Each class defines its HTTP status and its problem type (RFC 9457)."""

from __future__ import annotations

from typing import ClassVar

from broker_core.texts import Text


class BrokerError(Exception):
    """Base class of all errors of the broker."""

    status: ClassVar[int] = 500
    namespace: ClassVar[str] = "urn:request-broker:problem:"
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The request broker failed"
    retry_after: int | None = None
    """Seconds after which the client should try again, or None. An instance may override its class."""

    def problem(self) -> dict[str, object]:
        """Returns the members of an RFC 9457 problem document."""
        return {
            "type": f"{self.namespace}{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": str(self),
        }


class ConfigurationError(BrokerError):
    """A setting, rule or policy is invalid."""

    slug = "configuration-error"
    title = "The request broker is not configured correctly"


class InvalidConditionError(ConfigurationError):
    """A condition does not compile. `position` is the column, counted from 1, or 0 if it is unknown."""

    def __init__(self, reason: str, position: int = 0) -> None:
        self.reason = reason
        self.position = position
        super().__init__(Text("column {position}: {reason}", position=position, reason=reason) if position else reason)


class MessageError(BrokerError):
    """The bytes are not a message of a supported version."""

    slug = "invalid-message"
    title = "The message cannot be read"


class EnvelopeError(BrokerError):
    """The envelope was not sealed by this project, or was sealed for another purpose."""

    slug = "invalid-envelope"
    title = "The envelope cannot be opened"


class UnknownKeyError(EnvelopeError):
    """The envelope was sealed with a key that this process does not know, or does not know yet."""


class BadRequestError(BrokerError):
    """Django refuses the request, for example because of its host."""

    status = 400
    slug = "bad-request"
    title = "The request is refused"


class BodyTooLargeError(BrokerError):
    """The request body is larger than `MAX_BODY_SIZE`."""

    status = 413
    slug = "body-too-large"
    title = "The request body is too large to be queued"


class ResponseTooLargeError(BrokerError):
    """The response of a replayed view is larger than `MAX_RESPONSE_SIZE`."""

    slug = "response-too-large"
    title = "The response is too large to be stored"


class ResponseBrokenError(BrokerError):
    """The response of a replayed view raised while it was streamed, or no server can send it."""

    slug = "response-broken"
    title = "The response is incomplete or invalid"


class UserInactiveError(BrokerError):
    """The user who made the request was deactivated before the replay."""

    status = 403
    slug = "user-inactive"
    title = "The user of this request is no longer active"


class TenantUnknownError(BrokerError):
    """The function in the setting TENANT failed, so the tenant of the request is unknown."""

    slug = "tenant-unknown"
    title = "The tenant of this request could not be determined"


class DispatchNotFoundError(BrokerError):
    """There is no dispatch with this id, or it belongs to another user."""

    status = 404
    slug = "dispatch-not-found"
    title = "There is no such dispatch"


class TokenExpiredError(BrokerError):
    """The token was issued by this site but has expired."""

    status = 410
    slug = "token-expired"
    title = "This URL has expired"


class DispatchConflictError(BrokerError):
    """The state of the dispatch does not allow the operation."""

    status = 409
    slug = "dispatch-conflict"
    title = "The dispatch cannot be cancelled any more"


class ResponseGoneError(BrokerError):
    """The stored response has expired, or the dispatch ended without one."""

    status = 410
    slug = "response-gone"
    title = "The response of this dispatch is no longer available"


class NotAcceptableError(BrokerError):
    """The client does not accept the content coding of the stored response, and the broker cannot decode it."""

    status = 406
    slug = "not-acceptable"
    title = "The response is not available in a coding that the client accepts"


class IdempotencyKeyError(BrokerError):
    """The Idempotency-Key header is malformed."""

    status = 400
    slug = "invalid-idempotency-key"
    title = "The Idempotency-Key is malformed"


class IdempotencyKeyMissingError(BrokerError):
    """The queue or the view requires an Idempotency-Key, and the request has none."""

    status = 400
    slug = "idempotency-key-missing"
    title = "This request needs an Idempotency-Key"


class IdempotencyKeyReusedError(BrokerError):
    """The Idempotency-Key was already used for a different request."""

    status = 422
    slug = "idempotency-key-reused"
    title = "The Idempotency-Key was used for another request"


class IdempotencyKeyInFlightError(BrokerError):
    """The first request with this Idempotency-Key is still running."""

    status = 409
    slug = "idempotency-key-in-flight"
    title = "The request with this Idempotency-Key is still running"


class UnavailableError(BrokerError):
    """The ledger or the result store cannot be read or written."""

    status = 503
    slug = "unavailable"
    title = "The ledger is not available"
    retry_after = 5


class ReducedCapacityError(BrokerError):
    """A queue accepts no more for now. Problem type: draft-ietf-httpapi-ratelimit-headers, section 5.2."""

    status = 503
    namespace = "https://iana.org/assignments/http-problem-types#"
    slug = "temporary-reduced-capacity"
    title = "There is no capacity for this request at the moment"

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class StorageError(UnavailableError):
    """The storage of large requests does not respond."""

    slug = "storage-unavailable"
    title = "The storage of large requests is not available"


class StoredRequestError(BrokerError):
    """A stored large request cannot be read: its file is missing, or was sealed with another key or release."""

    slug = "stored-request"
    title = "The stored request cannot be read"


class StoredRequestAlteredError(StoredRequestError):
    """The file of a stored large request was altered."""


class ViewNotReachedError(BrokerError):
    """A worker replayed the request, but it did not reach the view that it was accepted for."""

    slug = "view-not-reached"
    title = "The view was not reached"


class ViewExitedError(BrokerError):
    """A replayed view raised SystemExit, KeyboardInterrupt or another exception that ends a process."""

    slug = "view-exited"
    title = "The view tried to end its process"


class DispatchFailedError(BrokerError):
    """A dispatch failed for good. The replay task raises this, so that Celery counts a failure."""

    slug = "dispatch-failed"
    title = "The dispatch failed"


class LoopDetectedError(BrokerError):
    """Routers redirect or proxy the request in a circle."""

    status = 508
    slug = "loop-detected"
    title = "The routers form a loop"
