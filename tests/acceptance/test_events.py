"""What Celery's own events, and so Flower, report."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from tests.acceptance.conftest import PATIENCE, done

if TYPE_CHECKING:
    import httpx
    from celery import Celery

    from tests.acceptance.conftest import Ledger


class Heard:
    """Collects the events of ended tasks by id."""

    def __init__(self, app: Celery) -> None:
        self._app, self._ended, self._more = app, {}, threading.Condition()
        self._listening, self._receiver = threading.Event(), None
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(PATIENCE)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._receiver.should_stop = True
        self._thread.join(PATIENCE)

    def _listen(self) -> None:
        with self._app.connection_for_read() as connection:
            kinds = dict.fromkeys(("task-failed", "task-succeeded", "task-retried"), self._note)
            handlers = {**kinds, "worker-heartbeat": lambda _event: self._listening.set()}
            self._receiver = self._app.events.Receiver(connection, handlers=handlers)
            for _ in self._receiver.consume(limit=None, timeout=2 * PATIENCE, wakeup=False):
                pass

    def _note(self, event: dict[str, Any]) -> None:
        with self._more:
            self._ended.setdefault(event["uuid"], []).append(event)
            self._more.notify_all()

    def of(self, dispatch_id: str, count: int) -> list[dict[str, Any]]:
        with self._more:
            assert self._more.wait_for(lambda: len(self._ended.get(dispatch_id, ())) >= count, PATIENCE)
            return self._ended[dispatch_id]


def test_a_dispatch_that_fails_for_good_is_a_failure_to_celery_and_its_response_stays(
    client: httpx.Client, celery_setup_app: Celery, ledger: Ledger
) -> None:
    with Heard(celery_setup_app) as heard:
        failed = done(client, client.post("/flaky/9/", headers={"X-Queue": "once"}))
        succeeded = done(client, client.post("/note/x/", headers={"X-Queue": "bulk"}))
        [event] = heard.of(failed["id"], 1)
        assert (event["type"], "RuntimeError" in event["exception"] or "503" in event["exception"]) == (
            "task-failed",
            True,
        )
        assert [event["type"] for event in heard.of(succeeded["id"], 1)] == ["task-succeeded"]
    response = client.get(failed["links"]["response"])
    assert (failed["state"], response.status_code) == ("failed", failed["response"]["status"])


def test_attempts_before_the_last_are_retries_to_celery(client: httpx.Client, celery_setup_app: Celery) -> None:
    with Heard(celery_setup_app) as heard:
        failed = done(client, client.get("/broken/", headers={"X-Queue": "bulk"}))
        kinds = [event["type"] for event in heard.of(failed["id"], 3)]
    assert kinds == ["task-retried", "task-retried", "task-failed"]
