from django.utils import timezone

from .models import Payment, Product


class OrderMismatchError(Exception):
    """The order has been paid already, and for something else."""


def pay(order: str, product: Product, quantity: int) -> Payment:
    """Pay an order, or find the payment it already has. Raises OrderMismatchError where that was for other goods."""
    bought = {"product": product, "quantity": quantity}
    payment, created = Payment.objects.get_or_create(
        order=order, defaults={**bought, "amount": product.price * quantity}
    )
    if not created and (payment.product_id, payment.quantity) != (product.pk, quantity):
        raise OrderMismatchError(order)
    return payment


def settle(order: str) -> bool:
    """Mark an order's payment as settled by the bank; the first time counts. Whether there is such a payment."""
    Payment.objects.filter(order=order, settled_at=None).update(settled_at=timezone.now())
    return Payment.objects.filter(order=order).exists()
