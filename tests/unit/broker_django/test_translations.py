"""The catalogues contain every marked text, and the compiled ones match their sources."""

import ast
import gettext
import re
from copy import copy

import pytest
from django.utils import translation

from broker_core.conditions import Condition
from broker_core.errors import InvalidConditionError
from broker_django.models.texts import TEMPLATES, translated
from tests.internals import ROOT

APP = ROOT / "broker_django"
LANGUAGES = sorted(path.name for path in (APP / "locale").iterdir())
MARKS = {"_", "gettext", "gettext_lazy", "gettext_noop", "ngettext", "pgettext"}
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]|\{\w+(?:![rs])?\}")


def marked() -> set[str]:
    """Returns the marked texts of modules and templates; of plurals, the singular."""
    texts: set[str] = set()
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MARKS:
                texts.add(ast.literal_eval(node.args[0]))
    for path in APP.rglob("*.html"):
        assert "blocktranslate" not in path.read_text(), "this test does not read blocks"
        found = re.findall(r'{%\s*translate\s+"([^"]*)"|\b_\("([^"]*)"\)', path.read_text())
        texts.update("".join(groups) for groups in found)
    return texts


def templates() -> set[str]:
    """Returns the templates of the messages that the core makes, and of its kind elsewhere."""
    return {
        ast.literal_eval(node.args[0])
        for package in ("broker_core", "broker_django")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Text"
    }


def compiled(language: str) -> dict[str, str | tuple[str, int]]:
    with (APP / "locale" / language / "LC_MESSAGES" / "django.mo").open("rb") as file:
        catalogue = gettext.GNUTranslations(file)._catalog
    return {key if isinstance(key, str) else key[0]: text for key, text in catalogue.items() if text and key}


def source(language: str) -> dict[str, str]:
    """The entries of the .po file; of plurals, the singular and the last form, as `compiled` has them."""
    found: dict[str, str] = {}
    entry: dict[str, str] = {}
    for line in [*(APP / "locale" / language / "LC_MESSAGES" / "django.po").read_text().splitlines(), ""]:
        if match := re.fullmatch(r'(?:(\w+(?:\[\d\])?) )?(".*")', line):
            keyword = match[1] or next(reversed(entry))
            entry[keyword] = entry.get(keyword, "") + ast.literal_eval(match[2])
        elif not line and entry:
            found[entry["msgid"]] = entry.get("msgstr", entry.get("msgstr[1]", ""))
            entry = {}
        else:
            assert not line.startswith("#,") or "fuzzy" not in line
    return {key: text for key, text in found.items() if key}


def test_there_are_two_languages():
    assert LANGUAGES == ["de", "fr"]


def test_the_templates_of_messages_are_marked():
    assert set(TEMPLATES) == templates()


def test_a_message_of_the_core_is_translated_with_its_parameters():
    with pytest.raises(InvalidConditionError) as raised:
        Condition("usr.is_staff")
    text = raised.value.args[0]
    assert str(text) == "column 1: unknown variable 'usr'; there are request, user, now"
    assert copy(text).parameters == text.parameters
    with translation.override("de"):
        assert translated(text) == "Spalte 1: unbekannte Variable 'usr'; es gibt request, user, now"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_marked_texts_are_translated_and_no_others(language):
    translated = set(compiled(language))
    assert marked() - translated == set(), "not translated"
    assert translated - marked() == set(), "no longer marked: run make messages"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_compiled_catalogue_is_that_of_the_source(language):
    assert compiled(language) == source(language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_have_the_placeholders_of_the_text(language):
    wrong = {
        text: translated
        for text, translated in source(language).items()
        if sorted(PLACEHOLDER.findall(text)) != sorted(PLACEHOLDER.findall(translated))
    }
    assert wrong == {}


def test_french_punctuation_follows_a_no_break_space():
    wrong, code = re.compile(r"(?<!Nom)(?<!\u00a0)[:;?!]"), re.compile(r"\{\w+![rs]\}|<\w+:\w+>")
    assert [text for text in source("fr").values() if wrong.search(code.sub("", text))] == []


def test_the_admin_speaks_german(admin_client, settings):
    settings.LANGUAGE_CODE = "de"
    page = admin_client.get("/admin/broker_django/router/", headers={"accept-language": "de"}).content.decode()
    assert "Anfrage ausprobieren" in page
