"""What the modules of the checkout import, read from their source."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path, top_level_only: bool = False) -> list[str]:
    """Full names of what a module imports; relative ones are completed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return names_in(tree.body if top_level_only else ast.walk(tree), path)


def names_in(nodes: Iterable[ast.AST], path: Path) -> list[str]:
    """Full names of what import statements bring that stand in the file of `path`."""
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *filter(None, [node.module])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names
