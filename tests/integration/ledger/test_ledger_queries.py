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


def looks() -> None:
    """Passes that look at everything, the first only after a while at the leases."""
    clock = timezone.now()
    run_pass = Reaper(lambda: clock).run_pass
    for _ in range(5):
        list(run_pass())
        clock += timedelta(seconds=10)


def statements(use: Callable[[], Any]) -> set[str]:
    """What it has the database do with dispatches."""
    with CaptureQueriesContext(connection) as queries:
        use()
    return {query["sql"] for query in queries if TABLE in query["sql"]}


def plan(statement: str) -> list[str]:
    """How the database would read dispatches for it; PostgreSQL, as if there were more than a few."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
            return [row[3] for row in cursor.fetchall() if TABLE in row[3]]
        if connection.vendor == "mysql":
            cursor.execute(f"EXPLAIN {statement}")
            return [
                f"possible keys: {row[4]}" for row in cursor.fetchall() if row[2] == TABLE
            ]  # of a few rows it reads all
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
def all_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was published long ago, in a queue that is not empty: its message may be lost."""
    late = timezone.now() - timedelta(hours=1)
    DispatchRecord.objects.create(
        queue="bulk", method="GET", path="/", route="/", sealed=b"s", accepted_at=late, published_at=late
    )
    monkeypatch.setattr(reaper, "waiting_messages", lambda _: 1)
    monkeypatch.setitem(reaper.latest_published, "bulk", late.timestamp())


def test_the_reaper_finds_all_that_is_due_in_an_index(all_looked_for: None) -> None:
    seen = statements(looks)
    assert len(seen) > len(conf.queues) + 3
    assert [statement for statement in seen if not is_indexed(statement)] == []


def test_the_housekeeping_finds_what_is_old_in_an_index() -> None:
    seen = statements(lambda: list(retention.keep_house(of_former_queues=True)))
    assert len(seen) > len(retention.DONE) * len(conf.queues)
    assert [statement for statement in seen if not is_indexed(statement)] == []


def test_the_load_of_a_queue_is_measured_in_an_index(all_looked_for: None) -> None:
    seen = statements(lambda: capacity.measure("bulk", conf.queues["bulk"], timezone.now()))
    assert [statement for statement in seen if not is_indexed(statement)] == []


def test_what_the_ledger_holds_of_a_queue_is_found_in_an_index() -> None:
    seen = statements(lambda: ledger.holds_up("bulk"))
    assert [statement for statement in seen if not is_indexed(statement)] == []
