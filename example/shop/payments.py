from django.utils import timezone

from .models import Payment, Product


class OrderMismatchError(Exception):
    """The order is already paid, with other goods."""


def pay(order: str, product: Product, quantity: int) -> Payment:
    """Pay an order, or return its existing payment. Raises OrderMismatchError if that is for other goods."""
    bought = {"product": product, "quantity": quantity}
    payment, created = Payment.objects.get_or_create(
        order=order, defaults={**bought, "amount": product.price * quantity}
    )
    if not created and (payment.product_id, payment.quantity) != (product.pk, quantity):
        raise OrderMismatchError(order)
    return payment


def settle(order: str) -> bool:
    """Mark a payment as settled by the bank; only the first call counts. Returns whether the payment exists."""
    Payment.objects.filter(order=order, settled_at=None).update(settled_at=timezone.now())
    return Payment.objects.filter(order=order).exists()
