"""Every message of an error in the package, read from its source: what is said, what to do, and the exit code."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from advice_sites import HOLE, _assigned
from parsed import FILES, PACKAGE, tree_of

from afina import errors

CLASSES: dict[str, int] = {
    name: kind.exit_code
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.AfinaError)
} | {"NotRendered": 3, "TemplateRefusal": 3, "Unreachable": 1, "SlurmSilent": 1}
"""Class of an error -> its exit code."""
OTHERS = {
    # what becomes a message -> the argument that says what is wrong, and its exit code (None: that of its module)
    "Problem": (0, None),
    "KeyProblem": (0, None),
    "BadRow": (0, 3),
    "UnusableRow": (0, 3),
    "add": (0, 3),
    "_Refusal": (0, 3),
    "BaseKind": (1, 2),
    "Failed": (0, 3),
    "IsolationRefused": (0, 2),
    "ValueError": (0, None),
    "TypeError": (0, None),
    "KeyError": (0, None),
    "Failure": (1, None),
    "WrongContent": (0, None),
    "RequestRefused": (1, None),
    "StudioRefusal": (1, None),
    "EngineStopped": (0, None),
    "PydanticCustomError": (1, None),
}
GIVE_BOTH = {"mistake": 3, "problems_of": 2}
"""Functions that give (what, fix) to others, who make the error -> its exit code."""
FIXES = ("fix", "instead")
NEVER_SHOWN = (
    "model/rnn_torch.py", "train/optimizer_torch.py", "model/mlx/mlx_model.py", "plan/calibration.py",
    "evaluate/code_task.py", "endpoint/cache.py", "report/language.py",
)  # fmt: skip
"""Modules whose ValueError and TypeError tell a programmer of a defect."""
MOST = 12
"""Texts of one expression; more would be a product of holes."""
MOST_ADVICE = 3
DEEP = 4


@dataclass(frozen=True)
class Message:
    """One message as it stands in the source, a hole for what is filled in."""

    module: str
    line: int
    what: str
    fix: str = ""
    code: int | None = None
    """The exit code; None where it is told by a server or inside of another message."""

    @property
    def said(self) -> bool:
        """Whether words of its own stand in it, and not only what another message brings."""
        return len(re.findall(r"[A-Za-z]{2,}", self.what)) >= 2 or bool(re.search(r"[a-z]{6,}", self.what))


class _Module:
    """One file: its functions, its calls, and what is set and returned where."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.functions: dict[str, ast.FunctionDef] = {}
        self.calls: list[tuple[ast.FunctionDef | None, ast.Call]] = []
        """Each call with the innermost function that it stands in."""
        self.calls_in: dict[ast.FunctionDef, list[ast.Call]] = defaultdict(list)
        """Those of the functions within it too; so is what follows."""
        self.returned: dict[ast.FunctionDef, list[ast.expr]] = defaultdict(list)
        self.set_in: dict[ast.FunctionDef | None, dict[str, list[ast.expr]]] = defaultdict(lambda: defaultdict(list))
        self.inside: dict[ast.Call, int] = {}
        """Calls that stand within one that makes an error -> its exit code."""
        self._walk(tree_of(PACKAGE / name), (), None)

    def _walk(self, tree: ast.AST, functions: tuple[ast.FunctionDef, ...], code: int | None) -> None:
        for node in ast.iter_child_nodes(tree):
            within = code
            if isinstance(node, ast.Call):
                within = CLASSES.get(name_of(node), code)
                if code is not None:
                    self.inside[node] = code
                self.calls.append((functions[-1] if functions else None, node))
                for each in functions:
                    self.calls_in[each].append(node)
            elif isinstance(node, ast.Return) and node.value is not None:
                for each in functions:
                    self.returned[each].append(node.value)
            for name, value in _assigned(node):
                for place in functions or (None,):
                    self.set_in[place][name].append(value)
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
                self._walk(node, (*functions, node), None)
            elif not isinstance(node, ast.Name | ast.Constant):
                self._walk(node, functions, within)


