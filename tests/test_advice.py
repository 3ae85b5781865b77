"""No dead ends: what afina advises exists, and done to what caused it, it makes the message go away or another one."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from advice_register import FOLLOWED, NOT_FOLLOWED
from advice_sites import ADVICE_AT, HOLE, Advice, every_advice, every_text
from advised import SETTING
from ruamel.yaml import YAML

from afina.cli.verbs import app
from afina.errors import AfinaError, Problem
from afina.recipe.keys import every_key

ROOT = Path(__file__).parent.parent
NO_KEYS = ("json", "jsonl", "html", "completion", "chunk")
"""Behind the dot they are files, and OpenAI's objects."""
NO_VALUE = ("NAME", "...", HOLE, "{profile}")


@cache
def known_keys() -> dict[str, Any]:
    """Dotted path of each key of a recipe, without the marks of lists -> the key."""
    return {key.path.replace("[]", ""): key for key in every_key()}


@cache
def verbs() -> dict[str, Any]:
    """`data build` -> its command."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}": inner[each] for each in inner} if inner else {name: command}
    return found


def commands_in(text: str) -> list[list[str]]:
    """The command lines of afina that a text names, without `afina`."""
    if "afina " not in text:
        return []
    found = re.findall(r"`afina ([^`]*)`", text)
    known = "|".join(sorted(verbs(), key=len, reverse=True))
    found += re.findall(rf"(?<![`\w])afina ((?:{known})\b(?: (?:{HOLE}|-|[A-Z/])[^,;()`]*)?)", text)
    return [shlex.split(each) for each in found]


def wrong_command(words: list[str]) -> str:
    """What is wrong with a command line; empty where nothing is."""
    name = next((each for each in (" ".join(words[:2]), " ".join(words[:1])) if each in verbs()), None)
    if name is None:
        return "no such verb"
    command = verbs()[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]
    places = sum(1 if each.nargs > 0 else 99 for each in command.params if each.param_type_name == "argument")
    given = len([word for word in words[name.count(" ") + 1 :] if not word.startswith("-")])
    return f"no option {unknown[0]}" if unknown else "too many arguments" if given > places + len(words) / 2 else ""


def keys_in(text: str) -> list[tuple[str, str]]:
    """Dotted keys of a recipe that a text names, with the value behind a colon (empty where it names none)."""
    parts = "|".join(sorted({path.partition(".")[0] for path in known_keys() if "." in path}))
    pattern = rf"(?<![\w./\[])((?:{parts})(?:\.[a-z][a-z0-9_]*)+)(?![\w./(])(?:(?:: |=)(\[[^\]]*\]|[^\s`,;)]+))?"
    found = [] if ">>>" in text else re.findall(pattern, text)
    return [each for each in found if each[0].rpartition(".")[2] not in NO_KEYS]


def wrong_key(path: str, value: str) -> str:
    """What is wrong with a key and its value; empty where nothing is."""
    key = known_keys().get(path)
    if key is None:
        inside = known_keys().get(path.rpartition(".")[0])
        return "" if inside is not None and "object" in str(inside.schema) else "no such key"
    if not value or any(each in value for each in NO_VALUE) or key.part is not None:
        return ""
    from pydantic import TypeAdapter, ValidationError

    try:
        field = key.field
        TypeAdapter(field.rebuild_annotation()).validate_python(YAML(typ="safe", pure=True).load(value.rstrip(".:")))
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    return ""


def complaints(check: Any) -> list[str]:
    return [f"{advice}: {said}" for advice in every_text() for said in check(advice) if said]


def test_every_command_that_a_message_names_is_one():
    """`afina data show --tokens`: the verb, and each option of it."""

    def check(advice: Advice) -> list[str]:
        return [wrong_command(words) for words in commands_in(advice.text)]

    assert complaints(check) == []
    assert wrong_command(["data", "shows"]) and wrong_command(["plan", "--al"]) and not wrong_command(["plan", "--all"])


def test_every_key_and_value_that_a_message_names_is_one():
    """`dataset.on_wrong_code: drop`: the key is in the schema, and takes the value."""

    def check(advice: Advice) -> list[str]:
        return [wrong_key(*each) for each in keys_in(advice.text)]

    assert complaints(check) == []
    assert wrong_key("train.epoch", "") and wrong_key("chat.marks_in_text", "text") and wrong_key("train.epochs", "x")


def test_every_option_that_a_message_names_is_one_of_some_verb():
    options = {each for command in verbs().values() for param in command.params for each in param.opts}
    options |= {each for command in verbs().values() for param in command.params for each in param.secondary_opts}

    def check(advice: Advice) -> list[str]:
        spoken = [each for each in re.findall(r"(?<![\w-])--[a-z][a-z-]+", advice.text) if " " in advice.text]
        return [f"no option {each}" for each in spoken if each not in options | OTHER_PROGRAMS]

    assert complaints(check) == []


OTHER_PROGRAMS = frozenset({
    "--help", "--jinja", "--lora", "--map-tokens", "--merge",
    "--model", "--no-deps", "--nproc-per-node", "--security-opt",
    "--temp", "--upgrade",
    "--quiet", "--disable-pip-version-check", "--python", "--seed",  # pip and uv, in the scripts of a launch
    "--repo-type", "--revision", "--local-dir",  # hf download
    "--local-addr", "--max-restarts", "--nnodes", "--rdzv-backend", "--rdzv-conf", "--rdzv-endpoint", "--rdzv-id",
    "--standalone",
})  # fmt: skip
"""Options of other programs' commands that messages hold."""


