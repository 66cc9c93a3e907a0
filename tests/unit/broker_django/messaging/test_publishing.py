from __future__ import annotations

from broker_django.messaging.publishing import shadow
from broker_django.models import DispatchRecord


def test_the_name_that_monitors_show_holds_none_of_the_clients_values():
    record = DispatchRecord(method="POST", path="/cards/4111/", route="/cards/<int:number>/", queue="payment")
    assert shadow(record) == "POST /cards/<int:number>/ (payment)"
