"""The house rules of docs/architecture.md: who may import whom, how long a function may be, what stays fast."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from parsed import FILES, nodes_of, tree_of

ROOT = Path(__file__).resolve().parent.parent
AFINA = Path(sys.executable).parent / "afina"

GROUND = {"errors", "units", "whole", "recipe", "run"}

# Room -> what it may import inside the house. A row names only rows above it, so the rooms form no
# cycle. `room.module` allows that one module and no other.
INSIDE: dict[str, set[str]] = {
    "errors": set(),
    "units": {"errors"},
    "machine": {"errors"},
    "temporary": set(),
    "page_marks": set(),
    "whole": {"errors", "units"},
    "recipe": {"errors", "units", "machine"},
    "cache": {"recipe"},
    "run": {"errors", "units", "whole", "recipe"},
    "record": {"errors", "run"},
    "manifest": {"errors", "whole", "run", "record"},
    "outcome": GROUND | {"manifest"},
    "progress": {"units"},
    "endpoint": GROUND,
    "text": GROUND,
    "sandbox": GROUND | {"temporary", "cache", "text"},
    "sources": GROUND | {"text"},
    "tokenizer": GROUND | {"record", "text"},
    "dataset": GROUND | {"text"},
    "dataset.questions": GROUND | {"endpoint", "text", "dataset"},
    "dataset.build": GROUND
    | {"machine", "temporary", "endpoint", "text", "sandbox", "sources", "dataset", "dataset.questions"},
    "dataset.audit": GROUND
    | {"machine", "temporary", "record", "text", "sandbox", "sources", "tokenizer", "dataset", "dataset.build"},
    "score": GROUND | {"text", "sources", "dataset.audit"},
    "model": GROUND | {"temporary", "cache", "machine", "text", "tokenizer"},
    "plan": GROUND
    | {
        "machine",
        "model.back_ends",
        "text.document",
        "text.splits",
        "model.base",
        "model.base_kind",
        "model.shape",
        "model.shape_read",
        "model.shape_table",
        "model.footprint",
        "text.formats",
    },
    "evaluate": GROUND
    | {"record", "endpoint", "text", "sandbox", "sources", "tokenizer", "dataset.build", "dataset.audit", "score"}
    | {"model", "temporary"},
    "report": GROUND
    | {"record", "manifest", "model.shape", "score.paired", "evaluate.scores", "evaluate.text_scores"}
    | {"evaluate.intervals", "evaluate.guardrails"},
    "watch": GROUND | {"record", "progress", "report.charts", "report.labels"},
    "plot": GROUND | {"evaluate.scores", "report.charts", "report.labels", "watch"},
    "remedies": GROUND | {"record", "evaluate.scores", "watch"},
    "train": GROUND | {"record", "text", "tokenizer", "dataset.audit", "model", "evaluate"},
    "llamacpp": GROUND | {"temporary", "cache", "machine", "tokenizer", "model"},
    "serve": GROUND | {"temporary", "outcome", "record", "text", "dataset", "tokenizer", "model", "plan", "llamacpp"},
    "verify": GROUND
    | {"record", "manifest", "outcome", "text", "tokenizer", "dataset.build.canaries", "score.paired", "model"}
    | {"evaluate", "page_marks"},
    "export": GROUND
    | {"record", "manifest", "evaluate.scores", "text", "dataset", "tokenizer", "model", "plan", "llamacpp", "serve"}
    | {"verify"},
}
INSIDE["base_page"] = GROUND | {"tokenizer", "model", "plan", "llamacpp"}
INSIDE["base_answers"] = GROUND | {"tokenizer", "model", "plan", "evaluate"}
INSIDE["base_replay"] = GROUND | {"text", "tokenizer", "model"}
INSIDE["tokenizer_page"] = GROUND | {"text", "sources", "tokenizer", "model"}
INSIDE["walk"] = set(INSIDE) - {"progress"}
INSIDE["why"] = GROUND | {"record", "machine", "outcome", "text", "tokenizer", "score.paired", "model", "evaluate"}
INSIDE["why"] |= {"train", "walk"}
INSIDE["demo"] = INSIDE["walk"] | {"walk"}
INSIDE["temper"] = GROUND | {"record", "outcome", "text", "model", "evaluate", "plot", "train.checkpoint", "walk"}
INSIDE["temper"] |= {"temporary"}
INSIDE["improve"] = INSIDE["walk"] | {"walk", "temper"}
INSIDE["run_process"] = {"errors", "watch.lock"}
INSIDE["mcp_server"] = GROUND | {"temporary", "record", "evaluate.scores", "watch", "run_process"}
INSIDE["launch"] = GROUND | {"cache", "record", "plan", "watch", "sources.saved", "dataset.build", "walk.plan_answers"}
INSIDE["studio"] = GROUND | {"record", "manifest", "evaluate.scores", "report", "watch", "plan", "walk.plan_answers"}
INSIDE["studio"] |= {"outcome", "text", "tokenizer", "model", "train.flops_torch", "serve"}  # pages data and playground
INSIDE["studio"] |= {"temporary", "run_process"}
INSIDE["cli"] = set(INSIDE)
IN_WORDS = {"walk", "demo", "improve", "cli"}
"""Rows that docs/architecture.md writes as "all above"."""

# Room -> libraries that it may use. Those in HEAVY are loaded inside functions, except where
# `loads_torch` says so: those modules are themselves only imported inside functions.
LIBRARIES: dict[str, set[str]] = {
    "recipe": {"pydantic", "ruamel"},
    "temporary": {"filelock"},
    "cache": {"filelock"},
    "run": {"filelock"},
    "progress": {"rich"},
    "endpoint": {"httpx", "tenacity"},
    "text": {"markdown_it", "numpy", "ftfy", "stdnum"},
    "sources": {"lxml", "markdown_it", "pypdf", "docling", "pyarrow", "datasets", "tree_sitter", "pathspec", "ruamel"}
    | {"huggingface_hub"},
    "dataset.build": {"numpy", "datatrove", "ray"},
    "dataset.audit": {"numpy"},
    "tokenizer": {"tokenizers", "transformers", "jinja2", "numpy", "sentencepiece"},
    "model": {"torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers", "huggingface_hub", "numpy"}
    | {"liger_kernel", "llguidance", "gguf", "mlx", "mlx_lm"},
    "plan": {"numpy", "scipy", "torch"},
    "report": {"babel", "jinja2", "lxml", "markupsafe", "ruamel"},
    "watch": {"pydantic_core", "ruamel", "textual"},
    "plot": {"matplotlib"},
    "score": {"numpy", "sacrebleu"},
    "evaluate": {"lm_eval", "bm25s"},
    "train": {"torch", "safetensors", "numpy", "bitsandbytes", "wandb", "mlflow", "trackio", "mlx", "mlx_lm"},
    "serve": {"torch", "transformers", "peft", "fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic"}
    | {"pydantic_core", "httpx"},
    "llamacpp": {"torch", "gguf", "numpy", "safetensors", "peft", "httpx", "xllamacpp"},
    "export": {"torch", "transformers", "peft", "safetensors", "numpy", "gguf", "mlx", "mlx_lm", "huggingface_hub"},
    "walk": {"torch", "transformers"},
    "temper": {"peft", "safetensors", "torch"},
    "mcp_server": {"mcp", "mcp_types", "pydantic"},
    "why": {"numpy", "peft", "safetensors", "torch"},
    "launch": {"sky"},
    "studio": {"fastapi", "jinja2", "pydantic", "ruamel", "starlette", "torch", "uvicorn"},
    "cli": {"typer"},
}
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "tokenizers", "huggingface_hub", "numpy"}
HEAVY |= {"lm_eval", "docling", "pyarrow", "datasets", "datatrove", "liger_kernel", "wandb", "mlflow", "trackio"}
HEAVY |= {"ray", "gguf", "sentencepiece", "xllamacpp", "mlx", "mlx_lm", "httpx", "tenacity", "scipy", "bm25s"}
HEAVY |= {"textual", "matplotlib", "mcp", "mcp_types", "sky"}


def loads_torch(module: str) -> bool:
    """Whether a module may import a heavy library when it is itself imported."""
    return room_of(module) == "evaluate" or module.endswith(("_torch", "_mlx", "_textual"))


class Import:
    """One import: the module, the line, whether it runs when the file is loaded, whether it only serves types."""

    def __init__(self, file: Path, module: str, line: int, *, at_load: bool, types_only: bool) -> None:
        self.module, self.at_load, self.types_only = module, at_load, types_only
        self.where = f"{file.relative_to(ROOT)}:{line}"


def module_name(file: Path) -> str:
    """`afina/train/backend_torch.py` -> `afina.train.backend_torch`; a package is called after its folder."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def imports_of(file: Path) -> Iterator[Import]:
    """Every import of a file, in functions too. `from afina.train import schedule` counts as the module."""

    def visit(node: ast.AST, at_load: bool, types_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            at_load = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            types_only = True
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write relative imports out"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.append(whole if whole in MODULES else str(node.module))
        for name in names:
            yield Import(file, name, node.lineno, at_load=at_load, types_only=types_only)  # type: ignore[attr-defined]
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):  # no expression holds an import
                yield from visit(child, at_load, types_only)

    yield from visit(tree_of(file), True, False)


