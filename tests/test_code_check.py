"""Code and its compiler: what is wrong, what only lacks something, what proves nothing; limits; the recipe's policy."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import LONGEST, longer

from afina.dataset.audit.audit import audit_dataset, audit_files
from afina.dataset.build.build import build_dataset
from afina.errors import DataError, RecipeError
from afina.recipe import Dataset, Recipe, Source
from afina.run import no_progress
from afina.sandbox import code_check, compilers
from afina.sandbox import launcher as sandbox
from afina.sandbox.code_check import Checked, check_blocks, first_lines, judge
from afina.sandbox.compilers import find_compilers, parse_choices
from afina.sandbox.launcher import ProgramLimits, ProgramOutcome, network_cut, run_limited
from afina.text.code_blocks import CodeBlock, claims_to_be_whole, fenced_blocks, open_fence, without_fences

SHARED = Path(__file__).parents[2] / "shared" / "data"
HERE = "{}.{}".format(*sys.version_info[:2])
ZIG = {"zig": "ziglang==0.14.0"}
needs_zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs the package ziglang")
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))


def block(code: str, language: str = "python", *, whole: bool = True, after: str = "") -> CodeBlock:
    return CodeBlock(language, code, "a.md", 1, whole, after)


def results(blocks: list[CodeBlock], wanted: dict[str, str]) -> list[Checked]:
    return list(check_blocks(blocks, wanted))


# ---- blocks


def test_blocks_with_their_language_and_line():
    text = "One.\n\n```zig title=a\nconst a = 1;\n```\n\n- item\n  ~~~py\n  x = 1\n    y\n  ~~~\n\n```\nplain\n```\n"
    assert list(fenced_blocks(text)) == [
        ("zig", "const a = 1;\n", 4),
        ("python", "x = 1\n  y\n", 9),
        ("", "plain\n", 14),
    ]


def test_a_longer_fence_holds_a_shorter_one():
    text = "````md\n```zig\na\n```\n````\n"
    assert list(fenced_blocks(text)) == [("md", "```zig\na\n```\n", 2)]
    assert open_fence(text) is None and without_fences(text).strip() == ""


def test_what_is_not_meant_to_build_has_no_language():
    assert [language for language, *_ in fenced_blocks("```rust,ignore\na\n```\n```diff\nb\n```")] == ["", ""]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["```", "```zig", "~~~", "````", "a", "  b", ""]), max_size=12))
def test_every_line_is_code_or_text_or_fence(lines: list[str]):
    text = "\n".join(lines)
    code = sum(block.count("\n") for _, block, _ in fenced_blocks(text))
    kept = sum(bool(line) for line in without_fences(text).split("\n"))
    assert code + kept <= len(lines)
    assert len(without_fences(text).split("\n")) == len(text.split("\n"))
    closed = open_fence(text) is None
    assert closed or list(fenced_blocks(text))


def test_what_claims_to_be_a_whole_file():
    assert claims_to_be_whole("pub fn main() void {}", "zig") and not claims_to_be_whole("fn add() void {}", "zig")
    assert claims_to_be_whole("import os\n", "python") and not claims_to_be_whole("return 1", "python")
    assert claims_to_be_whole("int main(void) {}", "c") and not claims_to_be_whole("x += 1;", "c")


# ---- what a compiler's answer means


@pytest.mark.parametrize(
    ("output", "result"),
    [
        ("main.zig:3:25: error: no module named 'simargs' available within module main", "lacks_dependency"),
        ("main.zig:5:11: error: C import failed\nx.h:1:1: error: 'sqlite3.h' file not found", "lacks_dependency"),
        ("main.zig:5:11: error: C import failed\nx.h:1:1: error: expected ';'", "wrong"),
        ("main.zig:1:9: error: unable to load './a.zig': FileNotFound", "lacks_dependency"),
        ("a.go:3:8: no required module provides package github.com/a/b; to add it:", "lacks_dependency"),
        ("a.c:1:10: fatal error: mysql.h: No such file or directory", "lacks_dependency"),
        ("error[E0432]: unresolved import `serde`", "lacks_dependency"),
        ("a.zig:1:1: error: no module named 'x'\na.zig:2:1: error: expected ';'", "wrong"),
        ("a.go:3:8: syntax error", "wrong"),
        ("", "wrong"),
    ],
)
def test_a_missing_dependency_is_told_from_an_error(output: str, result: str):
    assert judge(ProgramOutcome(1, output)) == result


def test_kept_lines_are_few():
    assert len(first_lines("a: error: no\n" * 99).splitlines()) == 13


# ---- Python and command lines


def test_python_results():
    checked = results(
        [
            block("import os\nprint(os.name)\n"),
            block("import os\nprint('a'\n"),
            block("def f(:\n", whole=False),
            block("import no_such_module\n"),
        ],
        {"python": HERE},
    )
    assert [item.result for item in checked] == ["ok", "wrong", "fragment", "ok"]  # nothing is imported
    assert "SyntaxError: '(' was never closed" in checked[1].lines and "main.py" in checked[1].lines


def test_code_that_fails_as_its_text_says_is_fine():
    checked = results([block("print('a'\n", after="SyntaxError: '(' was never closed")], {"python": HERE})
    assert checked[0].result == "ok" and checked[0].lines.startswith("fails as the text says")


def test_nothing_of_the_code_runs(tmp_path: Path):
    mark = tmp_path / "ran"
    results([block(f"open({str(mark)!r}, 'w').write('x')\n")], {"python": HERE})
    assert not mark.exists()


def test_a_command_line_with_a_file():
    command = f"{sys.executable} -m json.tool {{file}}"
    checked = results([block("[1]", "json"), block("[1", "json"), block("x", "json", whole=False)], {"json": command})
    assert [item.result for item in checked] == ["ok", "wrong", "fragment"]


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("python", "3.99", "no python3.99 here"),
        ("go", "no-such-gofmt -e {file}", "'no-such-gofmt' is not here"),
        ("go", "1.22", "names no compiler for go"),
    ],
)
def test_a_compiler_that_is_not_here(tmp_path: Path, language: str, text: str, said: str):
    with pytest.raises(RecipeError, match=said) as raised:
        find_compilers({language: text}, tmp_path)
    assert raised.value.problems[0].where == f"dataset.check_code.{language}"


def test_all_missing_compilers_at_once(tmp_path: Path):
    with pytest.raises(RecipeError) as raised:
        find_compilers({"python": "3.99", "go": "1.22"}, tmp_path)
    assert len(raised.value.problems) == 2


def test_no_network_and_no_compiler_says_what_to_run(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RecipeError, match=r"could not be fetched.*\n.*pip install ziglang==0\.14\.0"):
        find_compilers(ZIG, tmp_path)
    assert [each.name for each in (tmp_path / "cache").iterdir()] == ["ziglang-0.14.0.lock"]  # nothing half-made


def test_two_that_fetch_a_compiler_at_once_both_have_all_of_it(tmp_path: Path, monkeypatch):
    """Two audits of one machine shared the folder that it is filled in: the second emptied it under the first."""
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda _: None)
    begun, targets = threading.Event(), []

    def pip(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        package = Path(words[words.index("--target") + 1]) / "ziglang"
        targets.append(package)
        package.mkdir()
        begun.set()
        time.sleep(0.2)  # in which the other one comes
        (package / "zig").touch()
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(compilers.subprocess, "run", pip)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(compilers._ziglang, "0.14.0", no_progress, "")
        assert begun.wait(LONGEST)
        second = pool.submit(compilers._ziglang, "0.14.0", no_progress, "")
        assert first.result() == second.result() and first.result().is_file()
    assert len(targets) == 1


def test_choices_of_a_command_line():
    with pytest.raises(RecipeError, match="names no compiler"):
        parse_choices(["zig"])


# ---- limits


CHILD = """
import fcntl, os, time
held = open("held", "w")
fcntl.flock(held, fcntl.LOCK_EX)
os.rename("held", "begun")
while not os.path.exists("go"):
    time.sleep(0.02)
