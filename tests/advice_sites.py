"""Every piece of advice in the package, read from its source: what is printed behind ``->``."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from parsed import FILES, PACKAGE, nodes_of, tree_of

HOLE = "\N{HORIZONTAL ELLIPSIS}"
"""Stands in a text for what is filled in while the program runs."""

ADVICE_AT = {
    **dict.fromkeys(("AfinaError", "RecipeError", "BaseError", "DiskFull", "DataError", "ContextOverflow"), 1),
    "OutOfMemory": 1,
    "Unreachable": 1,
    "SlurmSilent": 1,
    **dict.fromkeys(("DoesNotFit", "ResultError", "TrainingDiverged", "NotRendered", "TemplateRefusal"), 1),
    **dict.fromkeys(("Problem", "KeyProblem", "_problem", "_BadRow", "Rule"), 1),
    "add": 1,
    "BaseKind": 2,
    "DoctorCheck": 3,
    "_Refusal": 1,
    "StudioRefusal": 2,
}
"""What is given advice -> which of its arguments it is."""
NAMES = ("fix", "instead")
"""What that argument is called, and a variable that is handed on."""


@dataclass(frozen=True)
class Advice:
    """One piece of advice as it stands in the source, a hole for what is filled in."""

    module: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.text}"


@cache
def every_advice() -> tuple[Advice, ...]:
    """All advice of the package, each text once a module."""
    found: dict[tuple[str, str], Advice] = {}
    for module, nodes in _modules().items():
        source = _Source(nodes)
        for line, text in source.advice():
            if text.strip(HOLE + " "):
                found.setdefault((module, text), Advice(module, line, text))
    return tuple(found.values())


@cache
def every_text() -> tuple[Advice, ...]:
    """All strings of the package but docstrings, with those of the recipe's fields, which users read too."""
    found = []
    for module, nodes in _modules().items():
        skipped = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        if not module.startswith("recipe/"):
            skipped |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                found.append(Advice(module, node.lineno, _joined(node)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                found.append(Advice(module, node.lineno, node.value))
    return tuple(found)


@cache
def _modules() -> dict[str, list[ast.AST]]:
    """Each file's nodes."""
    return {str(file.relative_to(PACKAGE)): nodes_of(tree_of(file)) for file in FILES}


def _joined(node: ast.JoinedStr) -> str:
    return "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)


class _Source:
    """One file: its names and functions, so that a text can be followed to where it is written."""

    def __init__(self, nodes: list[ast.AST]) -> None:
        self.nodes = nodes
        self.values: dict[str, list[ast.expr]] = defaultdict(list)
        self.returns: dict[str, list[ast.expr]] = defaultdict(list)
        for node in nodes:
            if isinstance(node, ast.FunctionDef):
                self.returns[node.name] += [
                    each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value
                ]
            for name, value in _assigned(node):
                self.values[name].append(value)

    def advice(self) -> Iterator[tuple[int, str]]:
        for node in self.nodes:
            for expression in self._advice_of(node):
                yield from ((expression.lineno, text) for text in self.texts(expression))

    def texts(self, node: ast.expr, depth: int = 0) -> Iterator[str]:
        """The texts that an expression may be: one for each branch."""
        if isinstance(node, ast.Constant):
            yield node.value if isinstance(node.value, str) else HOLE
        elif isinstance(node, ast.JoinedStr):
            yield _joined(node)
        elif isinstance(node, ast.IfExp):
            yield from self.texts(node.body, depth)
            yield from self.texts(node.orelse, depth)
        elif isinstance(node, ast.BoolOp):
            for value in node.values:
                yield from self.texts(value, depth)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield from (one + two for one in self.texts(node.left, depth) for two in self.texts(node.right, depth))
        elif depth < 3 and isinstance(node, ast.Name) and node.id in self.values:
            for value in self.values[node.id]:
                yield from self.texts(value, depth + 1)
        elif depth < 3 and isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            for value in self.returns[node.func.id] or [ast.Constant(None)]:
                yield from self.texts(value, depth + 1)
        else:
            yield HOLE

    def _advice_of(self, node: ast.AST) -> Iterator[ast.expr]:
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            place = ADVICE_AT.get(called)
            if place is not None and len(node.args) > place:
                yield node.args[place]
            yield from (word.value for word in node.keywords if word.arg in NAMES)
        for name, value in _assigned(node):
            if name in NAMES:
                yield value
            elif name == "RULES" and isinstance(value, ast.Dict):
                yield from (each.elts[1] for each in value.values if isinstance(each, ast.Tuple))


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names and the values that they get."""
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        yield getattr(node.target, "id", ""), node.value
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield target.id, node.value
        elif isinstance(target, ast.Tuple):
            sides = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
            for side in sides:
                if isinstance(side, ast.Tuple) and len(side.elts) == len(target.elts):
                    yield from ((getattr(p, "id", ""), v) for p, v in zip(target.elts, side.elts, strict=True))