@cache
def all_imports() -> dict[str, list[Import]]:
    """Module -> what it imports."""
    return {name: list(imports_of(file)) for name, file in MODULES.items()}


def room_of(module: str) -> str:
    """`afina.train.backend_torch` -> `train`; the package itself has no room: it holds the version and nothing else.
    `python -m afina` is the command line. A folder within a room
    is a room where the table says so: `afina.dataset.build.split` -> `dataset.build`."""
    inner = ".".join(module.split(".")[1:3])
    if inner in INSIDE:
        return inner
    return module.split(".")[1].replace("__main__", "cli") if "." in module else ""


def test_the_walk_over_the_imports_sees_them() -> None:
    """The tests below would pass on an empty list."""
    assert len(FILES) > 30
    found = {each.module: each for each in all_imports()["afina.train.backend_torch"]}
    assert found["torch"].at_load
    assert "afina.train.ranks" in found
    assert not next(
        each
        for each in all_imports()["afina.cli.opened"]
        if each.module == "afina.walk.context" and not each.types_only
    ).at_load


def test_the_table_has_no_cycle() -> None:
    """Each row names only rows above it."""
    above: set[str] = set()
    for room, allowed in INSIDE.items():
        assert {name if name in INSIDE else name.split(".")[0] for name in allowed} - {room} <= above, room
        above.add(room)