open("answered", "w")
"""
"""Holds a lock as long as it is there, and answers when it is told to go on: then it is there."""


def test_an_endless_program_is_ended_with_all_that_it_started(tmp_path: Path):
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {CHILD!r}])\ntime.sleep(600)"
    for seconds in longer():
        outcome = run_limited([sys.executable, "-c", code], tmp_path, ProgramLimits(seconds=seconds))
        assert outcome.stopped == f"not finished after {seconds:g} s"
        if (tmp_path / "begun").exists():
            break
    (tmp_path / "go").touch()
    with (tmp_path / "begun").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # which has to wait for a child that was left, until that has answered
    assert not (tmp_path / "answered").exists()


def test_memory_is_bounded(tmp_path: Path):
    limits = ProgramLimits(memory_bytes=512 << 20)
    outcome = run_limited([sys.executable, "-c", "b = bytearray(2 << 30)"], tmp_path, limits)
    assert outcome.code != 0
    assert "GiB needed" in outcome.stopped or sys.platform == "darwin"


def test_the_environment_names_nothing_of_the_user(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("https_proxy", "http://proxy")
    said = run_limited([sys.executable, "-c", "import os; print(dict(os.environ))"], tmp_path, ProgramLimits()).output
    assert "secret" not in said and "proxy" not in said and str(tmp_path) in said


@pytest.mark.skipif(not network_cut(), reason="this system does not permit `unshare --net`")
def test_there_is_no_network(tmp_path: Path):
    code = "import socket; socket.create_connection(('127.0.0.1', PORT), 2)"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        code = code.replace("PORT", str(server.getsockname()[1]))
        assert run_limited([sys.executable, "-c", code], tmp_path, ProgramLimits()).code != 0


def test_a_timeout_is_a_result_and_is_not_kept(monkeypatch):
    command = f"{sys.executable} -c 'import time; time.sleep(9)' {{file}}"
    (checked,) = check_blocks([block("x", "slow")], {"slow": command}, limits=ProgramLimits(seconds=0.3))
    assert (checked.result, checked.lines) == ("timeout", "not finished after 0.3 s")
    assert not list(compilers.compiler_cache().rglob("*.jsonl"))


def test_a_second_run_starts_nothing(monkeypatch):
    blocks = [block("x = 1\n"), block("x = (\n")]
    first = results(blocks, {"python": HERE})
    monkeypatch.setattr(code_check, "run_limited", lambda *_, **__: pytest.fail("started again"))
    assert results(blocks, {"python": HERE}) == first


def test_without_a_place_to_keep_results_code_is_checked_all_the_same(tmp_path: Path, monkeypatch):
    """They save time, and nothing else: a folder that cannot be written ended the build."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "file"))
    assert [each.result for each in results([block("x = 1\n"), block("x = (\n")], {"python": HERE})] == ["ok", "wrong"]
    monkeypatch.setattr(code_check, "user_cache", lambda: None)
    assert results([block("x = 1\n")], {"python": HERE})[0].result == "ok"


