"""The error tree. Every class says how it is told over HTTP (RFC 9457)."""

from __future__ import annotations

from typing import ClassVar


class BrokerError(Exception):
    """Anything the broker itself refuses or fails at."""

    status: ClassVar[int] = 500
    namespace: ClassVar[str] = "urn:request-broker:problem:"
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "The request broker failed"
    retry_after: int | None = None
    """Seconds after which it is worth another try, None where it is not. An instance may know better than its class."""

    def problem(self) -> dict[str, object]:
        """The members of an RFC 9457 problem document."""
        return {
            "type": f"{self.namespace}{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": str(self),
        }


class ConfigurationError(BrokerError):
    """A setting, rule or policy that cannot mean anything."""

    slug = "configuration-error"
    title = "The request broker is not configured correctly"


class InvalidConditionError(ConfigurationError):
    """A condition that does not compile. `position` is the 1-based column, 0 where there is none."""

    def __init__(self, reason: str, position: int = 0) -> None:
        self.reason = reason
        self.position = position
        super().__init__(f"column {position}: {reason}" if position else reason)


class MessageError(BrokerError):
    """Bytes that are no message of a version we know."""

    slug = "invalid-message"
    title = "The message cannot be read"


class EnvelopeError(BrokerError):
    """An envelope that was not sealed here, or not for this purpose."""

    slug = "invalid-envelope"
    title = "The envelope cannot be opened"


class UnknownKeyError(EnvelopeError):
    """An envelope that was sealed with a key that is not known here, or not yet."""


class BadRequestError(BrokerError):
    """A request that Django refuses, such as one for a host that is not served."""

    status = 400
    slug = "bad-request"
    title = "The request is refused"


class BodyTooLargeError(BrokerError):
    """A request body above `MAX_BODY_SIZE`."""

    status = 413
    slug = "body-too-large"
    title = "The request body is too large to be queued"


class ResponseTooLargeError(BrokerError):
    """A replayed view's response above `MAX_RESPONSE_SIZE`."""

    slug = "response-too-large"
    title = "The response is too large to be stored"


class ResponseBrokenError(BrokerError):
    """A replayed view's streaming response that raised before its end."""

    slug = "response-broken"
    title = "The response broke off"


class UserInactiveError(BrokerError):
    """The user who made the request may no longer act when it is replayed."""

    status = 403
    slug = "user-inactive"
    title = "The user of this request is no longer active"


class TenantUnknownError(BrokerError):
    """The function that the setting TENANT names has failed, so nobody knows whose request this is."""

    slug = "tenant-unknown"
    title = "It cannot be told which tenant this request belongs to"


class DispatchNotFoundError(BrokerError):
    """No dispatch of this id was issued here to this user."""

    status = 404
    slug = "dispatch-not-found"
    title = "There is no such dispatch"


class TokenExpiredError(BrokerError):
    """A token of this site whose time is over."""

    status = 410
    slug = "token-expired"
    title = "This URL is not valid any more"


class DispatchConflictError(BrokerError):
    """The dispatch is in a state that does not allow this."""

    status = 409
    slug = "dispatch-conflict"
    title = "The dispatch cannot be cancelled any more"


class ResponseGoneError(BrokerError):
    """The stored response was kept for its time and then dropped, or there never will be one."""

    status = 410
    slug = "response-gone"
    title = "There is no response to this dispatch any more"


class NotAcceptableError(BrokerError):
    """The stored response is in a content coding that the client does not accept, and that cannot be undone."""

    status = 406
    slug = "not-acceptable"
    title = "The response is not there in a coding that the client accepts"


class IdempotencyKeyError(BrokerError):
    """An Idempotency-Key that is none."""

    status = 400
    slug = "invalid-idempotency-key"
    title = "The Idempotency-Key cannot be read"


class IdempotencyKeyMissingError(BrokerError):
    """No Idempotency-Key, where the queue or the view requires one."""

    status = 400
    slug = "idempotency-key-missing"
    title = "This request needs an Idempotency-Key"


class IdempotencyKeyReusedError(BrokerError):
    """An Idempotency-Key that was sent before, with another request."""

    status = 422
    slug = "idempotency-key-reused"
    title = "The Idempotency-Key was used for another request"


class IdempotencyKeyInFlightError(BrokerError):
    """The request with this Idempotency-Key is running."""

    status = 409
    slug = "idempotency-key-in-flight"
    title = "The request with this Idempotency-Key is being worked on"


class UnavailableError(BrokerError):
    """The ledger or the result store cannot be read or written, so nothing can be promised or told."""

    status = 503
    slug = "unavailable"
    title = "What is recorded of dispatches is out of reach"
    retry_after = 5


class ReducedCapacityError(BrokerError):
    """A queue takes no more for now. The problem type is that of draft-ietf-httpapi-ratelimit-headers, section 5.2."""

    status = 503
    namespace = "https://iana.org/assignments/http-problem-types#"
    slug = "temporary-reduced-capacity"
    title = "There is no room for this request at the moment"

    def __init__(self, detail: str, retry_after: int) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class StorageError(UnavailableError):
    """The storage of large requests does not answer."""

    slug = "storage-unavailable"
    title = "The storage of large requests is out of reach"


class StoredRequestError(BrokerError):
    """What was stored of a large request cannot be read here: the file is not there, or of another key or release."""

    slug = "stored-request"
    title = "The stored request cannot be read"


class StoredRequestAlteredError(StoredRequestError):
    """What is stored of a large request is not what was stored."""


class ViewNotReachedError(BrokerError):
    """A worker replayed the request, but it never came to the view that it was accepted for."""

    slug = "view-not-reached"
    title = "The view was not reached"


class ViewExitedError(BrokerError):
    """A replayed view raised SystemExit, KeyboardInterrupt or another exception that is meant to end a process."""

    slug = "view-exited"
    title = "The view tried to end its process"


class DispatchFailedError(BrokerError):
    """A dispatch that failed for good. The replay task raises it, so that Celery counts a failure."""

    slug = "dispatch-failed"
    title = "The dispatch failed"


class LoopDetectedError(BrokerError):
    """Routers that lead back to where the request has been."""

    status = 508
    slug = "loop-detected"
    title = "The routers lead in a circle"
