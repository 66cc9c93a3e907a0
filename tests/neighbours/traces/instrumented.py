"""OpenTelemetry, as a project sets it up for each of its processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from broker_django.tracing import hide_tokens_in
from tests.neighbours.traces.settings import write

if TYPE_CHECKING:
    from collections.abc import Sequence


class Local(SpanExporter):
    """Writes what would be sent."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            parent = span.parent.span_id if span.parent else 0
            write(
                {
                    "name": span.name,
                    "kind": span.kind.name,
                    "trace": f"{span.context.trace_id:032x}",
                    "span": f"{span.context.span_id:016x}",
                    "parent": f"{parent:016x}",
                    "attributes": {key: str(value) for key, value in (span.attributes or {}).items()},
                }
            )
        return SpanExportResult.SUCCESS


def instrument() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Local()))
    trace.set_tracer_provider(provider)
    DjangoInstrumentor().instrument(response_hook=hide_tokens_in if "HOOK" in os.environ else None)
    if "WITHOUT_CELERY" not in os.environ:
        CeleryInstrumentor().instrument()