def test_every_document_and_extra_that_a_message_names_is_there():
    """`docs/scaling.md`, `pip install 'afina[gguf]'`."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    def check(advice: Advice) -> list[str]:
        files = [each for each in re.findall(r"docs/[\w-]+\.md", advice.text) if not (ROOT / each).is_file()]
        missing = [each for each in re.findall(r"afina\[([\w-]+)\]", advice.text) if each not in extras]
        return [f"there is no {each}" for each in (*files, *missing)]

    assert complaints(check) == []


SETTINGS = {
    # what causes a message about a recipe -> what its words ask for
    "train.epoch=2": "train.epochs=2",
    "train.method=scratch": "train.method=scratch base=null",
    "train.method=dpo train.first={method:dpo}": "train.method=dpo train.first.method=sft",
    "adapter.variant=loftq": "adapter.variant=loftq adapter.kind=qlora",
    "adapter.variant=pissa adapter.kind=qlora": "adapter.variant=loftq adapter.kind=qlora",
    "adapter.kind=none adapter.variant=dora": "adapter.kind=none",
    "adapter.kind=qlora train.parallel=fsdp": "adapter.kind=qlora train.parallel=ddp",
    "base=null": "base=other",
    "scratch.vocab=200": "scratch.vocab=300",
    "scratch.hidden=100 scratch.heads=3": "scratch.hidden=99 scratch.heads=3",
    "dataset.datatrove.executor=slurm": "dataset.datatrove.executor=slurm dataset.datatrove.partition=gpu",
    "dataset.replay_share=1.0": "dataset.replay_share=0.5",
    "dataset.hold_out_phrasings=7": "dataset.hold_out_phrasings=3",
    "sources.0.kind=pairs": "sources.0.kind=pairs sources.0.solutions=.",
    "sources.0.stage=first": "sources.0.stage=first train.first.method=cpt",
    "sources.0.path=hf://a/b": f"sources.0.path=hf://a/b sources.0.revision='{'0' * 40}'",
    "sources.0.revision=main": "sources.0.revision=null",
    "train.trackers=[wandb,wandb]": "train.trackers=[wandb]",
    "sources.0.path=gone": "sources.0.path=.",
    "root=gone": "root=.",
    "base=/gone": "base=Qwen/Qwen3-8B",
    "train.epochs": "train.epochs=2",
    "sources.9.path=x": "sources.0.path=.",
    "train.trackers=[wandb": "train.trackers=[wandb]",
    "name=a/b": "name=ab",
}


@pytest.mark.parametrize("cause", SETTINGS)
def test_a_message_about_a_recipe_goes_away_with_what_it_asks_for(cause: str):
    from afina.recipe import recipe_of

    def said(settings: str) -> list[Problem]:
        try:
            recipe_of(settings.split())
        except AfinaError as error:
            return list(error.problems)
        return []

    problems = said(cause)
    assert problems and all(each.fix for each in problems)
    assert said(SETTINGS[cause]) == [], problems


def room(place: str) -> Any:
    """A function of the package, by its module and name; loaded when it is called."""
    module, _, name = place.rpartition(".")
    return lambda *given, **named: getattr(import_module(f"afina.{module}"), name)(*given, **named)


def kind_of_export(adapter: bool = True, **given: Any) -> None:
    """What an export looks at before it opens anything."""
    from types import SimpleNamespace

    from afina.export import export

    origin: Any = SimpleNamespace(adapter=Path("adapter") if adapter else None, precision=next(iter(export.SHORT)))
    options = export.ExportOptions(**given)
    export._kind(origin, export._holds(origin, options), options)


def columns(metrics: tuple[str, ...] = (), has_choices: bool = False, **named: Any) -> None:
    """What a scoring looks at before it reads a row."""
    from afina.score.columns import NamedColumns, choose_columns
    from afina.score.score import choose_metrics

    choose_columns(["question", "said", "right"], NamedColumns(**named), "rows.jsonl")
    choose_metrics(metrics, has_choices=has_choices)


named = {"predictions": ["said"], "reference": "right"}
ROOMS: dict[str, tuple[str, Any, list[Any]]] = {
    # advice as it stands in the source -> module, what causes it, what it asks for
    "did you mean …?": (
        "plan/device.py", lambda: room("plan.device.find_device")("RTX 409O"),
        [lambda: room("plan.device.find_device")("RTX 4090")]),
    "write one of them": (
        "plan/device.py", lambda: room("plan.device.find_device")("Apple M3 Max 65GB"),
        [lambda: room("plan.device.find_device")("Apple M3 Max 64GB")]),
    "write it like 7B, 350M or 140e9 as 140B": (
        "plan/scratch.py", lambda: room("plan.scratch.read_count")("seven", "--parameters"),
        [lambda each=each: room("plan.scratch.read_count")(each, "--parameters") for each in ("7B", "350M", "140B")]),
    "one of …": (
        "recipe/methods.py", lambda: room("recipe.methods.method_facts")("rlhf"),
        [lambda: room("recipe.methods.method_facts")("dpo")]),
    "docs: you have documents": (
        "recipe/starter.py", lambda: room("recipe.starter.starter")("help"),
        [lambda each=each: room("recipe.starter.starter")(each) for each in ("docs", "chat", "preference", "scratch")]),
    "write zig=ziglang==0.14.0": (
        "sandbox/compilers.py", lambda: room("sandbox.compilers.parse_choices")(["zig"]),
        [lambda: room("sandbox.compilers.parse_choices")(["zig=ziglang==0.14.0"])]),
    "choose … (none leaves every word in)": (
        "score/normalize.py", lambda: room("score.normalize.language_key")("xx"),
        [lambda: room("score.normalize.language_key")("none")]),
    "give --api-key (or AFINA_API_KEY), or stay with 127.0.0.1": (
        "serve/preflight.py", lambda: room("serve.preflight.check_address")("0.0.0.0", None),
        [lambda: room("serve.preflight.check_address")("0.0.0.0", "key"),
         lambda: room("serve.preflight.check_address")("127.0.0.1", None)]),
    "write scheme, host and port": (
        "serve/serve.py", lambda: room("serve.serve.check_origins")(["localhost"], "local"),
        [lambda: room("serve.serve.check_origins")(["http://localhost:3000"], "local"),
         lambda: room("serve.serve.check_origins")(["*"], "local")]),
    "--engine local": (
        "serve/serve.py", lambda: room("serve.serve.check_origins")(["*"], "vllm"),
        [lambda: room("serve.serve.check_origins")(["*"], "local")]),
    "write --adapter NAME=RUN": (
        "serve/serve.py", lambda: room("serve.serve.named_adapters")(["x"]),
        [lambda: room("serve.serve.named_adapters")(["x=."])]),
    "choose another name": (
        "serve/serve.py", lambda: room("serve.serve.named_adapters")(["x=.", "x=."]),
        [lambda: room("serve.serve.named_adapters")(["x=.", "y=."])]),
    "use …": (
        "serve/terminal_chat.py", lambda: room("serve.terminal_chat.Settings")().change("temprature", "1"),
        [lambda: room("serve.terminal_chat.Settings")().change("temperature", "1")]),
    "use … ": (
        "export/export.py", lambda: kind_of_export(to="ggf"), [lambda: kind_of_export(to="gguf")]),
    "--to … says what is written already": (
        "export/export.py", lambda: kind_of_export(to="gguf", merged=True), [lambda: kind_of_export(to="gguf")]),
    "use --to merged": (
        "export/export.py", lambda: kind_of_export(adapter=False, to="adapter"),
        [lambda: kind_of_export(adapter=False, to="merged")]),
    "leave --quantize out": (
        "export/export.py", lambda: kind_of_export(to="adapter", quantize="q8_0"),
        [lambda: kind_of_export(to="adapter")]),
    "use --to gguf or mlx": (
        "export/export.py", lambda: kind_of_export(to="merged", quantize="q8"),
        [lambda: kind_of_export(to="gguf", quantize="q8"), lambda: kind_of_export(to="mlx", quantize="q8")]),
    "use …, q8 or q4": (
        "export/export.py", lambda: kind_of_export(to="mlx", quantize="q5"),
        [lambda each=each: kind_of_export(to="mlx", quantize=each) for each in ("f16", "q8", "q4")]),
    "name it: --prediction COLUMN": (
        "score/columns.py", lambda: columns(reference="right"), [lambda: columns(**named)]),
    "name it: --reference COLUMN": (
        "score/columns.py", lambda: columns(predictions=["said"]), [lambda: columns(**named)]),
    "its columns: …": (
        "score/columns.py", lambda: columns(**named | {"by": "zzzz"}), [lambda: columns(**named)]),
    "did you mean `…`?": (
        "score/score.py", lambda: columns(("f11",), **named), [lambda: columns(("f1",), **named)]),
    "name them (--choices A,B,C,D), or give rows a column `choices`": (
        "score/score.py", lambda: columns(("accuracy",), **named), [lambda: columns(("accuracy",), True, **named)]),
    "name two folders: `afina compare RUN RUN`": (
        "report/compare.py", lambda: room("report.compare.compare_runs")([Path()]),
        [lambda: room("report.compare.compare_runs")([Path(), Path()])]),
}  # fmt: skip


@pytest.mark.parametrize("advice", ROOMS)
def test_a_message_of_a_room_goes_away_with_what_it_asks_for(advice: str):
    module, cause, done = ROOMS[advice]
    with pytest.raises(AfinaError) as raised:
        cause()
    problem = raised.value.problems[0]
    assert any("followed" in registered(each) for each in site_of(problem.fix, module)), problem
    for each in done:
        try:
            each()
        except AfinaError as error:
            assert all(left.what != problem.what for left in error.problems), error


def site_of(fix: str, module: str = "") -> list[Advice]:
    """Where a piece of advice is written."""
    return [each for each in every_advice() if module in ("", each.module) and pattern_of(each.text).search(fix)]


def pattern_of(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text.strip(HOLE)).replace(re.escape(HOLE), ".*"), re.DOTALL)


def test_the_epochs_that_a_plan_says_fit_do():
    """What every run costs, its start and its evaluation, does not shrink with them."""
    from test_plan import COUNT, recipe

    from afina.plan.bases import find_shape
    from afina.plan.check import check_plan
    from afina.plan.device import find_device
    from afina.plan.plan import plan_run

    def refused(hours: float, epochs: float) -> str:
        given = recipe(budget={"hours": hours}, train={"epochs": epochs})
        try:
            check_plan(plan_run(given, find_shape("Qwen/Qwen3-0.6B"), COUNT, find_device("RTX 4090")), given)
        except AfinaError as error:
            return error.problems[0].fix
        return ""

    plan = plan_run(recipe(), find_shape("Qwen/Qwen3-0.6B"), COUNT, find_device("RTX 4090"))
    numbers = []
    for share in (0.9, 0.7, 0.5, 0.01):
        hours = plan.time.low / 3600 * share
        fix = refused(hours, recipe().train.epochs)
        numbers += re.findall(r"train.epochs: ([\d.]+) fits", fix)
        if str(numbers[-1]) in fix:
            assert refused(hours, float(numbers[-1])) == "", fix
    assert len(numbers) in (2, 3), "where the rest alone takes longer, no number is named"
    assert "train.epochs" not in refused(1e-4, 3)


def test_a_price_makes_a_budget_in_money_a_bound():
    from test_plan import COUNT, CPU, recipe

    from afina.plan.bases import find_shape
    from afina.plan.check import check_plan
    from afina.plan.plan import plan_run

    def check(budget: dict[str, float]) -> None:
        given = recipe(budget=budget)
        check_plan(plan_run(given, find_shape("Qwen/Qwen3-0.6B"), COUNT, CPU), given)

    with pytest.raises(AfinaError, match=r"budget\.price_per_hour"):
        check({"money": 1e6})
    check({"money": 1e6, "price_per_hour": 0.1})


def test_a_run_that_lies_elsewhere_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`afina run RUN/recipe.yaml` alone would begin another run in ./runs, and the message would stay."""
    from afina.recipe import load_recipe
    from afina.run import again

    monkeypatch.chdir(tmp_path)
    for place in ("runs/x", "runs/copied", "elsewhere/x", "my place/other"):
        run = tmp_path / place
        run.mkdir(parents=True)
        recipe = "name: x\nroot: /\nbase: a/b\nsources: [{path: tmp}]\n"
        (run / "recipe.yaml").write_text(recipe, encoding="utf-8")
        words = shlex.split(again(run))[2:]
        runs = Path(words[words.index("--runs") + 1]) if "--runs" in words else Path("runs")
        named = [word for word in words[1:] if "=" in word]
        assert (runs / load_recipe(Path(words[0]), named).name).resolve() == run, words


