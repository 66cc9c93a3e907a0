"""Forms of the admin for input other than rows: a request to try, a file of routers."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from broker_django.identity.users import user_model


class TrialForm(forms.Form):
    """A request, as typed into the admin or on the command line."""

    method = forms.CharField(label=capfirst(_("method")), initial="GET", max_length=20)
    path = forms.CharField(label=capfirst(_("path")), initial="/", max_length=2_000)
    headers = forms.CharField(
        label=capfirst(_("header fields")),
        required=False,
        help_text=_("One field per line, as Name: value"),
        widget=forms.Textarea(attrs={"rows": 3, "cols": 60}),
    )
    user = forms.CharField(
        label=capfirst(_("user")),
        required=False,
        help_text=_("Login name of the user. Leave empty for an anonymous user."),
    )

    def __init__(self, *args: Any, may_name_users: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not may_name_users:
            del self.fields["user"]  # hide which users exist from those who may not view users

    def clean_path(self) -> str:
        text = str(self.cleaned_data["path"])
        if not text.startswith("/") or text.startswith("//"):
            raise forms.ValidationError(_("A path must begin with exactly one slash."))
        return text

    def clean_headers(self) -> dict[str, str]:
        fields = {}
        for line in filter(None, map(str.strip, self.cleaned_data["headers"].splitlines())):
            name, separator, value = line.partition(":")
            if not separator:
                raise forms.ValidationError(_("Write each line as Name: value"))
            fields[name.strip()] = value.strip()
        return fields

    def clean_user(self) -> Any:
        name, model = self.cleaned_data["user"], user_model()
        if not name:
            return None
        if model is None:
            raise forms.ValidationError(_("This project has no users."))
        try:
            return model._default_manager.get_by_natural_key(name)
        except model.DoesNotExist as error:
            raise forms.ValidationError(_("There is no such user.")) from error


class ImportForm(forms.Form):
    file = forms.FileField(
        label=capfirst(_("file")),
        help_text=_("JSON of routers and destinations, as written by the export or by `dumpdata`."),
    )

    def clean_file(self) -> str:
        """Returns the file's text."""
        try:
            return str(self.cleaned_data["file"].read().decode())
        except UnicodeDecodeError as error:
            raise forms.ValidationError(_("The file is not UTF-8.")) from error
