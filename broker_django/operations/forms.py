"""What the admin asks for beside rows: a request to be tried, a file of routers."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from broker_django.identity.users import user_model


class TrialForm(forms.Form):
    """A request, as it is typed into the admin or on the command line."""

    method = forms.CharField(initial="GET", max_length=20)
    path = forms.CharField(initial="/", max_length=2_000)
    headers = forms.CharField(
        required=False, help_text=_("Each line as Name: value"), widget=forms.Textarea(attrs={"rows": 3, "cols": 60})
    )
    user = forms.CharField(required=False, help_text=_("The name that the user logs in with; nothing: anonymous."))

    def __init__(self, *args: Any, may_name_users: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not may_name_users:
            del self.fields["user"]  # whoever may see no users is not to find out who there is

    def clean_path(self) -> str:
        text = str(self.cleaned_data["path"])
        if not text.startswith("/") or text.startswith("//"):
            raise forms.ValidationError(_("A path begins with one slash."))
        return text

    def clean_headers(self) -> dict[str, str]:
        fields = {}
        for line in filter(None, map(str.strip, self.cleaned_data["headers"].splitlines())):
            name, separator, value = line.partition(":")
            if not separator:
                raise forms.ValidationError(_("Each line is written as Name: value"))
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
    file = forms.FileField(help_text=_("JSON of routers and destinations, as the export and `dumpdata` write it."))

    def clean_file(self) -> str:
        """Its text."""
        try:
            return str(self.cleaned_data["file"].read().decode())
        except UnicodeDecodeError as error:
            raise forms.ValidationError(_("The file is not UTF-8.")) from error