def test_a_run_without_answers_is_told_what_makes_some(tmp_path: Path):
    """`afina eval` where it was never measured; a question where it was measured without any."""
    from afina.serve.identity import stored_answers

    def said() -> str:
        with pytest.raises(AfinaError) as raised:
            stored_answers(tmp_path)
        return raised.value.problems[0].fix

    def recipe(samples: int) -> None:
        text = f"name: x\nroot: .\nbase: a/b\nsources: [{{path: .}}]\nevaluate: {{samples: {samples}}}\n"
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")

    recipe(0)
    assert "afina eval" in said()
    (tmp_path / "scores.json").write_text("{}", encoding="utf-8")
    assert "afina eval" not in said() and "evaluate.samples=8" in said()
    recipe(8)
    assert "evaluate.samples" not in said() and "evaluate.probes" in said()
    row = {"prompt": "Onde?", "base": "Em", "adapter": "Fa", "adapter_stopped": False}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert [each.trained for each in stored_answers(tmp_path)[0]] == ["Fa"], "cut at the limit, as a server cuts it"


def test_a_config_alone_is_enough_for_a_plan_of_a_family_in_no_table(tmp_path):
    """As it is advised to who names a base that is not on this machine."""
    from transformers import OlmoConfig

    from afina.plan.bases import find_shape

    with pytest.raises(AfinaError) as raised:
        find_shape("nobody/strange-7b")
    assert "config.json is enough for a plan" in raised.value.problems[0].fix
    OlmoConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2).save_pretrained(
        tmp_path
    )
    assert find_shape(str(tmp_path)).depth == 2