@cache
def _modules() -> tuple[_Module, ...]:
    """The files that make messages, or call a function of another file that makes one of what it is given."""
    texts = {str(file.relative_to(PACKAGE)): file.read_text(encoding="utf-8") for file in FILES}
    makes = re.compile(rf"\b(?:{'|'.join(CLASSES | OTHERS)}|def (?:{'|'.join(GIVE_BOTH)}))\(")
    making = {name: _Module(name) for name, text in texts.items() if makes.search(text)}
    told = re.compile(rf"\b(?:{'|'.join(_tellers(tuple(making.values())))})\(")
    rest = {name: _Module(name) for name, text in texts.items() if name not in making and told.search(text)}
    return tuple(module for _, module in sorted((making | rest).items()))


@dataclass(frozen=True)
class _Scope:
    """A function, or a module where `function` is None; texts that its parameters are known to have."""

    module: _Module
    function: ast.FunctionDef | None = None
    bound: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def assigned(self, name: str) -> list[ast.expr]:
        """What a name is set to in the function, else in the module."""
        inside = self.module.set_in[self.function].get(name, []) if self.function else []
        return inside or self.module.set_in[None].get(name, [])

    def texts(self, node: ast.expr | None, depth: int = 0) -> list[str]:
        """The texts that an expression may be: one for each branch; a hole for what no source says."""
        found = list(dict.fromkeys(self._texts(node, depth))) if node is not None and depth <= DEEP else []
        return found if 0 < len(found) <= MOST else [HOLE]

    def _texts(self, node: ast.expr, depth: int) -> Iterator[str]:
        if isinstance(node, ast.Constant):
            yield node.value if isinstance(node.value, str) else HOLE
        elif isinstance(node, ast.JoinedStr):
            parts = [self.texts(part, depth) for part in node.values]
            yield from _joined(parts)
        elif isinstance(node, ast.FormattedValue):
            plain = node.conversion == -1 and node.format_spec is None
            yield from self.texts(node.value, depth + 1) if plain else [HOLE]
        elif isinstance(node, ast.IfExp):
            yield from self.texts(node.body, depth)
            yield from self.texts(node.orelse, depth)
        elif isinstance(node, ast.BoolOp):
            for value in node.values:
                yield from self.texts(value, depth)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield from _joined([self.texts(node.left, depth), self.texts(node.right, depth)])
        elif isinstance(node, ast.Name):
            yield from self._named(node.id, depth)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            for table in self.assigned(node.value.id):
                for value in table.values if isinstance(table, ast.Dict) else []:
                    yield from self.texts(value, depth + 1)
        elif isinstance(node, ast.Call):
            yield from self._called(node, depth)
        else:
            yield HOLE

    def _named(self, name: str, depth: int) -> Iterator[str]:
        known = dict(self.bound).get(name)
        if known:
            yield from known
            return
        inside = replace(self, bound=(*self.bound, (name, (HOLE,))))  # of `fix = f"{fix}; ..."` the part that is new
        for value in self.assigned(name):
            yield from inside.texts(value, depth + 1)

    def _called(self, node: ast.Call, depth: int) -> Iterator[str]:
        if isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            yield from (re.sub(r"\{[^{}]*\}", HOLE, text) for text in self.texts(node.func.value, depth))
        elif isinstance(node.func, ast.Name) and node.func.id in self.module.functions:
            inside = self.inside(node, self.module.functions[node.func.id], depth)
            for each in self.module.returned[self.module.functions[node.func.id]]:
                yield from inside.texts(each, depth + 1)
        else:
            yield HOLE

    def inside(self, call: ast.Call, function: ast.FunctionDef, depth: int, module: _Module | None = None) -> _Scope:
        """The scope of a function that is called, with what its parameters are given."""
        names = [each.arg for each in (*function.args.posonlyargs, *function.args.args) if each.arg != "self"]
        given = dict(zip(names, call.args, strict=False)) | {word.arg: word.value for word in call.keywords if word.arg}
        bound = {
            name: tuple(text for each in _settings(self, call.lineno, value) for text in self.texts(each, depth + 1))
            for name, value in given.items()
        }
        said = {name: texts for name, texts in bound.items() if texts != (HOLE,)}
        return _Scope(module or self.module, function, tuple(said.items()))


def _joined(parts: Sequence[Sequence[str]]) -> list[str]:
    """All ways to put one text of each part behind the other; a hole for the longest part where they are many."""
    chosen = [list(each) for each in parts]
    while True:
        ways = 1
        for each in chosen:
            ways *= len(each)
        if ways <= MOST:
            return [re.sub(f"{HOLE}+", HOLE, "".join(way)) for way in product(*chosen)]
        longest = max(range(len(chosen)), key=lambda number: len(chosen[number]))
        chosen[longest] = [HOLE]


