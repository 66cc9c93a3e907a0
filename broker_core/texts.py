"""Messages that can be translated. Whoever shows one to people has the catalogues."""

from __future__ import annotations

from typing import Any, Self


class Text(str):
    """A message in English, with the template and the parameters that it was made from."""

    __slots__ = ("parameters", "template")

    template: str
    parameters: dict[str, Any]

    def __new__(cls, template: str, **parameters: Any) -> Self:
        made = super().__new__(cls, template.format(**parameters))
        made.template, made.parameters = template, parameters
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.template,), self.parameters
