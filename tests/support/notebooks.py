"""Runs the cells of a notebook in order, without Jupyter, and keeps what they show.

    python -m tests.support.notebooks examples/first_hour.ipynb

writes the outputs into the file, as a notebook server would.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path


def read_notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cells(notebook: dict) -> dict:
    """Runs every code cell in one namespace, and puts its outputs into it.

    Returns:
      The namespace after the last cell.
    """
    namespace = {"__name__": "__main__"}
    for count, cell in enumerate(code_cells(notebook), 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = _run("".join(cell["source"]), namespace, f"cell {count}")
        cell["execution_count"] = count
        cell["outputs"] = _outputs(printed.getvalue(), value, count)
    return namespace


def _run(source: str, namespace: dict, name: str):
    """Returns the value of the last line, where it is an expression."""
    body = ast.parse(source, name).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), name, "exec"), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), name, "eval"), namespace)


def _outputs(printed: str, value, count: int) -> list[dict]:
    outputs = []
    if printed:
        lines = printed.splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines})
    if value is not None:
        shown = {"text/plain": [repr(value)[:200]]}
        draw = getattr(value, "_repr_png_", None)
        if draw and (png := draw()):
            shown = {"image/png": base64.b64encode(png).decode(), **shown}
        outputs.append(
            {
                "data": shown,
                "execution_count": count,
                "metadata": {},
                "output_type": "execute_result",
            }
        )
    return outputs


def main(path: str) -> None:
    notebook = read_notebook(Path(path))
    run_cells(notebook)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    Path(path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
