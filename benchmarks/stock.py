"""The same work without the broker: a Celery app with Celery's defaults, and a task that does the work of the view."""

from __future__ import annotations

from typing import Any

from celery import Celery

from benchmarks.work import receipt

app = Celery("stock", set_as_current=False)
app.config_from_object("django.conf:settings", namespace="CELERY")


@app.task(name="stock.pay")
def pay(amount: str) -> dict[str, Any]:
    return receipt(amount)
