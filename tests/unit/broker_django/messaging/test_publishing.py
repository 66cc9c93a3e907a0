from __future__ import annotations

from broker_django.messaging.publishing import shadow
from broker_django.models import DispatchRecord


def test_the_name_in_monitors_contains_no_values_of_the_client():
    record = DispatchRecord(method="POST", path="/cards/4111/", route="/cards/<int:number>/", queue="payment")
    assert shadow(record) == "POST /cards/<int:number>/ (payment)"
