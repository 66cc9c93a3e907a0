from collections.abc import Iterator
from math import ceil

from django.core.mail import EmailMessage, get_connection
from django.template.loader import get_template

from .models import Product, SentMail, Subscriber

BATCH_SIZE = 50
SHOWN_PRODUCTS = 3


def send_batch(issue: str, number: int) -> int:
    """Send an issue to one batch of subscribers (from 0), except those who have it.

    Returns how many mails were sent.
    """
    first = number * BATCH_SIZE
    batch = list(Subscriber.objects.order_by("pk")[first : first + BATCH_SIZE])
    had_it = set(SentMail.objects.filter(issue=issue, subscriber__in=batch).values_list("subscriber_id", flat=True))
    waiting = [subscriber for subscriber in batch if subscriber.pk not in had_it]
    mails = list(write_mails(issue, waiting))
    get_connection().send_messages(mails)
    SentMail.objects.bulk_create(
        (
            SentMail(issue=issue, subscriber=subscriber, size=len(mail.message().as_bytes()))
            for subscriber, mail in zip(waiting, mails, strict=True)
        ),
        ignore_conflicts=True,
    )
    return len(mails)


def send_issue(issue: str) -> int:
    """Send an issue to all subscribers, except those who have it. Returns how many mails were sent."""
    return sum(send_batch(issue, number) for number in range(batch_count()))


def batch_count() -> int:
    return ceil(Subscriber.objects.count() / BATCH_SIZE)


def write_mails(issue: str, subscribers: list[Subscriber]) -> Iterator[EmailMessage]:
    letter = get_template("shop/mail/newsletter.txt")
    newest = list(Product.objects.order_by("-pk")[:SHOWN_PRODUCTS])
    for subscriber in subscribers:
        context = {"issue": issue, "subscriber": subscriber, "products": newest}
        yield EmailMessage(f"Leaf & Kettle, issue {issue}", letter.render(context), to=[subscriber.email])
