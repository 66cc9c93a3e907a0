"""Announcing that a dispatch changed state, and hearing of it.

If the message broker or the result backend is Redis, its publish/subscribe wakes whoever waits at once. Everywhere, the
ledger is looked at again after a while: an announcement is a hint, the ledger is the truth.
"""

from __future__ import annotations

import contextlib
import logging
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


def channel(dispatch_id: uuid.UUID) -> str:
    return f"{conf.prefix}request-broker:{dispatch_id}"


def redis_url() -> str | None:
    """The Redis that carries announcements, None where neither message broker nor result backend is one."""
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
    """The URL with redis-py's names for how certificates are checked; Celery takes those of the ssl module."""
    for name in ("none", "optional", "required"):
        url = url.replace(f"ssl_cert_reqs=CERT_{name.upper()}", f"ssl_cert_reqs={name}")
    return url


@lru_cache(maxsize=4)
def _announcers(url: str, timeout: float) -> Any:
    """Connections to announce on. Redis does not answer on them: nobody would wait for it to say how many it woke."""

    def mute(connection: Any) -> None:
        connection.on_connect()
        connection.send_command("CLIENT", "REPLY", "ON", check_health=False)
        connection.read_response()  # raises where this user may not
        connection.send_command("CLIENT", "REPLY", "OFF", check_health=False)

    return redis.ConnectionPool.from_url(
        _for_redis_py(url), socket_timeout=timeout, socket_connect_timeout=timeout, redis_connect_func=mute
    )


def announce(dispatch_id: uuid.UUID) -> None:
    """Wake whoever waits for this dispatch. Without Redis, they look for themselves."""
    url = redis_url()
    if url is None:
        return
    announcers = _announcers(url, conf.PUBLISH_TIMEOUT)
    try:
        connection = announcers.get_connection()
        try:
            connection.send_command("PUBLISH", channel(dispatch_id), b"", check_health=False)
        finally:
            announcers.release(connection)
    except redis.RedisError as error:
        logger.warning("Nobody was told that dispatch %s changed: %s", dispatch_id, redacted(error))


class Subscription:
    """Hears what is announced of some dispatches, on one connection. It never waits: poll its socket."""

    ERRORS = (redis.RedisError, OSError)
    """What its methods raise if Redis does not answer."""

    def __init__(self, url: str) -> None:
        timeout, once = conf.PUBLISH_TIMEOUT, Retry(NoBackoff(), 0)
        self._client = redis.Redis.from_url(
            _for_redis_py(url), socket_timeout=timeout, socket_connect_timeout=timeout, retry=once
        )
        self._pubsub: Any = self._client.pubsub()  # type: ignore[no-untyped-call]
        self._followed: dict[str, uuid.UUID] = {}

    @property
    def socket(self) -> socket.socket | None:
        """The socket on which announcements come; None if there is none, or redis-py does not show it any more."""
        return getattr(self._pubsub.connection, "_sock", None)

    def follow(self, ids: Collection[uuid.UUID]) -> list[uuid.UUID]:
        """Hear of these from now on, and of no others: those that are new. Each is heard of once Redis has it."""
        wanted = {channel(dispatch_id): dispatch_id for dispatch_id in ids}
        new, over = wanted.keys() - self._followed.keys(), self._followed.keys() - wanted.keys()
        self._followed = wanted
        if new:
            self._pubsub.subscribe(*new)
        if over:
            self._pubsub.unsubscribe(*over)
        return [wanted[name] for name in new]

    def heard(self) -> list[uuid.UUID]:
        """The dispatches that something was announced of since, or that are followed by now."""
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
