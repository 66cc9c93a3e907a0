"""Announces that a dispatch changed state, and receives announcements.

If the message broker or the result backend is Redis, its publish/subscribe wakes waiting clients at once. Clients also
poll the ledger: an announcement may be lost, the ledger is the truth.
"""

from __future__ import annotations

import contextlib
import logging
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.messaging.celery_app import broker_urls, get_app

if TYPE_CHECKING:
    import socket
    import uuid
    from collections.abc import Collection

    from celery import Celery

logger = logging.getLogger("broker_django.messaging.notifications")

SILENCE = 2.0
"""Seconds without announcements after one has failed. Waiting clients poll the ledger meanwhile."""


def channel(dispatch_id: uuid.UUID) -> str:
    return f"{conf.prefix}request-broker:{dispatch_id}"


def redis_url() -> str | None:
    """Returns the URL of the Redis for announcements, or None if neither message broker nor result backend
    is a Redis.
    """
    app = get_app()
    return None if app.conf.task_always_eager else _redis_url(app)


@lru_cache(maxsize=4)
def _redis_url(app: Celery) -> str | None:
    for setting in (app.conf.broker_write_url or app.conf.broker_url, app.conf.result_backend):
        urls = broker_urls(setting)
        if len(urls) == 1 and urls[0].startswith(("redis://", "rediss://")):
            return urls[0]
    return None


def _for_redis_py(url: str) -> str:
    """Returns the URL with redis-py's names for certificate checks; Celery uses those of the ssl module."""
    for name in ("none", "optional", "required"):
        url = url.replace(f"ssl_cert_reqs=CERT_{name.upper()}", f"ssl_cert_reqs={name}")
    return url


@lru_cache(maxsize=4)
def _announcers(url: str, timeout: float) -> Any:
    """Returns a pool of connections without replies: nobody needs to know how many subscribers there were."""

    def mute(connection: Any) -> None:
        connection.on_connect()
        connection.send_command("CLIENT", "REPLY", "ON", check_health=False)
        connection.read_response()  # raises if this user may not use CLIENT REPLY
        connection.send_command("CLIENT", "REPLY", "OFF", check_health=False)

    return redis.ConnectionPool.from_url(
        _for_redis_py(url), socket_timeout=timeout, socket_connect_timeout=timeout, redis_connect_func=mute
    )


def announce(dispatch_id: uuid.UUID) -> None:
    """Wake the clients that wait for this dispatch. Without Redis, they poll.

    If Redis does not answer, nothing is announced for a while: many dispatches may expire in an outage, and each
    announcement would wait for PUBLISH_TIMEOUT.
    """
    url = redis_url()
    if url is None or time.monotonic() < _silent_until.get(url, 0.0):
        return
    announcers = _announcers(url, conf.PUBLISH_TIMEOUT)
    try:
        connection = announcers.get_connection()
        try:
            connection.send_command("PUBLISH", channel(dispatch_id), b"", check_health=False)
        finally:
            announcers.release(connection)
    except redis.RedisError as error:
        if isinstance(error, redis.TimeoutError):  # a refusal costs nothing
            _silent_until[url] = time.monotonic() + SILENCE
        logger.warning("The change of dispatch %s could not be announced: %s", dispatch_id, redacted(error))


_silent_until: dict[str, float] = {}
"""By URL, when the next announcement is tried."""


class Subscription:
    """Receives the announcements of some dispatches on one connection. It never waits: poll its socket."""

    ERRORS = (redis.RedisError, OSError)
    """The errors that its methods raise if Redis does not respond."""

    def __init__(self, url: str) -> None:
        timeout, once = conf.PUBLISH_TIMEOUT, Retry(NoBackoff(), 0)
        self._client = redis.Redis.from_url(
            _for_redis_py(url), socket_timeout=timeout, socket_connect_timeout=timeout, retry=once
        )
        self._pubsub: Any = self._client.pubsub()  # type: ignore[no-untyped-call]
        self._followed: dict[str, uuid.UUID] = {}

    @property
    def socket(self) -> socket.socket | None:
        """The socket that announcements arrive on; None without a connection, or if redis-py no longer exposes it."""
        return getattr(self._pubsub.connection, "_sock", None)

    def follow(self, ids: Collection[uuid.UUID]) -> list[uuid.UUID]:
        """Subscribe to these dispatches only; returns the new ones.

        `heard` returns each of them once it is subscribed.
        """
        wanted = {channel(dispatch_id): dispatch_id for dispatch_id in ids}
        new, over = wanted.keys() - self._followed.keys(), self._followed.keys() - wanted.keys()
        self._followed = wanted
        if new:
            self._pubsub.subscribe(*new)
        if over:
            self._pubsub.unsubscribe(*over)
        return [wanted[name] for name in new]

    def heard(self) -> list[uuid.UUID]:
        """Returns the dispatches that were announced, or subscribed to, since the last call."""
        found = []
        while (message := self._pubsub.get_message(timeout=0)) is not None:
            dispatch_id = self._followed.get(message["channel"].decode())
            if dispatch_id is not None and message["type"] in {"message", "subscribe"}:
                found.append(dispatch_id)
        return found

    def close(self) -> None:
        with contextlib.suppress(*self.ERRORS):
            self._pubsub.close()
            self._client.close()
