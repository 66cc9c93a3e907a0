"""No statement of the reaper or the housekeeping reads the whole ledger: each one has an index."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from broker_django.admission import capacity
from broker_django.conf import conf
from broker_django.ledger import ledger, retention
from broker_django.models import DispatchRecord
from workers.recovery import reaper
from workers.recovery.reaper import Reaper

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE = DispatchRecord._meta.db_table


def passes() -> None:
    """Make full passes of the reaper. Only the later ones check the leases."""
    clock = timezone.now()
    run_pass = Reaper(lambda: clock).run_pass
    for _ in range(5):
        list(run_pass())
        clock += timedelta(seconds=10)


def statements(use: Callable[[], Any]) -> set[str]:
    """Returns the statements for the table of dispatches."""
    with CaptureQueriesContext(connection) as queries:
        use()
    return {query["sql"] for query in queries if TABLE in query["sql"]}


def plan(statement: str) -> list[str]:
    """Returns the query plan. PostgreSQL plans as if the table were large."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
            return [row[3] for row in cursor.fetchall() if TABLE in row[3]]
        if connection.vendor == "mysql":
            cursor.execute(f"EXPLAIN {statement}")
            return [f"possible keys: {row[4]}" for row in cursor.fetchall() if row[2] == TABLE]  # it scans small tables
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {statement}")
        return [row[0] for row in cursor.fetchall()]


def is_indexed(statement: str) -> bool:
    steps = plan(statement)
    if connection.vendor == "sqlite":
        return bool(steps) and all(re.search(r"SEARCH .* USING (COVERING )?INDEX", step) for step in steps)
    if connection.vendor == "mysql":
        return bool(steps) and not any("None" in step for step in steps)
    return any("Index Cond" in step for step in steps) and not any("Seq Scan" in step for step in steps)


@pytest.fixture
def lost_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatch that was published long ago. Its queue is not empty, but its message may be lost."""
    late = timezone.now() - timedelta(hours=1)
    DispatchRecord.objects.create(
        queue="bulk", method="GET", path="/", route="/", sealed=b"s", accepted_at=late, published_at=late
    )
    monkeypatch.setattr(reaper, "waiting_messages", lambda _: 1)
    monkeypatch.setitem(reaper.latest_published, "bulk", late.timestamp())


def test_the_reaper_uses_indexes(lost_message: None) -> None:
    seen = statements(passes)
    assert len(seen) > len(conf.queues) + 3
    assert [statement for statement in seen if not is_indexed(statement)] == []


def test_housekeeping_uses_indexes() -> None:
    seen = statements(lambda: list(retention.keep_house(of_former_queues=True)))
    assert len(seen) > len(retention.DONE) * len(conf.queues)
    assert [statement for statement in seen if not is_indexed(statement)] == []


def test_measuring_the_load_of_a_queue_uses_indexes(lost_message: None) -> None:
    seen = statements(lambda: capacity.measure("bulk", conf.queues["bulk"], timezone.now()))
    assert [statement for statement in seen if not is_indexed(statement)] == []


def test_holds_up_uses_an_index() -> None:
    seen = statements(lambda: ledger.holds_up("bulk"))
    assert [statement for statement in seen if not is_indexed(statement)] == []
