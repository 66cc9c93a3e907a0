"""README and the pages of docs/, taken apart: their code blocks, headings and links."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/request-broker/django-request-broker"
README = ROOT / "README.md"
TOP_LEVEL = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

IN_THE_PROJECT = "run in the project of this page"
"""Marks commands of manage.py that go by the settings and rows of the blocks before them, and not by the shop."""

_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\(<?([^)>\s]+)>?\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block. The mark is the comment on the line before it."""

    page: Path
    line: int
    language: str
    code: str
    mark: str

    @property
    def location(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def reason(self) -> str:
        """Why no test runs it; empty if one does."""
        return self.mark.removeprefix("not run: ") if self.mark.startswith("not run: ") else ""

    @property
    def kind(self) -> str:
        """What runs it: a language, `settings`, `shop` or `project`; `diagram` for what is no code."""
        if self.language == "python":
            return "settings" if _only_settings(self.code) else "python"
        if self.language == "console":
            return "project" if self.mark == IN_THE_PROJECT else "shop"
        return {"text": "diagram", "sh": "script"}.get(self.language, self.language)


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")),
            found["language"],
            textwrap.dedent(found["code"]),
            found["mark"] or "",
        )
        for found in _FENCE.finditer(text)
    ]


def _only_settings(code: str) -> bool:
    """Whether it only assigns names in capitals."""
    return all(
        isinstance(each, ast.Assign | ast.AugAssign)
        and all(isinstance(name, ast.Name) and name.id.isupper() for name in _targets(each))
        for each in ast.parse(code).body
    )


def _targets(statement: ast.Assign | ast.AugAssign) -> list[ast.expr]:
    return statement.targets if isinstance(statement, ast.Assign) else [statement.target]


def without_code(page: Path) -> str:
    return re.sub(r"<!--.*?-->", "", _FENCE.sub("", page.read_text()), flags=re.DOTALL)


def words(page: Path) -> list[str]:
    """Returns the text, without code blocks, images and link targets."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", without_code(page))
    return re.findall(r"[^\s|]*\w[^\s|]*", _LINK.sub("]", text))


def links(page: Path) -> list[str]:
    return _LINK.findall(without_code(page))


def anchors(page: Path) -> set[str]:
    """Returns the fragments of its headings, on GitHub and on the site."""
    text = page.read_text()
    if included := re.fullmatch(r'--8<-- "(.+)"\n', text):
        text = (ROOT / included[1]).read_text()
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {_slug(heading) for heading in headings}


def _slug(heading: str) -> str:
    kept = re.sub(r"[^\w\s-]", "", re.sub(r"`", "", heading)).strip().lower()
    return re.sub(r"\s", "-", kept)


def commands(block: Block) -> list[tuple[str, str]]:
    """Yields each command after `$` in a console block, with its output."""
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.code, re.MULTILINE)


def matches(expected: str, output: str) -> bool:
    """Whether the output is what a page shows. `…` matches anything, and alone on its line any lines."""
    text = "\n".join(line.rstrip() for line in output.strip().splitlines()) + "\n"
    pattern = re.escape(expected.strip() + "\n")
    pattern = re.sub(r"(?m)^…\\\n", "(?:.*\n)*?", pattern)
    return re.fullmatch(pattern.replace("…", ".*?"), text, re.DOTALL) is not None
