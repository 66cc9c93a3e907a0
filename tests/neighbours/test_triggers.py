"""django-pghistory: its middleware changes the class of requests, and sends PostgreSQL the user."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.neighbours import needs
from tests.neighbours.conftest import PATIENCE, QUEUED, finished
from tests.neighbours.sessions import LOG_IN, end_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.neighbours.conftest import Project

needs("pghistory", "pgtrigger", in_process=False)

pytestmark = pytest.mark.server("postgres", "valkey")

KEPT = """
from django.contrib.auth.models import User
from tests.neighbours.tracked.models import Parcel, ParcelEvent

names = {user.pk: user.username for user in User.objects.all()}
for event in ParcelEvent.objects.order_by("pk"):
    print("kept", names.get(event.pgh_context.metadata["user"]), event.pgh_context.metadata["url"])
"""


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_the_history_names_the_writer(start: Callable[..., Project], interface: str) -> None:
    project = start("triggers")
    session, url = project.run(LOG_IN).split()[-1], project.web(interface)
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False, cookies={"sessionid": session}) as ada:
        there = ada.post("/parcel/").raise_for_status().json()
        queued = [
            ada.post("/parcel/", headers=QUEUED),
            ada.post("/parcel/", headers={**QUEUED, "Idempotency-Key": "k"}),
        ]
        end_session(project, session)
        worker = project.worker()
        answers = sorted((finished(ada, each).json() for each in queued), key=itemgetter("pk"))
        assert answers == [{**there, "pk": 2}, {**there, "pk": 3}]
        again = ada.post("/parcel/", headers={**QUEUED, "Prefer": "wait=10"})
        assert again.json()["user"] == "", "nobody is logged in any more"
    said = project.run(KEPT)
    assert said.count("kept ada /parcel/") == 3, said
    assert "Traceback" not in worker.logs()
