"""Tasks of code: finding it in answers, compiling and running it, pass@k, both models."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lxml import html as lxml_html
from test_code_check import HERE, needs_shared, needs_zig
from test_code_check import SHARED as DATA
from tiny import make_base, make_recipe, make_rows

from afina.errors import DataError, RecipeError
from afina.evaluate import code_answers
from afina.evaluate.code_answers import Judged, check_compilers, code_of, judge_answers
from afina.evaluate.code_task import CodeAnswers, code_metrics, pass_at_k, score_code
from afina.evaluate.scores import Scores
from afina.evaluate.task_table import describe_tasks
from afina.evaluate.tasks import measure_tasks, read_tasks
from afina.model.generate.generate_torch import Answer
from afina.recipe import Check, Code, Task, check_recipe, load_recipe, read_checks
from afina.record import Record
from afina.report.page import write_report
from afina.sandbox import launcher as sandbox
from afina.text.code_blocks import fenced_blocks

ROOT = Path(__file__).parent.parent
missing = sandbox.isolation_missing()
isolated = pytest.mark.skipif(bool(missing), reason=f"code cannot be isolated here: {missing}")
PYTHON = Code(language="python", compiler=HERE, run=True, seconds=120)
"""What must last for a program that ends by itself: on a slow machine too."""
ADD = "def add(a, b):\n    return a + b\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))


def fenced(code: str, language: str = "python") -> str:
    return f"Here it is:\n\n```{language}\n{code}```\n"


def judge(code: str, *checks: dict, task: Code = PYTHON) -> Judged:
    return judge_answers([(fenced(code, task.language), read_checks(list(checks)))], task, "task")[0]


# ---- which code


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("No.", ""),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1\n", "x = 1\n"),  # cut off in the middle of it
        ("```\nx = 1\n```", "x = 1\n"),
        ("```sh\npip install x\n```", ""),
        ("```python\nx = 1\n```\n```\nwhat it prints, which is longer\n```", "x = 1\n"),
        ("```python\nimport os\n```\nor\n```python\nx = 1  # a longer snippet\n```", "import os\n"),
        ("import os\nos.getcwd()", "import os\nos.getcwd()\n"),
    ],
)
def test_code_of_an_answer(answer: str, code: str) -> None:
    assert code_of(answer, "python") == code


# ---- what becomes of it


@isolated
@pytest.mark.parametrize(
    ("code", "check", "result", "why"),
    [
        ("print(input()[::-1])\n", {"stdin": "abc\n", "stdout": "cba"}, "right", ""),
        ("print(input())\n", {"stdin": "abc\n", "stdout": "cba"}, "wrong output", "it printed 'abc\\n' where 'cba'"),
        ("import sys\nprint(*sys.argv[1:])\n", {"args": ["a b", "c"], "stdout": "a b c\n\n"}, "right", ""),
        ("print(open('d/a.txt').read())\n", {"files": {"d/a.txt": "x"}, "contains": ["x"]}, "right", ""),
        ("print(open('a.txt').read())\n", {"lacks": ["Error"], "exit": 1}, "wrong output", "must not stand in"),
        ("raise SystemExit(3)\n", {"exit": 3}, "right", ""),
        ("raise SystemExit(3)\n", {}, "wrong output", "exit code 3 where 0 is right"),
        ("open('o', 'w').write('1')\n", {"writes": {"o": "1\n"}}, "right", ""),
        ("open('o', 'w').write('1')\n", {"writes": {"o": "2"}}, "wrong output", "o holds '1'"),
        ("import os\nos.remove('o')\n", {"files": {"o": "2"}, "writes": {"o": "2"}}, "wrong output", "left no file o"),
        (ADD, {"test": "assert add(2, 3) == 5"}, "right", ""),
        (ADD, {"test": "assert add(2, 3) == 6, 'six'"}, "wrong output", "AssertionError: six"),
        (ADD + "raise SystemExit\n", {"test": "assert add(2, 3) == 6"}, "wrong output", "ended before its test"),
        ("import os\nos._exit(0)\n", {"test": "assert add(2, 3) == 6"}, "wrong output", "ended before its test"),
        ("while True: pass\n", {"stdout": "x"}, "wrong output", "not finished after 1 s"),
        ("import socket\nsocket.socket()\n", {}, "wrong output", "exit code 1"),
        ("print('a'\n", {"stdout": "x"}, "does not compile", "main.py"),
    ],
)
def test_results(code: str, check: dict, result: str, why: str) -> None:
    brief = PYTHON.model_copy(update={"seconds": 1.0}) if "while True" in code else PYTHON
    found = judge(code, check, task=brief)
    assert found.result == result and why in found.lines, found


@isolated
def test_all_checks_must_hold_and_the_first_that_does_not_is_named() -> None:
    doubled = "print(2 * int(input()))\n"
    found = judge(doubled, {"stdin": "1", "stdout": "2"}, {"stdin": "2", "stdout": "5"}, {"stdin": "x"})
    assert found.lines.startswith("check 2 of 3: it printed '4\\n' where '5' is right")


@isolated
def test_a_run_sees_nothing_of_the_one_before() -> None:
    code = "import os\nprint(sorted(os.listdir('.')))\nopen('left', 'w').write('x')\n"
    same = {"stdout": "['main.py']"}
    assert judge(code, same, same).result == "right"


@isolated
def test_without_run_nothing_of_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_answers, "run_limited", lambda *_, **__: pytest.fail("ran"))
    assert judge("print(1)\n", {"stdout": "2"}, task=Code(language="python", compiler=HERE)).result == "compiles"
    assert judge("print(1)\n").result == "compiles", "no checks, nothing to run for"


@isolated
def test_the_same_code_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = code_answers.run_limited
    monkeypatch.setattr(code_answers, "run_limited", lambda *a, **k: started.append(1) or real(*a, **k))
    answers = [(fenced("print(1)\n"), read_checks([{"stdout": "1"}]))] * 5
    assert [each.result for each in judge_answers(answers, PYTHON, "task")] == ["right"] * 5 and len(started) == 1


@isolated
def test_any_command_of_the_recipe() -> None:
    shell = Code(language="sh", compiler="sh -n {file}", start="sh {file}", run=True)
    assert judge("read x; echo $((x + 1))\n", {"stdin": "41\n", "stdout": "42"}, task=shell).result == "right"
    assert judge("if\n", {"stdout": "42"}, task=shell).result == "does not compile"


@isolated
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_what_a_command_compiled_is_run() -> None:
    c = Code(language="c", compiler="gcc -o a.out {file}", start="./a.out", product="a.out", run=True)
    assert judge('#include <stdio.h>\nint main(void) { puts("x"); }\n', {"stdout": "x"}, task=c).result == "right"
    assert "main.c:1" in judge("int main(void) { return }\n", {}, task=c).lines


def test_without_isolation_the_recipe_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "isolation_missing", lambda: "no namespaces")
    monkeypatch.setattr(sandbox.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(RecipeError, match=r"evaluate\.tasks\.0\.code: code cannot be isolated .* no namespaces"):
        check_compilers(recipe_with(tmp_path, tmp_path))
    with pytest.raises(RecipeError, match="never runs unprotected"):
        judge("print(1)\n", {"stdout": "1"})


# ---- pass@k


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    choices = list(itertools.combinations([1] * right + [0] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, choices)) / len(choices))
    assert pass_at_k(n, right, k) == pytest.approx(1 - math.comb(n - right, k) / math.comb(n, k))


def test_pass_at_k_of_many_samples() -> None:
    """As the paper computes it: 1 - prod(1 - k / arange(n - c + 1, n + 1))."""
    import numpy

    for right in (1, 17, 120):
        expected = 1 - numpy.prod(1 - 100 / numpy.arange(200 - right + 1, 201))
        assert pass_at_k(200, right, 100) == pytest.approx(expected)
    with pytest.raises(ValueError, match="pass@3 of 2"):
        pass_at_k(2, 1, 3)


# ---- recipes and rows


def recipe_with(folder: Path, base: Path | str, **code: object):
    task = Task(
        name="sums",
        path="sums.jsonl",
        sample=None,
        seeds=[1],
        max_new_tokens=4,
        code=Code(**({"language": "python", "compiler": HERE, "run": True} | code)),  # type: ignore[arg-type]
    )
    recipe = make_recipe(base, root=str(folder))
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"tasks": [task]})})


def write(folder: Path, rows: list[dict]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "sums.jsonl").write_text(text, encoding="utf-8")


ROWS = [
    {"prompt": "Add two numbers.", "checks": [{"test": "assert add(1, 2) == 3"}]},
    {"prompt": "Print one.", "checks": [{"stdout": "1"}]},
    {"prompt": "Write any program.", "checks": []},
]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x", "checks": [{"stdot": "1"}]}, "checks.0.stdot: no such key"),
        (
            {"prompt": "x", "checks": [{"files": {"../x": "1"}}]},
            "'../x' is not the name of a file in the working folder",
        ),
        ({"prompt": "x", "checks": [{"files": {"/etc/x": "1"}}]}, "is not the name of a file"),
        ({"prompt": "x", "checks": [{"writes": {"a/b": "1"}}]}, "only files of the working folder itself"),
        ({"prompt": "x", "checks": [{"test": "t", "stdout": "1"}]}, "a check with `test` has no stdout"),
        ({"prompt": "x"}, "no column `checks`"),
        ({"prompt": "x", "checks": {"stdout": "1"}}, "checks: Input should be a valid list"),
    ],
)
def test_a_row_that_is_wrong_is_named_with_its_line(tmp_path: Path, row: dict, said: str) -> None:
    write(tmp_path, [ROWS[0], row])
    with pytest.raises(DataError) as error:
        read_tasks(recipe_with(tmp_path, "tiny"), [])
    assert said in str(error.value) and "sums.jsonl:2" in str(error.value)


def test_a_task_of_code_needs_checks(tmp_path: Path) -> None:
    write(tmp_path, [{"prompt": "x", "reference": "y"}])
    with pytest.raises(RecipeError, match="no column `checks`"):
        read_tasks(recipe_with(tmp_path, "tiny"), [])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"samples": 2, "pass_at": [1, 5]}, "pass@5 needs as many samples, there are 2"),
        ({"compiler": "gcc {file}", "run": True}, "`start` says how"),
        ({"start": "python main.py"}, "`start` belongs to a compiler that is a command line"),
        ({"readable": ["lib"]}, "'lib' is not an absolute path"),
    ],
)
def test_what_a_recipe_may_not_say(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("`", ".")):
        Code(**({"language": "python", "compiler": HERE} | values))


def test_a_task_of_code_has_no_metrics_of_text() -> None:
    with pytest.raises(ValueError, match="has no metrics"):
        Task(name="x", path="x", metrics=["f1"], code=Code(language="python", compiler=HERE))


def test_the_recipe_and_the_rows_of_the_documentation(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    (_, recipe, _), (_, rows, _) = fenced_blocks((ROOT / "docs/code.md").read_text(encoding="utf-8"))
    raw = YAML(typ="safe", pure=True).load(recipe)
    (tmp_path / "docs").mkdir()
    (tmp_path / "programs.jsonl").write_text(rows, encoding="utf-8")
    (task,) = read_tasks(check_recipe({**raw, "root": str(tmp_path)}), [])
    assert task.metrics == ("compiles", "right", "pass@1", "pass@5", "pass@10") and len(task.checks) == 2


def test_a_file_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# A\n")
    write(tmp_path, ROWS)
    task = "{name: x, path: sums.jsonl, code: {language: python, compiler: '3.11'}}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: x\nbase: a/b\nroot: docs\nsources: [{{path: a.md}}]\nevaluate:\n  tasks: [{task}]\n")
    assert load_recipe(recipe).evaluate.tasks[0].path == str(tmp_path / "sums.jsonl")


# ---- both models


def answer(text: str) -> Answer:
    return Answer(text, 1, stopped=True)


@isolated
def test_two_models_and_their_samples(tmp_path: Path) -> None:
    """By hand: greedily the base has 0, 1 and 0 right, the adapter 1, 1 and 0 (a row without checks is never right);
    of two samples to the first prompt the adapter has one right."""
    write(tmp_path, ROWS)
    (task,) = read_tasks(recipe_with(tmp_path, "tiny", samples=2, pass_at=[1, 2]), [])
    assert task.metrics == ("compiles", "right", "pass@1", "pass@2") == code_metrics(task.task.code)
    good, bad, one = fenced(ADD), fenced(ADD.replace("+", "-")), fenced("print(1)\n")
    nothing = [answer("I can do that.")] * 2
    base = CodeAnswers([answer(bad), answer(one), answer("No.")], [nothing, [answer(one)] * 2, nothing])
    trained = CodeAnswers(
        [answer(good), answer(one), answer(one)], [[answer(good), answer(bad)], [answer(one)] * 2, nothing]
    )
    found, rows = score_code(task, [base, trained], "task")
    before, after = found["code"]["results"]["before"], found["code"]["results"]["after"]
    assert before == {"no code": 1, "does not compile": 0, "compiles": 0, "wrong output": 1, "right": 1}
    assert after == {"no code": 0, "does not compile": 0, "compiles": 1, "wrong output": 0, "right": 2}
    metrics = {each["name"]: each for each in found["metrics"]}
    means = {name: (each["before"]["mean"], each["after"]["mean"]) for name, each in metrics.items()}
    assert means == {
        "compiles": pytest.approx((2 / 3, 1.0)),
        "right": pytest.approx((1 / 3, 2 / 3)),
        "pass@1": pytest.approx((1 / 3, 1.5 / 3)),
        "pass@2": pytest.approx((1 / 3, 2 / 3)),
    }
    assert metrics["right"]["difference"]["low"] <= 1 / 3 <= metrics["right"]["difference"]["high"]
    assert (rows[0]["base_result"], rows[0]["adapter_result"]) == ("wrong output", "right")
    assert "AssertionError" in rows[0]["base_lines"] and rows[0]["adapter_scores"]["pass@1"] == 0.5
    assert [each["result"] for each in rows[0]["adapter_samples"]] == ["right", "wrong output"]


@isolated
def test_the_whole_task_with_a_model(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    base = make_base(tmp_path / "base")
    recipe = recipe_with(tmp_path, base, samples=3, pass_at=[1, 3])
    from afina.model.load_torch import load_base

    model = load_base(base, recipe, torch.device("cpu")).eval()
    _, renderer = make_rows(base, recipe)
    opened = lambda: __import__("contextlib").nullcontext(model)  # noqa: E731
    tasks = read_tasks(recipe, [])
    (found,) = measure_tasks(tasks, opened, opened, renderer, recipe, tmp_path)
    assert sum(found["code"]["results"]["after"].values()) == 3
    rows = [json.loads(line) for line in (tmp_path / "task_predictions.jsonl").open(encoding="utf-8")]
    assert [row["checks"] for row in rows] == [row["checks"] for row in ROWS]
    samples = [each["text"] for each in rows[0]["base_samples"]]
    assert len(set(samples)) > 1, "samples differ"
    assert rows[0]["adapter_samples"] == rows[0]["base_samples"], "and follow from the seed"
    scores = {"verdict": {"learned": "no", "broke": "nothing", "passed": True}, "tasks": [found], "intrinsic": None}
    text = "\n".join(describe_tasks(Scores.of(Record(scores, "scores.json"))))
    assert "python, " + HERE in text and "run isolated" in text and "pass@3" in text
    (tmp_path / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    page = lxml_html.fromstring(write_report(tmp_path).read_text(encoding="utf-8"))
    shown = " ".join(page.get_element_by_id("tasks").text_content().split())
    assert "no code" in shown and "3 samples a prompt at temperature 0.8" in shown and "pass@3" in shown


# ---- Zig: the experiment's chat program

CHAT = """\
const std = @import("std");

