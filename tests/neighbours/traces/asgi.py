import os

from django.core.asgi import get_asgi_application

if os.environ["TRACER"] == "opentelemetry":
    from tests.neighbours.traces.instrumented import instrument

    instrument()

application = get_asgi_application()