def test_rooms_import_only_what_the_table_allows() -> None:
    wrong = []
    for name, imports in all_imports().items():
        room = room_of(name)
        for each in imports:
            if each.module == "afina" or not each.module.startswith("afina."):
                continue
            assert room in INSIDE, f"{name}: the room {room!r} stands in no row of the table"
            target = room_of(each.module)
            short = each.module.removeprefix("afina.")
            if target != room and target not in INSIDE[room] and short not in INSIDE[room]:
                wrong.append(f"{each.where}: {room} may not import {each.module}")
    assert not wrong, "\n".join(wrong)


def test_rooms_use_only_their_libraries() -> None:
    wrong = []
    for name, imports in all_imports().items():
        room = room_of(name)
        for each in imports:
            library = each.module.split(".")[0]
            if library == "afina" or library in sys.stdlib_module_names:
                continue
            if library not in LIBRARIES.get(room, set()):
                wrong.append(f"{each.where}: {room or 'the package itself'} may not use {library}")
            elif library in HEAVY and each.at_load and not each.types_only and not loads_torch(name):
                wrong.append(f"{each.where}: load {library} inside the function that uses it")
    assert not wrong, "\n".join(wrong)


def test_no_import_cycle_between_files() -> None:
    """Imports inside functions count as well, and those for the type checker: two files that name each other's types
    cannot be read apart."""
    graph = {
        name: {each.module for each in imports if each.module in MODULES} - {name}
        for name, imports in all_imports().items()
    }
    assert find_cycle(graph) is None


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """A cycle of the graph, or None."""
    done: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for following in sorted(graph[name]):
            if found := follow(following, [*path, name]):
                return found
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := follow(name, []))), None)


