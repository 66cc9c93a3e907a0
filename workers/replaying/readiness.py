"""A check that keeps a worker from starting if it cannot run requests."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from django.db import connections

from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.http.handler import check_usable

logger = logging.getLogger("workers.replaying.readiness")


class Readiness(bootsteps.Step):
    """Raises errors of the middleware or the URLs before the worker receives a message.

    A worker that serves only the project's own queues does not need them.
    """

    def create(self, parent: Any) -> None:
        consumed = parent.app.amqp.queues.consume_from
        if not any(policy.celery_queue in consumed for policy in conf.queues.values()):
            return
        try:
            check_usable()
        except Exception as error:
            logger.critical("This worker could run no request: %s", redacted(error))
            raise
        finally:
            connections.close_all()  # forked processes must not inherit a connection
