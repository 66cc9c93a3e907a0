"""Being woken when a dispatch changes state.

Where the message broker or the result backend is Redis, its publish/subscribe wakes whoever waits at once. Everywhere,
the ledger is looked at again after a while: an announcement is a hint, the ledger is the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import redis
import redis.asyncio

from broker_core.redaction import redacted
from broker_django.celery_app import broker_urls, get_app
from broker_django.conf import conf

if TYPE_CHECKING:
    import uuid

    from celery import Celery

logger = logging.getLogger("broker_django.notifications")

FIRST_STEP = 0.01
LAST_STEP = 0.5
"""Seconds between looks at the ledger where nothing announces changes: growing from the first to the last."""
ANNOUNCED_STEP = 1.0
"""Seconds between looks at the ledger where changes are announced."""


def channel(dispatch_id: uuid.UUID) -> str:
    return f"request-broker:{dispatch_id}"


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
def _client(url: str, timeout: float) -> redis.Redis:
    return redis.Redis.from_url(_for_redis_py(url), socket_timeout=timeout, socket_connect_timeout=timeout)


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
    url = _redis_url(get_app())
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


class _Steps:
    """Growing pauses."""

    def __init__(self) -> None:
        self._next = FIRST_STEP

    def take(self, left: float) -> float:
        step, self._next = self._next, min(self._next * 1.5, LAST_STEP)
        return min(step, left)


class Watch:
    """Waits for changes of one dispatch. Enter it before the first look at the ledger, so that none is missed."""

    def __init__(self, dispatch_id: uuid.UUID) -> None:
        self._dispatch_id = dispatch_id
        self._steps = _Steps()
        self._pubsub: Any = None

    def __enter__(self) -> Self:
        url = redis_url()
        if url is not None:
            self._pubsub = _client(url, conf.PUBLISH_TIMEOUT).pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            with self._or_without():
                self._pubsub.subscribe(channel(self._dispatch_id))
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._pubsub is not None:
            with contextlib.suppress(redis.RedisError):
                self._pubsub.close()

    def pause(self, left: float) -> None:
        """Return when a change is announced, or when it is time to look again; `left` seconds at most."""
        if self._pubsub is None:
            time.sleep(self._steps.take(left))
            return
        with self._or_without():
            self._pubsub.get_message(timeout=min(ANNOUNCED_STEP, left))

    @contextlib.contextmanager
    def _or_without(self) -> Any:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            logger.warning("Dispatch %s is waited for by polling: %s", self._dispatch_id, redacted(error))
            self.__exit__()
            self._pubsub = None


class AsyncWatch:
    """`Watch` for coroutines."""

    def __init__(self, dispatch_id: uuid.UUID) -> None:
        self._dispatch_id = dispatch_id
        self._steps = _Steps()
        self._client: Any = None
        self._pubsub: Any = None

    async def __aenter__(self) -> Self:
        url = redis_url()
        if url is not None:
            timeout = conf.PUBLISH_TIMEOUT
            self._client = redis.asyncio.Redis.from_url(
                _for_redis_py(url), socket_timeout=timeout, socket_connect_timeout=timeout
            )
            self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
            async with self._or_without():
                await self._pubsub.subscribe(channel(self._dispatch_id))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._client is not None:
            with contextlib.suppress(redis.RedisError):
                await self._pubsub.aclose()
                await self._client.aclose()
            self._client = None

    async def pause(self, left: float) -> None:
        """Return when a change is announced, or when it is time to look again; `left` seconds at most."""
        if self._client is None:
            await asyncio.sleep(self._steps.take(left))
            return
        async with self._or_without():
            await self._pubsub.get_message(timeout=min(ANNOUNCED_STEP, left))

    @contextlib.asynccontextmanager
    async def _or_without(self) -> Any:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            logger.warning("Dispatch %s is waited for by polling: %s", self._dispatch_id, redacted(error))
            await self.__aexit__()