@cache
def every_message() -> tuple[Message, ...]:
    """All messages of the package, those of one module in order."""
    return tuple(message for module in _modules() for message in _of_module(module))


def _of_module(module: _Module) -> Iterator[Message]:
    code = _code_of(module)
    tellers = _tellers(_modules())
    for name in GIVE_BOTH.keys() & module.functions.keys():
        yield from _both(_Scope(module, module.functions[name]), GIVE_BOTH[name])
    for function, call in module.calls:
        scope = _Scope(module, function)
        yield from _messages(scope, call, code)
        called = name_of(call)
        homes = tellers.get(called, [])
        imported = isinstance(call.func, ast.Name) and not called.startswith("_") and called not in module.functions
        chosen = [each for each in homes if each[0] is module] or (homes if imported and len(homes) == 1 else [])
        for home, teller in (each for each in chosen if each[1] is not function):
            inside = scope.inside(call, teller, 0, home)
            for inner in home.calls_in[teller] if inside.bound else []:
                yield from _messages(inside, inner, _code_of(home))


def _both(scope: _Scope, code: int) -> Iterator[Message]:
    """The pairs of what and fix that stand in a function."""
    for node in ast.walk(scope.function) if scope.function else []:
        if isinstance(node, ast.Tuple) and len(node.elts) > 1 and not isinstance(node.ctx, ast.Store):
            advice = _all(scope.texts(node.elts[1]))
            for what in scope.texts(node.elts[0]):
                if " " in what and advice:
                    yield Message(scope.module.name, node.lineno, what, advice, code)


def name_of(call: ast.Call) -> str:
    """What is called, without what stands before the last dot."""
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _messages(scope: _Scope, call: ast.Call, of_module: int | None) -> Iterator[Message]:
    """The messages that a call makes; none where it makes something else."""
    name, module = name_of(call), scope.module.name
    if name in CLASSES:
        place, code = 0, CLASSES[name]
    elif name in OTHERS and (name != "add" or _receiver(call) == "problems"):
        place, own = OTHERS[name]
        code = scope.module.inside.get(call, of_module) if name.endswith("Problem") else own
        if name == "ValueError" and module.startswith("recipe/"):
            code = 2
        if name in ("ValueError", "TypeError", "KeyError") and module in NEVER_SHOWN:
            return
    else:
        return
    what, fix = _argument(call, place, ("what",)), _argument(call, place + 1, FIXES)
    if isinstance(what, ast.Starred):
        what, fix = _first_and_second(scope, what.value)
    if name == "BaseKind":
        fix = fix or ast.Name("A_MODEL")
    if what is None or (
        name == "BaseKind" and isinstance(fix, ast.Constant) and not fix.value
    ):  # one that there is nothing against
        return
    for said, advice in _pairs(scope, call.lineno, what, fix):
        shown = re.sub(r"\{\w+\}", HOLE, said)
        help_ = re.sub(r"\{\w+\}", HOLE, advice) if name == "BaseKind" else advice
        if shown.strip(HOLE + " ") and not shown.endswith(": "):
            yield Message(module, call.lineno, shown, help_, code)


def _receiver(call: ast.Call) -> str:
    """`problems` of `self.problems.add`."""
    held = getattr(call.func, "value", None)
    return getattr(held, "attr", "") or getattr(held, "id", "")


def _argument(call: ast.Call, place: int, names: Sequence[str]) -> ast.expr | None:
    named = next((word.value for word in call.keywords if word.arg in names), None)
    if len(call.args) > place:
        return call.args[place]
    return named or (call.args[0] if call.args and isinstance(call.args[0], ast.Starred) else None)


def _first_and_second(scope: _Scope, value: ast.expr) -> tuple[ast.expr | None, ast.expr | None]:
    """Of `*TABLE[key]`: the first things of all rows, and the second ones."""
    if not (isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name)):
        return None, None
    rows = [row for table in scope.assigned(value.value.id) for row in getattr(table, "values", [])]
    pairs = [row.elts for row in rows if isinstance(row, ast.Tuple) and len(row.elts) > 1]
    if not pairs:
        return None, None
    first, second = zip(*[(each[0], each[1]) for each in pairs], strict=True)
    return ast.BoolOp(ast.Or(), list(first)), ast.BoolOp(ast.Or(), list(second))