def test_find_cycle() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def private_names(tree: ast.AST) -> set[str]:
    """Names with one leading underscore that a file defines: functions, classes, variables, attributes."""
    names: set[str] = set()
    for node in nodes_of(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return {name for name in names if is_private(name)}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def reached_into(tree: ast.AST, elsewhere: set[str]) -> Iterator[tuple[int, str]]:
    """Line and text of every private name of another file that a file uses."""
    foreign = elsewhere - private_names(tree)
    for node in nodes_of(tree):
        if isinstance(node, ast.Attribute) and node.attr in foreign:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and any(is_private(alias.name) for alias in node.names):
            yield node.lineno, ast.unparse(node)


def test_nobody_uses_private_names_of_another_file() -> None:
    defined = set().union(*(private_names(tree_of(file)) for file in FILES))
    assert len(defined) > 300, "the names were not found"
    defined -= {"_compiled_call_impl"}  # torch's, set by us in one file and read in another
    found = ((file, line, text) for file in FILES for line, text in reached_into(tree_of(file), defined))
    wrong = [f"{file.relative_to(ROOT)}:{line}: {text}" for file, line, text in found]
    assert not wrong, "\n".join(wrong)


def test_reaching_into_another_file_is_noticed() -> None:
    reached = reached_into(
        ast.parse("walk._rows\nself._own = 1; self._own\nfrom afina.run import _more"), {"_rows", "_own"}
    )
    assert sorted(reached) == [(1, "walk._rows"), (3, "from afina.run import _more")]


def wall_clock_differences(tree: ast.AST) -> Iterator[int]:
    """Lines on which the time of day is subtracted, or something from it: a duration that a set clock makes wrong."""
    stamped: set[str] = set()
    for node in nodes_of(tree):
        if isinstance(node, ast.Assign) and "time.time()" in ast.unparse(node.value):
            targets = [target for each in node.targets for target in getattr(each, "elts", [each])]
            values = getattr(node.value, "elts", [node.value])
            pairs = zip(targets, values, strict=len(targets) == len(values))
            stamped |= {ast.unparse(target) for target, value in pairs if "time.time()" in ast.unparse(value)}
    for node in nodes_of(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            for side in (node.left, node.right):
                if "time.time()" in ast.unparse(side) or ast.unparse(side) in stamped:
                    yield node.lineno


def test_durations_are_not_taken_by_the_time_of_day() -> None:
    """A clock that is set back would give minus a day, and a budget that never ends; use ``time.monotonic``."""
    asking = [file for file in FILES if "time.time()" in file.read_text(encoding="utf-8")]
    wrong = [f"{file.relative_to(ROOT)}:{line}" for file in asking for line in wall_clock_differences(tree_of(file))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a = time.time()\nb = time.time() - a", [2, 2]),
        ("a, b = time.time(), time.monotonic()\nc = time.monotonic() - b", []),
        ("a, b = time.time(), time.monotonic()\nc = now() - a", [2]),
    ],
)
def test_a_duration_by_the_time_of_day_is_noticed(text: str, lines: list[int]) -> None:
    assert list(wall_clock_differences(ast.parse(text))) == lines


OWN_LIMIT = re.compile(
    r"(monotonic|perf_counter|process_time)\(\) (\+|- \w+ <)|\b(wait|communicate)\((timeout=)?\d{1,4}\)"
    r"|\b(ours|theirs|took|worked|seconds|elapsed)\)* <=? \d[\d.]*(?![\d.]| ?\*)"
)
"""A number of seconds within which something has to have happened; many times what else took is none."""


def test_no_test_has_a_limit_of_seconds_of_its_own() -> None:
    """On a busy machine any number of them passes. What has to come is waited for by `waiting.until`; what must not
    take long is compared with what else was measured there."""
    lines = {
        f"{file.name}:{number}": line
        for file in sorted((ROOT / "tests").rglob("*.py"))
        if file.name != "waiting.py"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if not line.endswith("  # one")
    }
    wrong = [f"{place}: {line.strip()}" for place, line in lines.items() if OWN_LIMIT.search(line)]
    assert not wrong, "\n".join(wrong)
    for line in (
        "end = time.monotonic() + 60",  # one
        "assert time.monotonic() - began < 5",  # one
        "process.wait(timeout=20)",  # one
        "assert min(ours) - min(theirs) < 0.25, (ours, theirs)",  # one
    ):
        assert OWN_LIMIT.search(line)
    assert not OWN_LIMIT.search("assert min(ours) < 0.8 * min(theirs)")


def test_folders_outlive_no_process() -> None:
    """One that a kill, a fork or `os._exit` leaves in the system's temporary folder stays there for good: after days of
    tests there were hundreds. What `afina.temporary.temporary_folder` makes is cleared by the next one; tests take
    theirs of pytest, or `held_folder` where others than their user have to enter."""
    makers = ("tempfile.mkdtemp", "mkdtemp", "tempfile.TemporaryDirectory", "TemporaryDirectory")
    bare = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for name, file in MODULES.items()
        if name != "afina.temporary"
        for node in nodes_of(tree_of(file))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in makers
        if "dir" not in {keyword.arg for keyword in node.keywords}
    ]
    assert not bare, "\n".join(bare)
    files = [file for room in ("afina", "tests") for file in (ROOT / room).rglob("*.py")]
    making = {file.name for file in files if re.search(r"\bmkdtemp\(", file.read_text(encoding="utf-8"))}
    assert making == {"temporary.py"}


