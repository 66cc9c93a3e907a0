"""A task of a project that makes a slot of a threads pool unusable."""

from __future__ import annotations

import sys

from celery import shared_task


@shared_task(name="tests.leave")
def leave() -> None:
    sys.exit()
