"""Fills an empty shop. Runs after each migrate, and only adds what is missing."""

from typing import Any

from django.apps.registry import Apps
from django.conf import settings
from django.contrib.auth import get_user_model

PRODUCTS = [
    ("morning-assam", "Morning Assam", "Malty and dark; stands up to milk.", "8.50", "#8a4b2a"),
    ("jade-sencha", "Jade Sencha", "Steamed green leaves, first harvest.", "12.00", "#5f8d4e"),
    ("smoky-lapsang", "Smoky Lapsang", "Dried over pinewood fires.", "10.40", "#5b5560"),
    ("white-peony", "White Peony", "Spring buds, soft as melon.", "15.90", "#b59f6b"),
    ("iron-kettle", "Iron Kettle", "Cast iron, holds 1.2 litres.", "64.00", "#3d4a57"),
    ("rose-oolong", "Rose Oolong", "Half oxidised, layered with petals.", "13.20", "#b0567a"),
]
SUBSCRIBERS = 10_000


def seed(*, apps: Apps, using: str, verbosity: int = 1, **_: Any) -> None:
    try:
        product, subscriber, tally = (apps.get_model("shop", name) for name in ("Product", "Subscriber", "Tally"))
    except LookupError:  # migrated to a state before the shop's tables
        return
    seed_products(product, using)
    seed_subscribers(subscriber, using)
    seed_tallies(tally, using)
    if settings.DEBUG:
        seed_demo_user(using)
        if verbosity:
            print("To log in to the admin: user demo, password demo")


def seed_products(product: Any, using: str) -> None:
    names = ("slug", "name", "description", "price", "tint")
    rows = [product(**dict(zip(names, values, strict=True))) for values in PRODUCTS]
    if not product.objects.using(using).exists():
        product.objects.using(using).bulk_create(rows)


def seed_subscribers(subscriber: Any, using: str) -> None:
    if subscriber.objects.using(using).exists():
        return
    rows = (
        subscriber(name=f"Reader {number}", email=f"reader{number}@subscribers.example")
        for number in range(1, SUBSCRIBERS + 1)
    )
    subscriber.objects.using(using).bulk_create(rows, batch_size=1000)


def seed_tallies(tally: Any, using: str) -> None:
    rows = [tally(queue=name) for name in ("payment", "realtime", "bulk")]
    tally.objects.using(using).bulk_create(rows, ignore_conflicts=True)


def seed_demo_user(using: str) -> None:
    users = get_user_model().objects.db_manager(using)
    if not users.filter(username="demo").exists():
        users.create_superuser("demo", "demo@leaf-and-kettle.example", "demo")