def test_files_that_only_their_process_would_write_again_are_named_by_one_owner() -> None:
    """A kill leaves such a file for good, of a base gigabytes; `own_partial` holds a lock by which the next is told."""
    own = {name for name, file in MODULES.items() if re.search(r"getpid\(\).*partial", file.read_text("utf-8"))}
    assert own == {"afina.whole"}


def test_what_the_tests_note_lies_where_pytest_clears_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert Path(os.environ["AFINA_HOME"]).parent == tmp_path_factory.getbasetemp()


def test_a_port_for_a_server_comes_from_one_place() -> None:
    """One that the system gives out by itself may be another program's when the server takes it."""
    files = [file for room in ("afina", "benchmarks", "tests") for file in sorted((ROOT / room).rglob("*.py"))]
    asking = {file.name for file in files if re.search(r"\.bind\(\(.*, 0\)\)", file.read_text(encoding="utf-8"))}
    assert asking == {"test_serve_identity.py", "test_machine.py"}, "these keep it themselves"


PARSES_JSON: dict[str, str] = {
    "afina.run": "`parse_json` is the owner",
    "afina.recipe.start_from": "stands below the owner; what is wrong is named there",
    "afina.plan.tables": "afina's own table, a part of the package",
    "afina.plan.calibration": "the same",
    "afina.recipe.profiles": "the same",
    "afina.evaluate.derive": "the same: questions",
    "afina.evaluate.safety.sets": "the same",
    "afina.evaluate.safety.toxicity": "the same",
    "afina.model.adapter_torch": "PEFT wrote it a moment ago",
    "afina.dataset.build.build": "lines that this build has written",
    "afina.endpoint.cache": "an answer may hold half a character; a line that cannot be read is passed over",
    "afina.endpoint.client": "what an endpoint answers",
    "afina.endpoint.answers": "what a model answers",
    "afina.sources.repository": "what may be no JSON, which its reader then says",
    "afina.sources.tables": "people's rows, each refused with its line",
    "afina.text.lines": "a document's own notes, in memory",
    "afina.train.ranks": "what the processes of one training tell each other",
    "afina.sandbox.launcher": "what the process inside the isolation says",
    "afina.sandbox.isolation_inside": "a script of the standard library alone, started by the launcher",
    "afina.llamacpp.gguf_vocab": "what the tokenizers library gives",
    "afina.tokenizer.pieces": "the same",
    "afina.llamacpp.completion": "a form that the server has written",
    "afina.serve.llamacpp_driver": "what llama.cpp answers",
}
"""Who calls ``json.loads``, and why it is no file that may be damaged."""
PARSES_YAML = {"afina.recipe.yaml_text", "afina.recipe.edit", "afina.recipe.starter", "afina.recipe.parts"}
"""Who calls ruamel: the owner, and who writes."""


def calls_of(tree: ast.Module, *names: str) -> list[int]:
    """Lines that call one of these names."""
    ends = {name.rpartition(".")[2] for name in names}  # looked at first: to write a name out takes time
    called = (node.func for node in nodes_of(tree) if isinstance(node, ast.Call))
    likely = (each for each in called if getattr(each, "attr", getattr(each, "id", None)) in ends)
    return [each.lineno for each in likely if ast.unparse(each) in names]


def test_files_are_parsed_by_their_owners() -> None:
    """A file of a run or a base may be damaged: `run.parse_json`, `read_mapping`, `record.Record` and
    `recipe.yaml_text.parse_yaml` name it, the bare parsers raise what nobody expects."""
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {instead}"
        for name, file in MODULES.items()
        for owners, parsers, instead in (
            (PARSES_JSON, ("json.loads", "json.load"), "read it by afina.run or afina.record"),
            (PARSES_YAML, ("YAML",), "read it by afina.recipe.yaml_text"),
        )
        if name not in owners
        for line in calls_of(tree_of(file), *parsers)
    ]
    assert not wrong, "\n".join(wrong)
    needless = [name for name in PARSES_JSON if "json.load" not in MODULES[name].read_text(encoding="utf-8")]
    assert not needless, f"named as exceptions, and parse no JSON: {needless}"


