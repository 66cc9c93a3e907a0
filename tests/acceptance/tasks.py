"""A task of a project that takes a slot of a threads pool with it."""

from __future__ import annotations

import sys

from celery import shared_task


@shared_task(name="tests.leave")
def leave() -> None:
    sys.exit()
