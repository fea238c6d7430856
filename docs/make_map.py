"""Print the import graph of both packages in figures, and check it against the floors in CONTRIBUTING.md.

A *room* is what stands at the top of a package: a folder or a loose module. A floor is a line of CONTRIBUTING's tree;
rooms import rooms of lower floors only. Run ``python docs/make_map.py``; ``tests/test_floor_plan.py`` holds the limits.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("fedrsic_data", "fedtrain")


@cache
def modules() -> dict[str, Path]:
    """Every module of both packages: dotted name -> file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """The names a file imports, at its top or inside a function; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def arrows() -> dict[str, frozenset[str]]:
    """Module -> the modules of both packages that it imports, at its top or later, for its types too."""
    known = modules()

    def module(name: str) -> str:
        while name and name not in known:
            name = name.rpartition(".")[0]
        return name

    return {
        name: frozenset(m for m in map(module, imported(path)) if m not in ("", name, *PACKAGES))
        for name, path in known.items()
    }


def room(module: str) -> str:
    """``fedtrain.engines`` of ``fedtrain.engines.flower.site``."""
    return ".".join(module.split(".")[:2])


@cache
def doors() -> dict[str, frozenset[str]]:
    """Room -> the rooms that it imports."""
    found: dict[str, set[str]] = {}
    for module, others in arrows().items():
        found.setdefault(room(module), set()).update(room(other) for other in others)
    return {name: frozenset(others - {name}) for name, others in found.items() if name not in PACKAGES}


@cache
def floors() -> dict[str, int]:
    """Room -> its floor in CONTRIBUTING's tree; 0 is the ground."""
    tree = re.search(r"```floors\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert tree, "CONTRIBUTING.md has no block of floors"
    floor, package, found = 0, "", {}
    for line in reversed(tree[1].splitlines()):
        if line and not line.startswith(" "):
            package = line.split()[0].strip("/")
            found.update({name.replace("?", package, 1): at for name, at in found.items() if name.startswith("?")})
            found = {name: at for name, at in found.items() if not name.startswith("?")}
        elif line.startswith("  ") and line[2:3].strip():
            names = re.split(r"\s{2,}", line.strip())[0]
            found.update({f"?.{name.strip().strip('/')}": floor for name in names.split(",")})
            floor += 1
    return found


def upward() -> list[tuple[str, str]]:
    """Arrows between rooms that do not go down."""
    at = floors()
    return sorted((a, b) for a, others in doors().items() for b in others if at[b] >= at[a])


def circles(graph: dict[str, frozenset[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def chain() -> list[str]:
    """The longest way down from room to room, loose modules not counted; both packages together."""
    at = floors()
    graph = {a: {b for b in others if is_folder(b) and at[b] < at[a]} for a, others in doors().items() if is_folder(a)}

    @cache
    def below(name: str) -> tuple[str, ...]:
        return (name, *max((below(other) for other in graph[name]), key=len, default=()))

    return list(max(map(below, graph), key=len))


def is_folder(name: str) -> bool:
    """Whether a room is a folder."""
    return (ROOT / Path(*name.split("."))).is_dir()


def loose(package: str) -> list[str]:
    """The modules at the top of a package, ``__init__`` among them."""
    return sorted(path.stem for path in (ROOT / package).glob("*.py"))


def loaded(module: str) -> list[str]:
    """The modules of both packages that a fresh interpreter loads for ``import module``."""
    code = f"import sys, {module}; print(*(m for m in sys.modules if m.split('.')[0] in {PACKAGES!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def lines(package: str) -> int:
    """Lines of Python in a package."""
    return sum(len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / package).rglob("*.py"))


def main() -> None:
    """Print the figures."""

    def row(words: str, figure: object, more: Iterable[str] = ()) -> None:
        print(f"{words:<58} {figure!s:>6}  {', '.join(more)}".rstrip())

    for package in PACKAGES:
        row(f"loose modules at the top of {package}", len(loose(package)), loose(package))
    reader = loaded("fedrsic_data.dataset.reader")
    row("modules that import fedrsic_data.dataset.reader loads", len(reader), reader)
    row("circles between modules", len(circles(arrows())), map(" ".join, circles(arrows())))
    row("arrows between rooms", sum(map(len, doors().values())))
    row("arrows up", len(upward()), (f"{a} -> {b}" for a, b in upward()))
    row("longest chain of packages", len(chain()), chain())
    for package in PACKAGES:
        row(f"lines of {package}", lines(package))


if __name__ == "__main__":
    main()
