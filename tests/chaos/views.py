from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt

from tests.site.models import Execution

if TYPE_CHECKING:
    from django.http import HttpRequest


@csrf_exempt
def work(request: HttpRequest, milliseconds: int) -> HttpResponse:
    """Notes that it began, then takes its time."""
    broker = request.broker
    Execution.objects.create(dispatch=str(broker.id or ""), worker=f"attempt {broker.attempt}, process {os.getpid()}")
    time.sleep(milliseconds / 1000)
    return HttpResponse("done")
