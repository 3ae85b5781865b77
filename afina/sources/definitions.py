"""What a file of code defines and says about it: its doc comment, and functions and types with theirs.

Python is read by its own parser, other languages by tree-sitter where ``afina[code]`` is installed
(one wheel per grammar, nothing is loaded from a network). For all others, and for Python that does
not parse, the comment at the head of the file is what there is.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict


class Definition(TypedDict):
    """One definition. Lines count from 1; a method's name is ``Class.method``."""

    name: str
    line: int
    end_line: int
    signature: str
    doc: str


class Description(NamedTuple):
    """The doc comment of a file, or else of its first public definition; and its definitions."""

    doc: str
    items: list[Definition]


@dataclass(frozen=True, slots=True)
class _Grammar:
    """Where definitions stand in a language's tree, and which comments document them."""

    module: str
    defines: frozenset[str]
    doc_marks: tuple[str, ...] = ()
    """How a doc comment begins; any comment right above a definition where empty."""
    public: str = ""
    """What the signature of a public definition begins with."""


_GRAMMARS = {
    "zig": _Grammar("tree_sitter_zig", frozenset({"function_declaration", "variable_declaration"}), ("///",), "pub"),
    "rust": _Grammar(
        "tree_sitter_rust",
        frozenset(
            {"function_item", "function_signature_item", "struct_item", "enum_item", "union_item", "trait_item"}
            | {"mod_item", "type_item", "macro_definition", "impl_item"}
        ),
        ("///", "/**"),
        "pub",
    ),
    "go": _Grammar("tree_sitter_go", frozenset({"function_declaration", "method_declaration", "type_declaration"})),
    "javascript": _Grammar(
        "tree_sitter_javascript",
        frozenset({"function_declaration", "generator_function_declaration", "class_declaration", "method_definition"}),
        ("/**",),
        "export",
    ),
    "c": _Grammar("tree_sitter_c", frozenset({"function_definition", "struct_specifier", "enum_specifier"})),
}
_GRAMMARS["jsx"] = _GRAMMARS["javascript"]
_ZIG_TYPES = frozenset({"struct_declaration", "enum_declaration", "union_declaration", "opaque_declaration"})
_BETWEEN = frozenset({"attribute_item", "decorator"})
"""May stand between a doc comment and what it documents."""

_HASH = frozenset(
    {"bash", "cmake", "crystal", "dockerfile", "elixir", "fish", "gleam", "graphql", "hcl", "julia", "just"}
    | {"makefile", "mojo", "nim", "nix", "perl", "powershell", "python", "r", "ruby", "sh", "tcl", "toml"}
    | {"yaml", "zsh"}
)
_DASHES = frozenset(["ada", "elm", "haskell", "lua", "sql", "vhdl"])
_SEMICOLONS = frozenset(["asm", "clojure", "lisp", "racket", "scheme"])
_LICENCE = re.compile(r"copyright|licen[cs]e|spdx-", re.I)
_MARKS = re.compile(r"^\s*(?://[/!]*|/\*[*!]*|\*+/|\*(?!/)|#+!?|--+|;+|%+)?[ \t]?|\s*\*+/\s*$")


def describe_code(text: str, language: str) -> Description:
    """What a file of code defines, and its doc comment.

    >>> found = describe_code('"Adds."\\ndef add(a, b=1) -> int:\\n    "The sum."\\n    return a + b\\n', "python")
    >>> found.doc, found.items[0]["signature"], found.items[0]["doc"], found.items[0]["end_line"]
    ('Adds.', 'def add(a, b=1) -> int', 'The sum.', 4)
    >>> describe_code("-- Sorts a list.\\nsort = 1", "haskell")
    Description(doc='Sorts a list.', items=[])
    """
    head = head_comment(text, language)
    if language == "python":
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the code that is read, e.g. about its escapes
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return Description(head, [])
        items = list(_python_items(tree))
        first = next((item["doc"] for item in items if item["doc"] and not item["name"].startswith("_")), "")
        return Description(ast.get_docstring(tree) or head or first, items)
    grammar = _GRAMMARS.get(language)
    parser = _parser(grammar.module) if grammar else None
    if grammar is None or parser is None:
        return Description(head, [])
    items = list(_tree_items(parser.parse(text.encode()).root_node, grammar))
    public = [item for item in items if item["signature"].startswith(grammar.public)]
    first = next((item["doc"] for item in public if item["doc"]), "")
    # A comment that begins like a definition's is one's, not the file's.
    own = head if not text.lstrip().startswith(grammar.doc_marks or "\0") else ""
    return Description(own or first or head, items)


def head_comment(text: str, language: str) -> str:
    """The first block of comments above the code, without marks; one about a licence is passed over.

    >>> head_comment("#!/bin/sh\\n# SPDX-License-Identifier: MIT\\n\\n# Sorts.\\n# Twice.\\nsort\\n", "sh")
    'Sorts.\\nTwice.'
    >>> head_comment("/* A stack.\\n * Of numbers. */\\nint x;", "c")
    'A stack.\\nOf numbers.'
    """
    mark = "#" if language in _HASH else "--" if language in _DASHES else ";" if language in _SEMICOLONS else "//"
    block: list[str] = []
    before, inside = "", False
    for number, line in enumerate(text.split("\n")):
        shown = line.strip()
        if number == 0 and shown.startswith("#!"):
            continue
        begins = _begins(shown, mark)
        if block and not inside and (begins != before or begins == "/*"):
            if not _LICENCE.search("\n".join(block)):
                break
            block = []
        if not inside and not begins:
            if shown:
                break
            continue
        before = before if inside else begins
        inside = before == "/*" and "*/" not in shown
        block.append(line)
    return "" if _LICENCE.search("\n".join(block)) else plain_comment(block)


