"""Prose: the rules of CONTRIBUTING that a machine can check, over docstrings, error messages, help and docs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

SOURCES = [ROOT / "cli.py", *sorted(ROOT.glob("fedrsic_data/**/*.py")), *sorted(ROOT.glob("fedtrain/**/*.py"))]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST = ("What", "Who", "Whose", "Whom", "How", "Why", "Of")  # a docstring needs a subject or a verb instead
DIALECT = re.compile(
    r"\b(mend(s|ed|ing)?|aside|learnt|somebody|told(?!:)|tells? of|hears (of|nothing)|asked for|there more than once|"
    r"stands there|makes? anew|says? of itself)\b",
    re.IGNORECASE,
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings of modules, classes, functions and attributes, with their lines."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Texts that are raised as errors or passed as help, with their lines."""
    for node in ast.walk(tree(path)):
        texts: list[ast.AST] = []
        if isinstance(node, ast.Raise) and node.exc is not None:
            texts = [node.exc]
        elif isinstance(node, ast.Call):
            texts = [word.value for word in node.keywords if word.arg in ("help", "short_help")]
        for text in texts:
            for part in ast.walk(text):
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and " " in part.value:
                    yield part.lineno, part.value


def plain(text: str) -> str:
    """A text without the code in it."""
    return re.sub(r"```.*?```|``.*?``|`[^`]*`|\S+::\S+", "X", text, flags=re.DOTALL).strip()


def starts(text: str) -> list[str]:
    """First words of a text and of its sentences, also of those after ``name:`` and in cells of tables."""
    return re.findall(r"(?:^|[.:;|])\s*([A-Z][a-z]*)\b", plain(text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_messages_are_plain(path: Path) -> None:
    wrong = []
    for line, text in docstrings(path):
        first = text.split(maxsplit=1)[0] if text.split() else ""
        if first in FIRST:
            wrong.append(f"{path}:{line}: a docstring begins with {first!r}")
        if "Of" in starts(text):
            wrong.append(f"{path}:{line}: a sentence begins with 'Of'")
    for line, text in messages(path):
        if text.startswith("Of "):
            wrong.append(f"{path}:{line}: a message begins with 'Of'")
    for line, text in [*docstrings(path), *messages(path)]:
        wrong += [f"{path}:{line}: {found[0]!r} is dialect" for found in DIALECT.finditer(plain(text))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_docs_are_plain(path: Path) -> None:
    text = path.read_text(encoding="utf-8").partition("\n## Prose\n")  # the rules quote what they forbid
    prose = plain(text[0] + text[2].partition("\n## ")[2])
    assert not [found[0] for found in DIALECT.finditer(prose)]
    assert "Of" not in starts(prose)


def test_the_rules_find_what_they_forbid() -> None:
    assert starts("Of Adam, fresh.")[0] == "Of"
    assert "Of" in starts("Settings.\n\nAttributes:\n    beta: Of ``dirichlet``.")
    assert "Of" not in starts("The size of a row. A part of it.")
    for bad in ("it is mended", "what was asked for", "is told of", "nothing is learnt", "written aside"):
        assert DIALECT.search(bad), bad
    assert not DIALECT.search("fix the recommended value; amend")