def test_a_home_is_replaced_by_its_owner() -> None:
    """`~nobody/x`, or `~` where the system knows no such user, as in a container, raises what nobody expects."""
    bare = [
        f"{file.relative_to(ROOT)}:{node.lineno}: afina.recipe.home.from_home"
        for name, file in MODULES.items()
        if name != "afina.recipe.home"
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Attribute) and node.attr == "expanduser"
    ]
    assert not bare, "\n".join(bare)
    assert "expanduser" in MODULES["afina.recipe.home"].read_text(encoding="utf-8")


def test_a_bare_parser_is_noticed() -> None:
    text = "a = json.loads(file.read_text())\nb = [json.load(o) for o in os]\nc = json.dumps(1)"
    assert calls_of(ast.parse(text), "json.loads", "json.load") == [1, 2]


OPENS_FOLDERS: dict[str, str] = {
    "afina.tokenizer.load": "`open_tokenizer`",
    "afina.model.load_torch": "`open_by` of models and configurations, `open_adapter` of PEFT's folders",
    "afina.model.gguf_torch": "a GGUF, refused by its file's name; `load_torch` stands above it",
    "afina.model.shape_walk_torch": "a configuration; what is wrong with it is said by the kind of model",
}
"""Who has a library open a folder of a model, and by which function for everyone else."""


def openings(tree: ast.Module) -> list[int]:
    """Lines that call a ``from_pretrained``."""
    called = (node.func for node in nodes_of(tree) if isinstance(node, ast.Call))
    return [each.lineno for each in called if isinstance(each, ast.Attribute) and each.attr == "from_pretrained"]


def test_libraries_open_folders_through_one_reader_each() -> None:
    """A folder of a base, a run or an export may be damaged: transformers and PEFT then raise whatever comes of it."""
    found = {name: openings(tree_of(file)) for name, file in MODULES.items()}
    wrong = [f"{name}: line {line}" for name, lines in found.items() if name not in OPENS_FOLDERS for line in lines]
    assert not wrong, "open it by one of " + ", ".join(OPENS_FOLDERS) + ":\n" + "\n".join(wrong)
    assert all(found[name] for name in OPENS_FOLDERS)


def test_a_bare_opening_is_noticed() -> None:
    assert openings(ast.parse("a = AutoConfig.from_pretrained(folder)\nb = 'x.from_pretrained(y)'")) == [1]