def _begins(line: str, mark: str) -> str:
    """How a line that is a comment begins; empty for any other.

    >>> _begins("//! a", "//"), _begins("// a", "//"), _begins("x", "#")
    ('//!', '//', '')
    """
    marks = ("//!", "///", "/*", "//") if mark == "//" else (mark,)
    return next((each for each in marks if line.startswith(each)), "")


def plain_comment(lines: list[str]) -> str:
    """A comment's text without its marks.

    >>> plain_comment(["/// Adds.", "///", "///   a: one"])
    'Adds.\\n\\n  a: one'
    """
    return "\n".join(_MARKS.sub("", line).rstrip() for line in lines).strip("\n")


def _python_items(tree: ast.Module | ast.ClassDef, above: str = "") -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            words = [ast.unparse(base) for base in (*node.bases, *(word.value for word in node.keywords))]
            signature = f"class {node.name}" + (f"({', '.join(words)})" if words else "")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
            gives = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            signature = f"{word} {node.name}({ast.unparse(node.args)}){gives}"
        else:
            continue
        name = above + node.name
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        doc = ast.get_docstring(node) or ""
        yield Definition(name=name, line=first, end_line=node.end_lineno or first, signature=signature, doc=doc)
        if isinstance(node, ast.ClassDef):
            yield from _python_items(node, f"{name}.")


@functools.cache
def _parser(module: str) -> Any:
    """A parser for a grammar; None where it is not installed."""
    if importlib.util.find_spec("tree_sitter") is None or importlib.util.find_spec(module) is None:
        return None
    from tree_sitter import Language, Parser

    return Parser(Language(importlib.import_module(module).language()))


def _tree_items(container: Any, grammar: _Grammar, above: str = "") -> Iterator[Definition]:
    """Definitions among the children of a node, and inside of types."""
    comment: list[str] = []
    ends = first = -1
    for child in container.children:
        last = child.end_point[0] - (child.end_point[1] == 0)
        if child.type.endswith("comment"):
            text = child.text.decode(errors="replace")
            if ends != child.start_point[0] - 1:
                comment = []
            # A comment behind code on the same line belongs to that line.
            before = child.prev_sibling
            if before is not None and before.end_point[0] == child.start_point[0] and before.end_point[1]:
                comment = []
            elif text.startswith(grammar.doc_marks or text) and not text.startswith("////"):
                comment += text.rstrip("\n").split("\n")
            else:
                comment = []
            ends = last
            continue
        if child.type in _BETWEEN:
            first, ends = (child.start_point[0] if first < 0 else first), last
            continue
        inner = child
        if child.type == "export_statement":
            inner = child.child_by_field_name("declaration") or child
        name = _name(inner) if inner.type in grammar.defines else ""
        if name:
            if inner.type != "impl_item":
                yield Definition(
                    name=above + name,
                    line=(first if first >= 0 else child.start_point[0]) + 1,
                    end_line=last + 1,
                    signature=_signature(child, inner),
                    doc=plain_comment(comment) if comment and ends == child.start_point[0] - 1 else "",
                )
            body = _body(inner)
            if body is not None and "function" not in inner.type and "method" not in inner.type:
                yield from _tree_items(body, grammar, f"{above}{name}.")
        comment, first = [], -1


def _name(node: Any) -> str:
    """What a definition is called; empty for what defines nothing (a Zig constant that is no type)."""
    if node.type == "variable_declaration":
        named = next((child for child in node.children if child.type == "identifier"), None)
        return _text(named) if named is not None and _body(node) is not None else ""
    if node.type == "type_declaration":
        node = next((child for child in node.children if child.type in ("type_spec", "type_alias")), node)
    if node.type.endswith("_specifier") and node.child_by_field_name("body") is None:
        return ""
    found = node.child_by_field_name("name") or node.child_by_field_name("type")
    if node.type == "function_definition":  # C: the name is at the end of a chain of declarators
        found = node.child_by_field_name("declarator")
        while found is not None and found.child_by_field_name("declarator") is not None:
            found = found.child_by_field_name("declarator")
    return _text(found) if found is not None else ""


def _body(node: Any) -> Any:
    if node.type == "variable_declaration":
        return next((child for child in node.children if child.type in _ZIG_TYPES), None)
    return node.child_by_field_name("body")


def _signature(whole: Any, inner: Any) -> str:
    """The text of a definition up to its body, on one line."""
    text = whole.text.decode(errors="replace")
    body = inner.child_by_field_name("body")
    if body is not None:
        text = whole.text[: body.start_byte - whole.start_byte].decode(errors="replace")
    else:
        text = text.partition("{")[0].partition("\n\n")[0]
    return " ".join(text.split()).rstrip(" ={;")


def _text(node: Any) -> str:
    return " ".join(node.text.decode(errors="replace").split())