def test_a_damaged_result_is_made_again():
    results([block("x = 1\n")], {"python": HERE})
    (kept,) = compilers.compiler_cache().rglob("*.jsonl")
    kept.write_text(kept.read_text()[:20])
    assert results([block("x = 1\n")], {"python": HERE})[0].result == "ok"


# ---- the recipe's policy

PAGE = "# Page\n\nGood:\n\n```python\nimport os\n```\n\n## Bad\n\nBad:\n\n```python\nimport os (\n```\n"


def project(folder: Path, policy: str) -> Recipe:
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs/page.md").write_text(PAGE, encoding="utf-8")
    long = "".join(f"def f{n}():\n    return {n}\n\n\n" for n in range(60))
    (folder / "docs/long.py").write_text(long + "def broken(:\n", encoding="utf-8")
    (folder / "docs/fine.py").write_text(long, encoding="utf-8")
    answer = "So:\n\n```python\nimport os\nos.(\n```"
    rows = [{"prompt": "How?", "completion": answer}, {"prompt": "Why?", "completion": "Because."}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Recipe(
        name="x",
        base="b",
        root=str(folder),
        sources=[Source(path="docs"), Source(path="rows.jsonl")],
        dataset=Dataset(check_code={"python": HERE}, on_wrong_code=policy, section_chars=200, validation=0.0),  # type: ignore[arg-type]
    )


def test_wrong_code_is_dropped_with_its_compilers_lines(tmp_path: Path):
    recipe = project(tmp_path, "drop")
    summary = build_dataset(recipe, tmp_path / "dataset")
    dropped = [json.loads(line) for line in (tmp_path / "dataset/dropped.jsonl").open()]
    wrong = [row for row in dropped if row["reason"] == "wrong_code"]
    places = {row["where"].rpartition(":")[0] for row in wrong}
    assert places == {"docs/page.md", "docs/long.py", "rows.jsonl"}
    assert all("SyntaxError" in row["lines"] for row in wrong)
    assert sum(row["where"].startswith("docs/page.md") for row in wrong) == 1  # the other section stays
    kept = [json.loads(line) for line in (tmp_path / "dataset/train.jsonl").open()]
    assert {row["from"]["path"] for row in kept} == {"docs/page.md", "docs/fine.py", "rows.jsonl"}
    assert summary["balanced"] and summary["code"] == {"python": {"ok": 2, "wrong": 3}}
    assert not [item for item in audit_dataset(tmp_path / "dataset", recipe).findings if item.name == "code_wrong"]


def test_wrong_code_is_kept_and_reported(tmp_path: Path):
    recipe = project(tmp_path, "keep")
    build_dataset(recipe, tmp_path / "dataset")
    (finding,) = [i for i in audit_dataset(tmp_path / "dataset", recipe).findings if i.name == "code_wrong"]
    assert (finding.severity, finding.count, finding.of) == ("fatal", 3, 5)
    assert {item["where"] for item in finding.examples} == {"docs/page.md:14", "docs/long.py:1", "rows.jsonl:1"}


def test_wrong_code_stops_it_with_every_place(tmp_path: Path):
    with pytest.raises(DataError, match="refuses this code") as raised:
        build_dataset(project(tmp_path, "error"), tmp_path / "dataset")
    assert {item.where for item in raised.value.problems} == {"docs/page.md:14", "docs/long.py:1", "rows.jsonl:1"}
    assert not (tmp_path / "dataset").exists()


def test_without_check_code_nothing_is_started(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sandbox.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    recipe = project(tmp_path, "drop")
    recipe = recipe.model_copy(update={"dataset": recipe.dataset.model_copy(update={"check_code": {}})})
    assert build_dataset(recipe, tmp_path / "dataset")["code"] == {}


# ---- Zig


@needs_zig
def test_zig_results():
    ok = 'const std = @import("std");\npub fn main() void {\n    std.debug.print("x", .{});\n}\n'
    unused = 'const std = @import("std");\npub fn f() u8 {\n    return std.no_such_name;\n}\n'
    checked = results(
        [
            block(ok, "zig"),
            block(unused, "zig"),  # what nobody calls is looked at too
            block('const std = @import("std");\ntest { const a: u8 = "b"; _ = a; }', "zig"),
            block("x += 1;\n", "zig", whole=False),
            block("fn add(a: u8) u8 {\n    return a + 1;\n}\n", "zig", whole=False),
            block('const a = @import("other.zig");\npub const b = a.c;', "zig"),
            block('const c = @cImport(@cInclude("stdio.h"));\npub fn main() void {\n    _ = c.puts("a");\n}', "zig"),
        ],
        ZIG,
    )
    assert [item.result for item in checked] == ["ok", "wrong", "wrong", "fragment", "ok", "lacks_dependency", "ok"]
    assert "main.zig:3:15: error:" in checked[1].lines and "/" not in checked[1].lines.splitlines()[0]


@needs_zig
@needs_shared
@pytest.mark.long
def test_the_cookbook_builds_but_for_five_that_lack_something():
    """`zig ast-check` passes all 35; the audit's own report of the folder and of the model's program."""
    zig = SHARED / "zig"
    findings = {
        item.name: item
        for item in audit_files([zig / "cookbook/src", zig / "generated-chat-program.zig"], check_code=ZIG).findings
    }
    assert (findings["code_checked"].count, findings["code_checked"].of) == (30, 36)
    lacking = findings["code_lacks_dependency"]
    assert lacking.severity == "note"
    assert [Path(item["where"].partition(":")[0]).stem for item in lacking.examples] == [
        "13-01", "14-01", "14-02", "14-03", "15-01"
    ]  # fmt: skip
    missing = ["no module named 'simargs'", "'sqlite3.h'", "'libpq-fe.h'", "'mysql.h'", "'regex_slim.h'"]
    assert all(name in item["lines"] for name, item in zip(missing, lacking.examples, strict=True))
    (program,) = findings["code_wrong"].examples
    assert program["where"].endswith("generated-chat-program.zig:1")
    assert program["lines"].startswith("main.zig:23:69: error: expected 'an identifier', found 'a string literal'")
    assert findings["code_wrong"].severity == "warning"  # 1 of 36
