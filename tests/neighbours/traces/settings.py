"""TRACER is `sentry` or `opentelemetry`."""

import json
import os
from pathlib import Path

from tests.settings import *  # noqa: F403
from tests.settings import MIDDLEWARE

ROOT_URLCONF = "tests.neighbours.traces.urls"
WSGI_APPLICATION = None
CELERY_TASK_ALWAYS_EAGER = os.environ.get("EAGER") == "1"
REQUEST_BROKER = {
    "QUEUES": {
        "bulk": {"retry_backoff": 0, "max_attempts": 2},
        "once": {"delivery": "at_most_once"},
        "brief": {"time_limit": 1, "max_attempts": 1},
    },
    "RULES": [
        {"when": f'"x-queue" in request.headers && request.headers["x-queue"] == "{name}"', "queue": name}
        for name in ("bulk", "once", "brief")
    ],
    "LEASE": 4,
    "REPUBLISH_AFTER": 1,
    "REAPER_INTERVAL": 0.2,
    **({"MAX_INLINE_SIZE": 1} if os.environ.get("IN_FILES") == "1" else {}),
}
MEDIA_ROOT = os.environ.get("FILES", "")
OWN = ["tests.neighbours.traces.views.fails_on_demand", "tests.neighbours.traces.views.AnswersErrors"]
MIDDLEWARE = [*MIDDLEWARE[:-1], *OWN, MIDDLEWARE[-1]]


def write(event: dict[str, object]) -> None:
    with Path(os.environ["EVENTS"]).open("a") as file:
        file.write(json.dumps({**event, "pid": os.getpid()}) + "\n")


if os.environ["TRACER"] == "sentry":
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Local(Transport):
        """Writes what would be sent."""

        def capture_envelope(self, envelope):
            for item in envelope.items:
                if item.type in {"event", "transaction"}:
                    write({"kind": item.type, **json.loads(item.get_bytes())})

    integrations = []
    if "WITHOUT_CELERY" in os.environ:
        from sentry_sdk.integrations.celery import CeleryIntegration

        disabled = [CeleryIntegration()]
    else:
        disabled = []
    sentry_sdk.init(
        "https://key@127.0.0.1/1",
        transport=Local,
        traces_sample_rate=1.0,
        disabled_integrations=disabled,
        send_default_pii=os.environ.get("PII") == "1",
    )
