from django.db import models


class Product(models.Model):
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=80)
    description = models.CharField(max_length=200)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    tint = models.CharField(max_length=7, help_text="The colour of its card, as #rrggbb.")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Payment(models.Model):
    """The payment of an order. The unique reference prevents a second payment, however often it is tried."""

    order = models.CharField(max_length=40, unique=True)
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="payments")
    quantity = models.PositiveSmallIntegerField()
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    paid_at = models.DateTimeField(auto_now_add=True)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-paid_at"]

    def __str__(self) -> str:
        return f"{self.order}: {self.amount}"


class ChatMessage(models.Model):
    author = models.CharField(max_length=40)
    text = models.CharField(max_length=300)
    posted_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.author}: {self.text}"


class Subscriber(models.Model):
    name = models.CharField(max_length=80)
    email = models.EmailField(unique=True)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.email


class SentMail(models.Model):
    """A newsletter issue that was sent to a subscriber; nobody is sent the same issue twice."""

    issue = models.CharField(max_length=40)
    subscriber = models.ForeignKey(Subscriber, on_delete=models.CASCADE, related_name="mails")
    size = models.PositiveIntegerField(help_text="Bytes on the wire.")
    sent_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issue", "subscriber"], name="issue_once_a_subscriber")]

    def __str__(self) -> str:
        return f"{self.issue} to {self.subscriber_id}"


class Tally(models.Model):
    """How many dispatches of a queue are done. The broker deletes them from its ledger after a while."""

    queue = models.CharField(max_length=40, unique=True)
    done = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["queue"]
        verbose_name_plural = "tallies"

    def __str__(self) -> str:
        return f"{self.queue}: {self.done}"