def registered(advice: Advice) -> list[str]:
    """Where the register has a piece of advice: among the followed, or why it is not."""
    texts = FOLLOWED.get(advice.module, ())
    found = ["followed"] if any(text in advice.text for text in texts) else []
    names_a_setting = bool(SETTING.search(advice.text) or keys_in(advice.text))
    for why, patterns in NOT_FOLLOWED.items():
        for module, text in patterns:
            if (text or not names_a_setting) and re.match(module, advice.module) and re.search(text, advice.text):
                found.append(why)
    return found


def test_every_error_with_advice_is_looked_for():
    def below(kind: type) -> set[str]:
        return {kind.__name__, *(name for each in kind.__subclasses__() for name in below(each))}

    import afina.tokenizer.chat  # noqa: F401  (an error of its own stands there)

    assert {name for name in below(AfinaError) if not name.startswith("_")} <= {*ADVICE_AT}


def test_every_piece_of_advice_is_followed_or_it_is_said_why_not():
    """A new one: follow it in test_advice_walk.py or above, and note it in advice_register.py."""
    assert [str(each) for each in every_advice() if not registered(each)] == []


def test_the_register_holds_nothing_that_is_no_advice_any_more():
    stale = [
        f"{module}: {text}"
        for module, texts in FOLLOWED.items()
        for text in texts
        if not any(each.module == module and text in each.text for each in every_advice())
    ]
    stale += [
        f"{why}: {module} {text}"
        for why, patterns in NOT_FOLLOWED.items()
        for module, text in patterns
        if not any(re.match(module, each.module) and re.search(text, each.text) for each in every_advice())
    ]
    assert stale == []
