from django import forms

from .models import Product


class CheckoutForm(forms.Form):
    order = forms.SlugField(max_length=40)
    product = forms.ModelChoiceField(Product.objects.all(), to_field_name="slug")
    quantity = forms.IntegerField(min_value=1, max_value=99, required=False)

    def clean_quantity(self) -> int:
        return self.cleaned_data["quantity"] or 1


class SettlementForm(forms.Form):
    order = forms.SlugField(max_length=40)


class ChatForm(forms.Form):
    text = forms.CharField(max_length=300)
    author = forms.CharField(max_length=40, required=False)


class NewsletterForm(forms.Form):
    issue = forms.SlugField(max_length=40, required=False)
