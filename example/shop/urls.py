from django.urls import path

from . import views

app_name = "shop"

urlpatterns = [
    path("", views.front, name="front"),
    path("products/", views.catalogue, name="catalogue"),
    path("checkout/", views.checkout, name="checkout"),
    path("webhooks/settlement/", views.settlement, name="settlement"),
    path("chat/", views.Chat.as_view(), name="chat"),
    path("newsletter/", views.newsletter_issue, name="newsletter"),
    path("newsletter/batch/<int:number>/", views.newsletter_batch, name="newsletter-batch"),
    path("board/", views.board_state, name="board"),
    path("board/overtaken/<uuid:dispatch>/", views.overtaken, name="overtaken"),
]
