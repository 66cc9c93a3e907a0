"""Plan a worker's processes from the current settings and rows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.db import transaction

from broker_core.pools import Plan, plan_for, pool_factors
from broker_core.redaction import redacted
from broker_django.conf import conf
from broker_django.messaging import celery_app
from broker_django.models import database
from broker_django.routing.table import tables

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("broker_django.operations.pools")


def current_plan(names: Iterable[str], processes: int) -> Plan:
    """Returns the plan for a worker of these queues, keyed by Celery queue. It makes no query."""
    policies = {conf.queues[name].celery_queue: conf.queues[name] for name in names}
    factors = pool_factors(tables.current().routers, conf.queues)
    served = {conf.queues[name].celery_queue: factor for name, factor in factors.items()}
    return plan_for(policies, served, processes, ordered=is_ordered())


def is_ordered() -> bool:
    """Whether workers can choose the order of their queues, as on Redis."""
    return not celery_app.schemes(celery_app.get_app()).isdisjoint(celery_app.REDIS_SCHEMES)


def notify_workers() -> None:
    """Make running workers read the rows once they are committed. Without it they poll every half second."""
    transaction.on_commit(_broadcast, using=database.alias())


def _broadcast() -> None:
    app = celery_app.get_app()
    if app.conf.task_always_eager:
        return
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=0)
            app.control.broadcast(celery_app.ROUTING_CHANGED, connection=connection)
    except Exception as error:  # noqa: BLE001 - the rows are saved, and workers poll anyway
        logger.info("Workers were not notified of changed routers. They will poll for them: %s", redacted(error))
