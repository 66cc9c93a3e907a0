import os

from django.core.wsgi import get_wsgi_application

if os.environ["TRACER"] == "opentelemetry":
    from tests.neighbours.traces.instrumented import instrument

    instrument()

application = get_wsgi_application()
