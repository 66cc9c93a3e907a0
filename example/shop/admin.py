from django.contrib import admin

from .models import ChatMessage, Payment, Product, SentMail, Subscriber


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "price", "description"]


@admin.register(Payment)
class PaymentAdmin(admin.ModelAdmin):
    list_display = ["order", "product", "quantity", "amount", "paid_at", "settled_at"]
    list_select_related = ["product"]
    search_fields = ["order"]


@admin.register(ChatMessage)
class ChatMessageAdmin(admin.ModelAdmin):
    list_display = ["author", "text", "posted_at"]


@admin.register(Subscriber)
class SubscriberAdmin(admin.ModelAdmin):
    list_display = ["email", "name"]
    search_fields = ["email", "name"]


@admin.register(SentMail)
class SentMailAdmin(admin.ModelAdmin):
    list_display = ["issue", "subscriber", "size", "sent_at"]
    list_select_related = ["subscriber"]
    list_filter = ["issue"]
    raw_id_fields = ["subscriber"]
