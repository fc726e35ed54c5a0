"""The package's API as Markdown, a page a room, from the source alone: nothing is imported."""

import ast
import re
from collections.abc import Iterator
from html import escape

from kappa_lib import paths

GROUND = "ground"
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
SECTIONS = r"(Args|Attributes|Returns|Yields|Raises|Note|Example):"


def rooms() -> dict[str, dict[str, ast.Module]]:
    """Room → public module → its syntax tree; the modules in the package itself come first."""
    found: dict[str, dict[str, ast.Module]] = {GROUND: {}}
    for path in sorted(paths.PACKAGE.rglob("*.py")):
        parts = path.relative_to(paths.ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        room = path.parent.name if path.parent != paths.PACKAGE else GROUND
        if not path.stem.startswith("_") or path.stem == "__init__":
            found.setdefault(room, {})[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def page(room: str, modules: dict[str, ast.Module]) -> str:
    """Markdown of a room: each module with its docstring and public functions and classes."""
    text = [f"# {room}"]
    for name, tree in sorted(modules.items()):
        text += [f'<h2 id="{name}">{name}</h2>', prose(ast.get_docstring(tree))]
        text += [part for node in _public(tree) for part in _entry(node, name, "signature")]
    return "\n\n".join(text)


def _public(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield child


def _entry(node: Definition, module: str, style: str) -> Iterator[str]:
    """Signature and docstring of a function or class, then of a class's methods."""
    anchor = f"{module}.{node.name}"
    yield f'<h3 class="{style}" id="{anchor}"><code>{escape(_signature(node))}</code></h3>'
    yield prose(ast.get_docstring(node))
    if isinstance(node, ast.ClassDef):
        for method in _public(node):
            yield from _entry(method, anchor, "signature method")


def _signature(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    returned = f" → {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returned}"


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: sections as lists, references to names as code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring or "")
    lines: list[str] = []
    section = False
    for line in text.splitlines():
        if re.fullmatch(SECTIONS, line):
            lines += ["", f"**{line.removesuffix(':')}**", ""]
            section = True
        elif section and re.match(r" {4}\S", line):
            name, colon, rest = line.strip().partition(": ")
            known = colon and re.fullmatch(r"[\w., *`]+", name)
            lines.append(f"- `{name}`: {rest}" if known else f"- {line.strip()}")
        else:
            section = section and (not line or line.startswith(" "))
            lines.append(line if not section else line.strip())
    return "\n".join(lines)
