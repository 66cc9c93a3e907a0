"""A worker that could run no request does not start."""

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
    """Raises what keeps the middleware or the URLs from being loaded, before the worker has taken anything.

    A worker that serves only queues of the project's own may do without.
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
            connections.close_all()  # a process that is forked later must not inherit what middleware opened