pub fn main() !void {
    const allocator = std.heap.page_allocator;
    const in = std.io.getStdIn().reader();
    const out = std.io.getStdOut().writer();
    while (try in.readUntilDelimiterOrEofAlloc(allocator, '\\n', 4096)) |line| {
        if (std.mem.eql(u8, line, "/quit")) return;
        if (std.mem.eql(u8, line, "/list")) {
            var folder = try std.fs.cwd().openDir(".", .{ .iterate = true });
            defer folder.close();
            var entries = folder.iterate();
            while (try entries.next()) |entry| try out.print("{s}\\n", .{entry.name});
        } else if (std.mem.startsWith(u8, line, "/cat ")) {
            const text = std.fs.cwd().readFileAlloc(allocator, line["/cat ".len..], 1 << 20) catch |err| {
                try out.print("cannot read it: {s}\\n", .{@errorName(err)});
                continue;
            };
            try out.writeAll(text);
        } else {
            try out.print("unknown command: {s}\\n", .{line});
        }
    }
}
"""
COUNT = """\
const std = @import("std");

pub fn countWords(allocator: std.mem.Allocator, text: []const u8) !std.StringHashMap(usize) {
    var counts = std.StringHashMap(usize).init(allocator);
    var words = std.mem.tokenizeScalar(u8, text, ' ');
    while (words.next()) |word| {
        const found = try counts.getOrPut(word);
        found.value_ptr.* = if (found.found_existing) found.value_ptr.* + 1 else 1;
    }
    return counts;
}
"""


def zig_task() -> tuple[Code, list[tuple[Check, ...]]]:
    from ruamel.yaml import YAML

    raw = YAML(typ="safe", pure=True).load((ROOT / "recipes/zig-0.14.yaml").read_text(encoding="utf-8"))
    task = Task.model_validate(raw["evaluate"]["tasks"][0])
    assert task.code is not None
    rows = (ROOT / "recipes" / task.path).read_text(encoding="utf-8").splitlines()
    return task.code.model_copy(update={"seconds": 120.0}), [
        tuple(read_checks(json.loads(row)["checks"])) for row in rows
    ]


@pytest.mark.long
@isolated
@needs_zig
def test_the_chat_program_is_judged_by_running_it() -> None:
    code, (chat, *_) = zig_task()
    goes_on = CHAT.replace('"/quit")) return;', '"/quit")) continue;')
    answers = [(CHAT, chat), (goes_on, chat)]
    right, wrong = judge_answers([(fenced(text, "zig"), checks) for text, checks in answers], code, "task")
    assert (right.result, wrong.result) == ("right", "wrong output"), (right, wrong)
    assert wrong.lines.startswith("check 4 of 5: 'Buy rope.' must not stand in what it printed")


@isolated
@needs_zig
@pytest.mark.long
def test_a_zig_function_is_judged_by_its_test() -> None:
    code, (*_, words) = zig_task()
    early = COUNT + "test { std.process.exit(0); }\n"
    answers = [(COUNT, words), (early, words)]
    right, wrong = judge_answers([(fenced(text, "zig"), checks) for text, checks in answers], code, "task")
    assert (right.result, wrong.result) == ("right", "wrong output"), (right, wrong)
    assert wrong.lines == "check 1 of 1: it ended before its test did"


@isolated
@needs_zig
@needs_shared
def test_what_the_experiments_model_wrote_does_not_compile() -> None:
    code, (chat, *_) = zig_task()
    text = (DATA / "zig/generated-chat-program.zig").read_text(encoding="utf-8")
    (found,) = judge_answers([(fenced(text, "zig"), chat)], code, "task")
    assert found.result == "does not compile"
    assert found.lines.startswith("main.zig:23:69: error: expected 'an identifier', found 'a string literal'")


@isolated
@needs_zig
def test_compiling_zig_shows_no_file_of_ours(tmp_path: Path) -> None:
    """C's preprocessor would show what it includes."""
    (tmp_path / "secret.h").write_text("my secret words\n")
    include = f'const c = @cImport(@cInclude("{tmp_path}/secret.h"));\npub fn main() void {{ _ = c.x; }}\n'
    code = Code(language="zig", compiler="ziglang==0.14.0")
    (found,) = judge_answers([(fenced(include, "zig"), ())], code, "task")
    assert found.result == "does not compile" and "my secret words" not in found.lines
    assert "file not found" in found.lines
