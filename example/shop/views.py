"""Plain Django views. Decorators here and rules in the settings tell the broker what to do with a request."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.conf import settings
from django.forms import Form
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from broker_django.decorators import queue, run_now
from broker_django.ledger import ledger

from . import board, newsletter, payments
from .forms import ChatForm, CheckoutForm, NewsletterForm, SettlementForm
from .models import ChatMessage, Product, Subscriber

CHAT_LENGTH = 30


@require_GET
def front(request: HttpRequest) -> HttpResponse:
    context = {
        "products": Product.objects.all(),
        "lanes": board.QUEUES,
        "author": request.session.get("author", ""),
        "flower_url": settings.FLOWER_URL,
        "subscribers": Subscriber.objects.count(),
        "batch_size": newsletter.BATCH_SIZE,
        "batches": newsletter.batch_count(),
        "has_demo_user": settings.DEBUG,
    }
    return render(request, "shop/front.html", context)


@require_GET
def catalogue(request: HttpRequest) -> HttpResponse:
    return render(request, "shop/catalogue.html", {"products": Product.objects.all()})


@csrf_exempt
@queue("payment")
@require_POST
def checkout(request: HttpRequest) -> JsonResponse:
    form = CheckoutForm(submitted(request))
    if not form.is_valid():
        return invalid(form)
    try:
        payment = payments.pay(**form.cleaned_data)
    except payments.OrderMismatchError:
        return JsonResponse({"error": "This order was paid for other goods."}, status=409)
    paid = {"payment": payment.pk, "order": payment.order, "amount": f"{payment.amount:.2f}", "currency": "EUR"}
    return JsonResponse({**paid, "paid_at": payment.paid_at, "broker": broker_facts(request)}, status=201)


@csrf_exempt
@require_POST
def settlement(request: HttpRequest) -> JsonResponse:
    """The bank's webhook. A rule in the settings sends everything below /webhooks/ to the payment queue."""
    form = SettlementForm(submitted(request))
    if not form.is_valid():
        return invalid(form)
    known = payments.settle(form.cleaned_data["order"])
    return JsonResponse({"settled": known}, status=200 if known else 404)


class Chat(View):
    def get(self, request: HttpRequest) -> JsonResponse:  # noqa: ARG002 - Django passes it
        messages = ChatMessage.objects.values("id", "author", "text", "posted_at")[:CHAT_LENGTH]
        return JsonResponse({"messages": list(messages)})

    @queue("realtime", wait=2)
    def post(self, request: HttpRequest) -> JsonResponse:
        form = ChatForm(submitted(request))
        if not form.is_valid():
            return invalid(form)
        author = request.user.get_username() or form.cleaned_data["author"] or "Guest"
        request.session["author"] = author
        message = ChatMessage.objects.create(author=author, text=form.cleaned_data["text"])
        return JsonResponse({"id": message.pk, "author": author, "posted_at": message.posted_at}, status=201)


@csrf_exempt
@queue("bulk")
@require_POST
def newsletter_issue(request: HttpRequest) -> JsonResponse:
    return send(request, newsletter.send_issue)


@csrf_exempt
@queue("bulk")
@require_POST
def newsletter_batch(request: HttpRequest, number: int) -> JsonResponse:
    return send(request, lambda issue: newsletter.send_batch(issue, number))


def send(request: HttpRequest, sender: Callable[[str], int]) -> JsonResponse:
    form = NewsletterForm(submitted(request))
    if not form.is_valid():
        return invalid(form)
    issue = form.cleaned_data["issue"] or f"{timezone.localdate():%Y-%m-%d}"
    return JsonResponse({"issue": issue, "sent": sender(issue)})


@run_now
@require_GET
def board_state(request: HttpRequest) -> JsonResponse:  # noqa: ARG001 - Django passes it
    return JsonResponse({"lanes": board.lanes()})


@run_now
@require_GET
def overtaken(request: HttpRequest, dispatch: UUID) -> JsonResponse:  # noqa: ARG001 - Django passes it
    payment = ledger.find(dispatch)
    if payment is None or payment.queue != "payment":
        raise Http404
    return JsonResponse({"waiting": board.overtaken(payment)})


def submitted(request: HttpRequest) -> dict[str, Any]:
    """Returns the fields of a JSON object or of a form."""
    if request.content_type != "application/json":
        return request.POST.dict()
    try:
        body = json.loads(request.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def invalid(form: Form) -> JsonResponse:
    return JsonResponse({"errors": form.errors.get_json_data()}, status=400)


def broker_facts(request: HttpRequest) -> dict[str, Any]:
    broker = request.broker
    return {"replayed": broker.replayed, "id": broker.id, "queue": broker.queue, "attempt": broker.attempt}