def _pairs(scope: _Scope, line: int, what: ast.expr, fix: ast.expr | None) -> Iterator[tuple[str, str]]:
    """What is said with what to do about it: side by side where both are set at the same places, else each with all."""
    whats = _settings(scope, line, what)
    fixes = _settings(scope, line, fix) if fix is not None else []
    side_by_side = len(whats) == len(fixes)
    for number, each in enumerate(whats):
        advice = [text for other in ([fixes[number]] if side_by_side else fixes) for text in scope.texts(other)]
        yield from ((said, _all(advice)) for said in scope.texts(each))


def _settings(scope: _Scope, line: int, node: ast.expr) -> list[ast.expr]:
    """Where a name is set that a call in this line is given: since the call before that was given it too."""
    if isinstance(node, ast.BoolOp):
        return node.values
    if not isinstance(node, ast.Name) or node.id in dict(scope.bound) or scope.function is None:
        return [node]
    found = [value for value in scope.assigned(node.id) if value.lineno <= line]
    before = max((each for each in _uses(scope, node.id) if each < line), default=0)
    return [value for value in found if value.lineno > before] or found or [node]


def _uses(scope: _Scope, name: str) -> Iterator[int]:
    """The lines of a function in which a message is made of a name."""
    for call in scope.module.calls_in[scope.function] if scope.function else []:
        given = any(isinstance(each, ast.Name) and each.id == name for each in call.args)
        if given and name_of(call) in OTHERS.keys() | CLASSES.keys() | _tellers(_modules()).keys():
            yield call.lineno


def _all(texts: Sequence[str]) -> str:
    said = [text for text in dict.fromkeys(texts) if text.strip(HOLE + " ,;")]
    return "; or: ".join(said[:MOST_ADVICE])


def _code_of(module: _Module) -> int | None:
    """The exit code of the problems that a module gathers: of the errors that it raises with several, else of all."""
    raised = [call for _, call in module.calls if name_of(call) in CLASSES]
    several = [node for node in raised if any(word.arg == "problems" for word in node.keywords)]
    codes = {CLASSES[name_of(node)] for node in several or raised}
    return codes.pop() if len(codes) == 1 else GATHERED_IN.get(module.name)


GATHERED_IN = {
    # modules whose problems another one raises
    "sources/docgen.py": 3, "sources/markdown.py": 3, "sources/pairs.py": 3, "sources/epub.py": 3, "sources/web.py": 3,
    "sources/tables.py": 3, "sources/__init__.py": 3, "text/formats.py": 3, "walk/audit.py": 3,
    "model/base_damage.py": 2, "model/choices.py": 2, "model/gguf_base.py": 2, "model/shape_table.py": 2,
    "recipe/start_from.py": 2, "llamacpp/lora_write.py": 2, "plan/check.py": 4,
    "score/columns.py": 3, "dataset/audit/token_audit.py": 3, "tokenizer/encode.py": 3,
}  # fmt: skip


@cache
def _tellers(modules: tuple[_Module, ...]) -> dict[str, list[tuple[_Module, ast.FunctionDef]]]:
    """Functions that make a message of a text they are given, by name: `_refuse(what)`; each with its module."""
    found: dict[str, list[tuple[_Module, ast.FunctionDef]]] = defaultdict(list)
    for module in modules:
        for name, function in module.functions.items():
            given = {each.arg for each in (*function.args.args, *function.args.kwonlyargs)} - {"self"}
            if name != "__init__" and any(
                given & _words_of(module, function, call) for call in module.calls_in[function]
            ):
                found[name].append((module, function))
    return found


def _words_of(module: _Module, function: ast.FunctionDef, call: ast.Call) -> set[str]:
    """The names of which the message of a call is made; none where it makes no message."""
    called = name_of(call)
    if called not in OTHERS and called not in CLASSES:
        return set()
    what = _argument(call, OTHERS.get(called, (0,))[0], ("what",))
    if what is None:
        return set()
    names = {each.id for each in ast.walk(what) if isinstance(each, ast.Name)}
    for name in list(names):
        for value in _Scope(module, function).assigned(name):
            names |= {each.id for each in ast.walk(value) if isinstance(each, ast.Name)}
    return names