def test_architecture_shows_the_same_table() -> None:
    """Each row of the table stands in docs/architecture.md as | `room` | imports | libraries |."""
    rows = {}
    for line in (ROOT / "docs/architecture.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and re.fullmatch(r"`[a-z_.]+`", cells[0]):
            rows[cells[0].strip("`")] = [set(re.findall(r"`([\w.]+)`", cell)) for cell in cells[1:]]
    for room, allowed in INSIDE.items():
        assert room in rows, f"docs/architecture.md has no row for {room}"
        shown, libraries = rows[room]
        assert shown == allowed or room in IN_WORDS, f"docs/architecture.md, {room}"
        assert libraries == LIBRARIES.get(room, set()), f"docs/architecture.md, libraries of {room}"
    assert set(rows) == set(INSIDE)


LINES, PARAMETERS = 80, 10
MORE_IS_MEANT = {
    "afina.cli.export.export": "a verb's options are its parameters",
    "afina.cli.judging.score": "a verb's options are its parameters",
    "afina.cli.launching.launch": "a verb's options are its parameters",
    "afina.cli.training.plan": "a verb's options are its parameters",
    "afina.cli.using.serve": "a verb's options are its parameters",
}
"""Functions beyond the limits, each with the reason why it is read more easily so."""


def functions_of(module: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method of a module, with its dotted name."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{child.name}", child
            inside = f"{name}.{child.name}" if hasattr(child, "name") else name
            yield from visit(child, inside)

    yield from visit(tree_of(MODULES[module]), module)


def test_functions_can_be_read_at_a_glance() -> None:
    """At most 80 lines and 10 parameters: a long function does more than one thing. A long file is only a hint."""
    beyond = {}
    for module in MODULES:
        for name, node in functions_of(module):
            lines = (node.end_lineno or 0) - node.lineno + 1
            given = node.args
            parameters = len([*given.posonlyargs, *given.args, *given.kwonlyargs]) - (
                1 if given.args and given.args[0].arg in ("self", "cls") else 0
            )
            if lines > LINES or parameters > PARAMETERS:
                beyond[name] = f"{lines} lines, {parameters} parameters"
    assert len(MORE_IS_MEANT) <= 5, "a handful"
    assert set(beyond) == set(MORE_IS_MEANT), beyond


def test_no_class_name_stands_twice() -> None:
    """A reader who searches for a class finds one."""
    named: dict[str, list[str]] = {}
    for module, file in MODULES.items():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.ClassDef):
                named.setdefault(node.name, []).append(f"{module}:{node.lineno}")
    assert len(named) > 200
    assert not {name: places for name, places in named.items() if len(places) > 1}


def test_no_module_is_called_after_nothing() -> None:
    """A name must say what is inside."""
    named = {file.stem for file in FILES} | {file.parent.name for file in FILES}
    assert not named & {"utils", "util", "common", "helpers", "misc"}


def test_public_names_have_docstrings() -> None:
    missing = []
    for file in FILES:
        tree = tree_of(file)
        about = ast.get_docstring(tree)
        if tree.body and not about:
            missing.append(f"{file.relative_to(ROOT)}: the module")
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            # The error tree is drawn once, at the top of its file.
            drawn = file.name == "errors.py" and node.name in (about or "")
            if not ast.get_docstring(node) and not drawn:
                missing.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not missing, "\n".join(missing)


def run_afina(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The installed command, as a user starts it."""
    return subprocess.run(
        [str(AFINA), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", **variables},
        check=False,
    )


def processor_seconds(command: list[str]) -> tuple[float, str]:
    """What a command takes of a processor's time, and what it prints: on a busy machine the clock on the wall says
    more of the other programs."""
    before = os.times()
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    after = os.times()
    took = after.children_user - before.children_user + after.children_system - before.children_system
    return took, shown.stdout


OF_A_HELP = "import typer, typer.rich_utils, rich.table"


def imported(said: str) -> set[str]:
    """The modules in what Python says of its imports on stderr."""
    return {line.rpartition("|")[2].strip() for line in said.splitlines() if line.startswith("import time:")}


def test_help_loads_typer_and_rich_and_nothing_else() -> None:
    """It is instant by what it does not load: the same on every machine, however busy."""
    shown = run_afina("--help", PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0 and "Usage: afina" in shown.stdout
    bare = subprocess.run(
        [sys.executable, "-c", OF_A_HELP],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )
    ours, theirs = imported(shown.stderr), imported(bare.stderr)
    assert {"typer", "rich.table"} <= theirs, "the list of imports was not understood"
    libraries = ({name.split(".")[0] for name in each} - sys.stdlib_module_names for each in (ours, theirs))
    more, known = ({name for name in each if find_spec(name)} for each in libraries)
    assert more - known - {"sitecustomize"} == {"afina"}


def test_help_is_instant() -> None:
    """Not twice what loading typer and rich takes, the quickest of three each, in turn: where every core is busy, as
    with tests in several processes, both take half as long again."""
    ours, theirs = [], []
    for _ in range(3):
        theirs.append(processor_seconds([sys.executable, "-c", OF_A_HELP])[0])
        took, shown = processor_seconds([str(AFINA), "--help"])
        ours.append(took)
        assert "Usage: afina" in shown
    assert min(ours) < 2 * min(theirs), (ours, theirs)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["plan", "--help"],
        ["recipe", "schema"],
        ["recipe", "init", "docs"],
    ],
    ids=" ".join,
)
def test_light_verbs_load_no_heavy_library(words: list[str]) -> None:
    shown = run_afina(*words, PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0, shown.stderr[-500:]
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in shown.stderr.splitlines()}
    assert "typer" in loaded, "the list of imports was not understood"
    assert not loaded & HEAVY
    if "--help" in words:
        assert not loaded & {"markdown_it", "pygments", "attr"}, "what typer imports for no help of ours"


OF_A_PLAN = {
    "annotated_doc",
    "annotated_types",
    "filelock",
    "pydantic",
    "pydantic_core",
    "ruamel",
    "shellingham",
    "typer",
}
OF_A_PLAN |= {"typing_extensions", "typing_inspection"}


def test_a_plan_loads_the_readers_of_its_command_line_and_recipe_alone(tmp_path: Path) -> None:
    """Each further library is a tenth of what a plan takes, or more."""
    base = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    base |= {"intermediate_size": 96, "vocab_size": 128, "max_position_embeddings": 512}
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text(json.dumps(base))
    (tmp_path / "base/tokenizer.json").write_text('{"model": {"vocab": {}}, "added_tokens": []}')
    (tmp_path / "a.md").write_text("# Ada\n\nAda opened the valve.")
    (tmp_path / "recipe.yaml").write_text("name: a\nbase: base\nsources: [{path: a.md}]\ntrain: {max_length: 64}\n")
    shown = run_afina("plan", str(tmp_path / "recipe.yaml"), PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0 and "fits" in shown.stdout, shown.stderr[-500:]
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in shown.stderr.splitlines() if "|" in line}
    own = {name for name in loaded - sys.stdlib_module_names - {"sitecustomize"} if not name.startswith("_")}
    assert "typer" in own, "the list of imports was not understood"
    assert {name for name in own - OF_A_PLAN if find_spec(name)} == {"afina"}


def test_plan_and_report_load_no_heavy_library() -> None:
    """They run on a machine without torch; seen from outside, as an import may hide behind another."""
    modules = [
        name for name in MODULES if room_of(name) in ("plan", "report", "sources", "text", "sandbox", "endpoint")
    ]
    modules += [name for name in MODULES if room_of(name) in ("watch", "plot") and not loads_torch(name)]
    modules += [name for name in MODULES if name.startswith("afina.dataset")]
    modules = [name for name in modules if not loads_torch(name)]
    code = "import sys, importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in modules)
    code += f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- the README and the command reference


def shell_lines(text: str) -> list[str]:
    """Commands in the ```sh blocks of a Markdown text, without remarks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def parse_afina(words: list[str]) -> Any:
    """Parse a command line as `afina` would, without running it; typer's own error says what is wrong.

    Returns:
        typer's context of the verb.
    """
    from typer.main import get_command

    from afina.cli import app

    command: Any = get_command(app)
    name = "afina"
    while hasattr(command, "commands"):
        assert words, f"{name} needs a verb"
        assert words[0] in command.commands, f"{name} has no verb {words[0]!r}"
        name, command, words = f"{name} {words[0]}", command.commands[words[0]], words[1:]
    return command.make_context(name, list(words))


READMES = ("README.md", "README.pt-BR.md")


def commands_in_readme() -> list[str]:
    lines: list[str] = []
    for name in READMES:
        readme = (ROOT / name).read_text(encoding="utf-8")
        lines += [line.partition(" #")[0].strip() for line in shell_lines(readme)]
    return [line for line in dict.fromkeys(lines) if line.split()[0] in ("afina", "make")]


def test_readme_commands_are_found() -> None:
    assert {"make demo", "make test"} <= set(commands_in_readme())
    assert sum(line.startswith("afina ") for line in commands_in_readme()) >= 6


@pytest.mark.parametrize("line", commands_in_readme())
def test_readme_command_exists(line: str) -> None:
    program, *words = shlex.split(line)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words) <= set(targets)
    else:
        parse_afina(words)


def test_a_command_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no verb 'tune'"):
        parse_afina(["tune", "x.yaml"])
    with pytest.raises(Exception, match="--fast"):
        parse_afina(["run", "x.yaml", "--fast"])


def heading_anchors(page: str) -> set[str]:
    """The anchors that GitHub gives the headings of a Markdown page.

    >>> sorted(heading_anchors("# The verdict\\n\\n## What is `base:`?"))
    ['the-verdict', 'what-is-base']
    """
    prose = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#{1,6} +(.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [*(ROOT / name for name in READMES), *sorted((ROOT / "docs").rglob("*.md"))]:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose)):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            place = (page.parent / path).resolve() if path else page
            there = place.exists() and (not anchor or anchor in heading_anchors(place.read_text(encoding="utf-8")))
            broken += [] if there else [f"{page.relative_to(ROOT)}: {target}"]
    assert not broken


def test_the_table_of_verbs_is_whole() -> None:
    from typer.main import get_command

    from afina.cli import app

    page = (ROOT / "docs/verbs.md").read_text(encoding="utf-8")
    verbs = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        verbs += [f"{name} {inner}" for inner in command.commands] if hasattr(command, "commands") else [name]
    missing = [verb for verb in verbs if f"| `afina {verb}" not in page]
    assert not missing, f"docs/verbs.md lacks {missing}"


def test_command_reference_is_current() -> None:
    """docs/cli.md is generated; `make docs` writes it again."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "afina.cli", "utils", "docs", "--name", "afina"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8").strip() == done.stdout.strip(), "run `make docs`"


def test_changelog_names_this_version() -> None:
    from afina import __version__

    assert __version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
