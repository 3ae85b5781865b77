"""The recipe: every mistake at once with its line, overrides, schema, the shipped recipes and starters."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from called import call_afina
from hypothesis import given
from hypothesis import strategies as st
from parsed import FILES, nodes_of, tree_of
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from afina.cli.keys import KEY_OF
from afina.errors import Problem, RecipeError
from afina.recipe import METHODS, Recipe, RecipePart, check_recipe, expand_path, load_recipe, nearest, recipe_schema
from afina.recipe.keys import every_key
from afina.recipe.profiles import resolve_profile
from afina.recipe.reference import reference
from afina.recipe.starter import starter
from afina.recipe.yaml_text import DEEPEST, parse_yaml

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared/data"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

SMALL = """\
name: small
base: someone/some-base
sources:
  - path: a.md
"""


def write(folder: Path, text: str = SMALL) -> Path:
    """A recipe beside the one document that it names."""
    (folder / "a.md").write_text("# A\n", encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    return recipe


def problems(folder: Path, text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


# ---- mistakes


def test_all_problems_at_once_each_with_its_line(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
name: small
base: someone/some-base
sources:
  - path: a.md
  - path: missing.md
train:
  learning_rte: 1.0e-4
  epochs: -1
evalute: {}
""",
    )
    file = tmp_path / "recipe.yaml"
    by_place = {problem.where: problem for problem in found}
    assert set(by_place) == {
        f"{file}:5: sources.1.path",
        f"{file}:7: train.learning_rte",
        f"{file}:8: train.epochs",
        f"{file}:9: evalute",
    }
    assert by_place[f"{file}:7: train.learning_rte"].fix == "did you mean `learning_rate`?"
    assert by_place[f"{file}:9: evalute"].fix == "did you mean `evaluate`?"
    assert "missing.md" in by_place[f"{file}:5: sources.1.path"].what
    assert "-1" in by_place[f"{file}:8: train.epochs"].what


def test_misspelt_key_inside_a_list_names_its_neighbours(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, SMALL + "    repaet: 2\n")
    assert found.where.endswith(":5: sources.0.repaet")
    assert found.fix == "did you mean `repeat`?"


def test_a_key_like_no_other_lists_the_known_ones(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, SMALL + "budget:\n  zzz: 1\n")
    assert found.fix == "known here: hours, price_per_hour, currency, money, anyway"


MAY_BE_EMPTY = {
    "chat.system": "no text", "budget.currency": "a bare number", "sources[].stem": "every name",
    "dataset.teacher.url": "the base itself", "evaluate.judge.criteria": "no criterion",
}  # fmt: skip
"""Texts of a recipe that name nothing, and what an empty one means."""


def test_every_name_and_path_of_a_recipe_names_something() -> None:
    """`base: ''` was the folder that one stood in, `path: ''` all of `root`."""
    asked = []
    for key in every_key():
        kinds = [each for each in key.schema.get("anyOf", [key.schema]) if each.get("type") == "string"]
        if not kinds or any("enum" in each or "const" in each for each in kinds) or key.path in MAY_BE_EMPTY:
            continue
        for empty in ("", " \t"):
            with pytest.raises(ValidationError) as refused:
                key.inside.model_validate({key.name: empty})
            assert key.name in {error["loc"][0] for error in refused.value.errors()}, key.path
        asked.append(key.path)
    assert {"base", "root", "start_from", "sources[].path", "evaluate.probes[].path", "safety.strings"} <= {*asked}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (SMALL.replace("someone/some-base", "''"), ":2: base"),
        (SMALL.replace("someone/some-base", "' '"), ":2: base"),
        (SMALL.replace("a.md", "''"), ":4: sources.0.path"),
        (SMALL + "root: ''", ":5: root"),
        (SMALL + "start_from: ' '", ":5: start_from"),
        (SMALL + "evaluate: {probes: [{path: '', role: recall}]}", ":5: evaluate.probes.0.path"),
        (SMALL + "evaluate: {prompts: ' '}", ":5: evaluate.prompts"),
        (SMALL + "chat: {template: ''}", ":5: chat.template"),
        (SMALL + "adapter: {modules_to_save: ['']}", ":5: adapter.modules_to_save.0"),
    ],
)
def test_an_empty_name_is_refused_at_its_key(tmp_path: Path, text: str, where: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.where == f"{tmp_path / 'recipe.yaml'}{where}"
    assert found.what == "is empty, and names nothing" and "take that out" in found.fix


@pytest.mark.parametrize(
    ("given", "said"), [("base=", "needs `base`"), ("base=''", "is empty"), ("root=''", "is empty")]
)
def test_an_empty_name_on_the_command_line_is_refused(tmp_path: Path, given: str, said: str) -> None:
    (found,) = problems(tmp_path, SMALL, given)
    assert said in found.what


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("name: a\nname: b\n", 2, "duplicate key"),
        ("name: [a\n", 2, "not YAML"),
        ("name: a\n\tbase: b\n", 2, "not YAML"),
        ("name: a\nbase: b\x07\n", 2, "not YAML"),
    ],
)
def test_broken_yaml_names_the_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.where == f"{tmp_path / 'recipe.yaml'}:{line}"
    assert what in found.what


@pytest.mark.parametrize("text", ["", "- a\n", "words\n", "null\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, text)
    assert "mapping" in found.what


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: época\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"not UTF-8 \(byte 6\)"):
        load_recipe(latin)


@pytest.mark.parametrize(
    ("more", "where", "what"),
    [
        ("train: {method: scratch}", "", "remove `base`"),
        ("train: {warmup: 1.5}", ":5: train.warmup", "1.5"),
        ("train: {epochs: 0}", ":5: train.epochs", "0"),
        ("train: {epochs: .nan}", ":5: train.epochs", "finite"),
        ("train: {learning_rate: .inf}", ":5: train.learning_rate", "finite"),
        ("adapter: {alpha: .inf}", ":5: adapter.alpha", "finite"),
        ("train: {max_length: 8}", ":5: train.max_length", "8"),
        ("train: {method: ppo}", ":5: train.method", "ppo"),
        ("train: {label_smoothing: 0.1}", ":5: train", "belongs to method dpo"),
        ("train: {method: cpt, first: {}}", ":5: train", "not before cpt"),
        ("train: {first: {method: sft}}", ":5: train", "more epochs"),
        ("    stage: first", "", "sources.0.stage needs `train.first`"),
        ("scratch: {hidden: 100, heads: 3}", ":5: scratch", "multiple of heads"),
        ("scratch: {heads: 4, kv_heads: 3}", ":5: scratch", "multiple of kv_heads"),
        ("scratch: {vocab: 256}", ":5: scratch", "at least 300"),
        ("adapter: {rank: 0}", ":5: adapter.rank", "0"),
        ("root: nowhere", ":5: root", "there is no folder"),
        ("base_revision: 7", ":5: base_revision", "string"),
        ("train:", ":5: train", "dictionary"),
        ("    exclude: '*.png'", ":5: sources.0.exclude", "list"),
        ("    solutions: '**x'", ":5: sources.0.solutions", "**x"),
    ],
)
def test_wrong_value_is_refused_at_its_line(tmp_path: Path, more: str, where: str, what: str) -> None:
    (found,) = problems(tmp_path, SMALL + more + "\n")
    assert found.where == f"{tmp_path / 'recipe.yaml'}{where}"
    assert what in found.what


def test_base_is_needed_unless_from_scratch(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, SMALL.replace("base: someone/some-base\n", ""))
    assert "needs `base`" in found.what
    assert load_recipe(write(tmp_path), ["base=", "train.method=scratch"]).base is None


def test_missing_base_folder_is_found_before_anything_runs(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, SMALL.replace("someone/some-base", "./nothing-here"))
    assert "there is no base" in found.what
    assert found.where.endswith(":2: base")


def test_pairs_need_solutions(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, SMALL + "    kind: pairs\n")
    assert "needs `solutions`" in found.what


# ---- overrides


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("train.epochs=2", lambda recipe: recipe.train.epochs, 2.0),
        ("train.learning_rate=1e-4", lambda recipe: recipe.train.learning_rate, 1e-4),
        ("train.learning_rate=5E-05", lambda recipe: recipe.train.learning_rate, 5e-5),
        ("sources.0.path=b.md", lambda recipe: recipe.sources[0].path, "b.md"),
        ("sources.0.exclude=[x, y]", lambda recipe: recipe.sources[0].exclude, ["x", "y"]),
        ("chat.system=a=b", lambda recipe: recipe.chat.system, "a=b"),
        (
            "chat.template_args.enable_thinking=false",
            lambda recipe: recipe.chat.template_args,
            {"enable_thinking": False},
        ),
        ("evaluate.limits.learned_min=0.9", lambda recipe: recipe.evaluate.limits.learned_min, 0.9),
        ("base=other/base", lambda recipe: recipe.base, "other/base"),
        ("name=época", None, None),
    ],
)
def test_override(tmp_path: Path, override: str, read: Any, value: Any) -> None:
    (tmp_path / "b.md").write_text("# B\n", encoding="utf-8")
    recipe = write(tmp_path)
    if read is None:
        with pytest.raises(RecipeError):
            load_recipe(recipe, [override])
    else:
        assert read(load_recipe(recipe, [override])) == value


def test_override_equals_the_same_line_in_the_file(tmp_path: Path) -> None:
    overridden = load_recipe(write(tmp_path), ["train.epochs=2", "adapter.rank=4"])
    written = load_recipe(write(tmp_path, SMALL + "train: {epochs: 2}\nadapter: {rank: 4}\n"))
    assert overridden == written


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("epochs", "is not an override"),
        ("=2", "is not an override"),
        ("sources.3.path=b.md", "there is no 'sources.3.path' in the recipe"),
        ("name.first=b", "there is no 'name.first' in the recipe"),
        ("train.epoch=2", "unknown key `epoch`"),
        ("train.epochs=two", "two"),
        ("sources.0.path=gone.md", "gone.md"),
        ("base=./gone", "there is no base"),
        ("sources.0.exclude=[a", "sources.0.exclude"),
        ("chat.system=Answer: in Portuguese: always", "chat.system"),
    ],
)
def test_bad_override(tmp_path: Path, override: str, what: str) -> None:
    found = problems(tmp_path, SMALL, override)
    assert any(what in each.what for each in found), found


def test_root_counts_from_the_recipe_and_from_here_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "here/files").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    for folder in ("files", "here/files"):
        (tmp_path / folder / "a.md").write_text("# A\n", encoding="utf-8")
    recipe = tmp_path / "recipes/recipe.yaml"
    recipe.write_text(SMALL + "root: ../files\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    assert load_recipe(recipe).root == str(tmp_path / "files")
    assert load_recipe(recipe, ["root=files"]).root == str(tmp_path / "here/files")


def test_base_folder_becomes_absolute_and_a_hub_id_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs/first/model").mkdir(parents=True)
    recipe = write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_recipe(recipe, ["base=runs/first/model"]).base == str(tmp_path / "runs/first/model")
    assert load_recipe(recipe).base == "someone/some-base"


def test_expand_path(tmp_path: Path) -> None:
    for name in ("b.md", "a.md", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in expand_path(tmp_path, "*.md")] == ["a.md", "b.md"]
    assert [path.name for path in expand_path(tmp_path, "c.txt")] == ["c.txt"]
    assert list(expand_path(tmp_path, "*.html")) == []


# ---- schema and the written recipe


def test_schema_describes_the_keys() -> None:
    schema = json.loads(json.dumps(recipe_schema()))
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["properties"]["root"]["description"].startswith("Folder that the paths")
    for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)):
        assert name in schema["$defs"]
    train = schema["$defs"]["Train"]["properties"]
    assert train["method"]["enum"] == list(METHODS)
    assert train["clip"]["description"] == "Gradients are clipped to this norm."


printable = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
recipes = st.builds(
    lambda name, system, rate, epochs, accept, columns, repeat, method: {
        "name": name,
        "base": None if method == "scratch" else "someone/base",
        "sources": [{"path": ".", "columns": columns, "repeat": repeat}],
        "chat": {"system": system},
        "dataset": {"accept": accept},
        "train": {"method": method, "learning_rate": rate, "epochs": epochs},
    },
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True),
    system=st.none() | printable,
    rate=st.floats(0, 1),
    epochs=st.floats(1e-3, 1e3),
    accept=st.lists(printable.filter(str.strip), max_size=2),
    columns=st.dictionaries(st.sampled_from(["prompt", "completion", "text"]), printable.filter(str.strip), max_size=2),
    repeat=st.integers(1, 50),
    method=st.sampled_from(["sft", "cpt", "scratch"]),
)


@given(recipes)
def test_written_recipe_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, raw: dict[str, Any]) -> None:
    """With every default written out; what looks like a number, a date or `no` stays text."""
    folder = tmp_path_factory.mktemp("recipe")
    recipe = check_recipe({**raw, "root": str(folder)})
    written = folder / "recipe.yaml"
    written.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(written) == recipe


@pytest.mark.parametrize("name", ["1", "1e3", "0x10", "2026-11-21", "no", "null", "true", "1.0"])
def test_names_that_look_like_other_things(tmp_path: Path, name: str) -> None:
    recipe = check_recipe({"name": name, "base": "a/b", "root": str(tmp_path), "sources": [{"path": "."}]})
    assert load_recipe(write(tmp_path, recipe.to_yaml())).name == name


@pytest.mark.parametrize(
    ("wrong", "fix", "right"),
    [
        ("name: Época 2", "for example `name: Epoca-2`", "name: Epoca-2"),
        ("name: 2026-11-30", "`name: '2026-11-30'`", "name: '2026-11-30'"),
        ("train:", "take `train:` out", ""),
        ("base_revision: 7", "`base_revision: '7'`", "base_revision: '7'"),
        ("sources: [a.md]", "write `- path: a.md`", "sources:\n- path: a.md"),
        ("adapter: {targets: q_proj}", "write a list: `targets: [q_proj]`", "adapter: {targets: [q_proj]}"),
        ("adapter: {modules_to_save: h}", "`modules_to_save: [h]`", "adapter: {modules_to_save: [h]}"),
    ],
)
def test_what_yaml_reads_as_another_kind_of_value_is_told_how_to_write(
    tmp_path: Path, wrong: str, fix: str, right: str
) -> None:
    usual = {"name": "name: x", "base": "base: a/b", "sources": "sources: [{path: a.md}]"}

    def text(line: str) -> str:
        return "\n".join([*(each for key, each in usual.items() if not line.startswith(f"{key}:")), line, ""])

    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text(wrong)))
    assert any(fix in problem.fix for problem in caught.value.problems), caught.value
    load_recipe(write(tmp_path, text(right)))


def test_numbers_with_exponents_are_numbers(tmp_path: Path) -> None:
    """In YAML 1.1 `1e-4` is text; here it is what its writer meant."""
    for written, meant in (("1e-4", 1e-4), ("1.0e-4", 1e-4), ("2E-5", 2e-5), ("1e+0", 1.0)):
        recipe = load_recipe(write(tmp_path, SMALL + f"train: {{learning_rate: {written}}}\n"))
        assert recipe.train.learning_rate == meant


def test_yes_and_no_are_words(tmp_path: Path) -> None:
    """YAML 1.1 reads `no` as false; a column called `no` must stay a column."""
    recipe = load_recipe(write(tmp_path, SMALL + "    columns: {prompt: no, completion: on}\n"))
    assert recipe.sources[0].columns == {"prompt": "no", "completion": "on"}


def test_nearest() -> None:
    assert nearest("epoch", list(Recipe.model_fields["train"].annotation.model_fields)) == "epochs"  # type: ignore[union-attr]
    assert nearest("zzz", ["epochs", "seed"]) is None


def test_a_recipe_does_not_change_once_read(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1


# ---- shipped recipes


def test_there_are_eight_recipes() -> None:
    assert [path.name for path in RECIPES] == [
        "farense-base.yaml",
        "farense-biografias.yaml",
        "farense-mlx.yaml",
        "farense.yaml",
        "ptbr-eval-base.yaml",
        "ptbr-eval.yaml",
        "zig-0.14-base.yaml",
        "zig-0.14.yaml",
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipe_is_valid(path: Path) -> None:
    """All but the presence of the files, which is checked below."""
    raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    resolve_profile(raw)
    recipe = Recipe.model_validate(raw)
    assert recipe.name == path.stem
    head = path.read_text(encoding="utf-8").partition("\nname:")[0]
    assert re.search(rf"afina run +recipes/{re.escape(path.name)}", head), "the head says how to run it"
    assert "root=FOLDER" in head
    assert "github.com/" in head


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_shipped_recipe_finds_its_files(path: Path) -> None:
    recipe = load_recipe(path)
    assert Path(recipe.root).is_dir()
    assert (recipe.base is None) == path.name.endswith("-base.yaml")


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data, which is not here")
@pytest.mark.parametrize(
    "path",
    # They take longer, or read the sources of another; tests/test_questions.py builds the biographies as well, and
    # tests/test_dataset_audit.py the club's rows.
    [
        pytest.param(each, marks=[pytest.mark.long] if re.search("farense|ptbr|-base", each.name) else [])
        for each in RECIPES
    ],
    ids=lambda path: path.name,
)
def test_shipped_recipe_builds_a_dataset_that_passes_the_audit(path: Path, tmp_path: Path) -> None:
    from afina.dataset.audit.audit import audit_dataset
    from afina.dataset.build.build import build_dataset

    recipe = load_recipe(path)
    built = build_dataset(recipe, tmp_path / "dataset")
    assert built["balanced"]
    assert built["train"]["examples"] > 25
    assert built["validation"]["examples"] >= 2
    assert all(source["examples"] for source in built["sources"]), "every source gives something"
    assert audit_dataset(tmp_path / "dataset", recipe).fatal() == []
    lost = {reason: count for reason, count in built["dropped"].items() if not reason.startswith("question: ")}
    expected = {"farense.yaml": {"empty_prompt": 2351}, "ptbr-eval.yaml": {"empty_answer": 6, "duplicate": 66}}
    assert lost == expected.get(path.name, {})


# ---- help: each key's stands at its field; starters, docs/recipe.md and the schema show it


KINDS = ["docs", "chat", "preference", "scratch"]
DELIBERATE = {
    "docs": set(),
    "chat": set(),
    "preference": {"train.method", "train.learning_rate", "train.epochs"},
    "scratch": {"scratch.vocab", "train.method", "train.learning_rate", "train.epochs"},
}
"""What a starter sets to something else than the default, beside name, base and path."""


def two_columns(text: str) -> tuple[list[str], list[str]]:
    """The keys of a starter, and what is said beside them."""
    lines = text.partition("\n\n")[2].splitlines()
    beside = [line[36:38] == "# " for line in lines]
    codes = [line[:36].rstrip() if commented else line for line, commented in zip(lines, beside, strict=True)]
    comments = [line[38:] for line, commented in zip(lines, beside, strict=True) if commented]
    return [code for code in codes if code], comments


def started(folder: Path, kind: str, *, full: bool) -> Recipe:
    """A starter, loaded where what it names is there."""
    (folder / "docs").mkdir(exist_ok=True)
    for name in ("rows.jsonl", "pairs.jsonl"):
        (folder / name).touch()
    (folder / "starter.yaml").write_text(starter(kind, full=full), encoding="utf-8")
    return load_recipe(folder / "starter.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_short_and_full_starter_are_the_same_recipe(tmp_path: Path, kind: str) -> None:
    assert started(tmp_path, kind, full=False) == started(tmp_path, kind, full=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_starter_has_the_defaults_and_what_its_kind_needs(tmp_path: Path, kind: str) -> None:
    loaded = started(tmp_path, kind, full=True)
    base = {"base": None, "train": {"method": "scratch"}} if kind == "scratch" else {"base": loaded.base}
    plain = Recipe(name=loaded.name, root=loaded.root, sources=[{"path": loaded.sources[0].path}], **base)
    read, expected = leaves(loaded.model_dump()), leaves(plain.model_dump())
    assert {key for key in read if read[key] != expected[key]} == DELIBERATE[kind] - (
        {"train.method"} if kind == "scratch" else set()
    )


@pytest.mark.parametrize(
    ("name", "run"), [("meus-docs.yaml", "meus-docs"), ("Os meus manuais (versão 2).yaml", "Os-meus-manuais-versao-2")]
)
def test_a_starter_is_called_as_its_file(tmp_path: Path, name: str, run: str) -> None:
    """README says `--to meus-docs.yaml`, then `runs/meus-docs`: it was `runs/my-docs` whatever the file was called."""
    (tmp_path / "docs").mkdir()
    done = call_afina("recipe", "init", "docs", "--to", name, folder=tmp_path)
    assert load_recipe(tmp_path / name).name == run
    assert f"set `base` and the `path` of your files, then: afina plan {shlex.quote(name)}" in done.stderr
    assert f"\n# 2. afina plan {shlex.quote(name)}: does it fit" in (tmp_path / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_the_short_starter_is_short(kind: str) -> None:
    lines = [line for line in starter(kind).splitlines() if line]
    assert len([line for line in lines if not line.startswith("#")]) <= 20
    assert all(len(line) <= 120 for line in lines)


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_starter_writes_every_key_with_its_help(kind: str) -> None:
    """In the order of the fields; keys inside what is null or empty stand behind a #."""
    text = starter(kind, full=True)
    assert all(len(line) <= 120 for line in text.splitlines())
    codes, comments = two_columns(text)
    assert [code.partition(":")[0].strip(" #-") for code in codes] == [key.name for key in every_key()]
    said = " ".join(comments)
    for key in every_key():
        assert key.comment in said, key.path


@pytest.mark.parametrize("path", [key.path for key in every_key() if key.part and not key.always])
def test_what_a_starter_comments_out_is_right(path: str) -> None:
    """A part inside null or an empty list, with the # taken away, is that part with its defaults."""
    (key,) = (each for each in every_key() if each.path == path)
    codes, _ = two_columns(starter("docs", full=True))
    (above,) = (code for code in codes if code.strip(" #-") in (f"{key.name}: null", f"{key.name}: []"))
    prefix = above.partition(key.name)[0] + "#   "
    block = itertools.takewhile(lambda code: code.startswith(prefix), codes[codes.index(above) + 1 :])
    value = YAML(typ="safe", pure=True).load("\n".join(code.removeprefix(prefix) for code in block))
    if key.many:
        (value,) = value
    assert key.part is not None
    part = key.part.model_validate(value)
    assert set(value) == set(key.part.model_fields)
    required = {name for name, field in key.part.model_fields.items() if field.is_required()}
    assert part == key.part.model_validate({name: value[name] for name in required})


def test_every_key_has_help_in_one_place() -> None:
    """A key's help is its field's docstring, or that of the part that it holds; no other file repeats it."""
    for key in every_key():
        assert key.help.endswith("."), f"{key.path} has no help, or no sentence"
        assert not (key.always and key.field.description), f"{key.path}: the docstring of {key.part} is its help"
    helps = {key.help for key in every_key()} | {key.brief for key in every_key()}
    helps = {text for text in helps if len(text) > 40}
    for file in FILES:
        if file.parent.name == "recipe" and file.name not in ("starter.py", "reference.py", "keys.py"):
            continue
        for node in nodes_of(tree_of(file)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                told = " ".join(node.value.split())
                assert not {text for text in helps if text in told}, f"{file}:{node.lineno}"


def test_the_schema_carries_each_keys_help() -> None:
    schema = recipe_schema()
    for key in every_key():
        if key.field.description:
            of = schema if key.inside is Recipe else schema["$defs"][key.inside.__name__]
            assert of["properties"][key.name]["description"] == key.field.description, key.path


def test_the_table_of_keys_is_current() -> None:
    """docs/recipe.md is generated; `make docs` writes it again."""
    assert (ROOT / "docs/recipe.md").read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_options_that_set_a_key_have_its_help() -> None:
    shown = call_afina("run", "--help").stdout
    (anyway,) = (key for key in every_key() if key.path == "budget.anyway")
    assert anyway.brief in " ".join(shown.replace("│", " ").split())
    assert set(KEY_OF.values()) <= {key.path for key in every_key()}


def leaves(value: Any, key: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; empty mappings and lists are leaves."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [leaves(item, f"{key}.{name}" if key else str(name)) for name, item in items]
    return {name: leaf for part in inner for name, leaf in part.items()} if inner else {key: value}


def test_starter_of_an_unknown_kind() -> None:
    with pytest.raises(RecipeError, match="no starter 'audio'"):
        starter("audio")


def test_every_part_refuses_unknown_keys() -> None:
    parts = RecipePart.__subclasses__()
    assert len(parts) >= 10
    assert all(part.model_config["extra"] == "forbid" for part in parts)


def snippets(page: Path) -> list[str]:
    """The YAML blocks of a page that begin with keys of a recipe."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if re.match(rf"(?:{'|'.join(Recipe.model_fields)}):", block)]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_recipes_shown_in_the_docs_are_read(page: Path, tmp_path: Path):
    for block in snippets(page):
        raw = YAML(typ="safe", pure=True).load(block)
        for name in re.findall(r"\bpath: *([^\s#,}\]]+)", block):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("{}\n", encoding="utf-8")
        check_recipe({"name": "shown", "base": "a/b", "root": str(tmp_path), "sources": [{"path": "."}], **raw})


def test_the_docs_show_recipes():
    assert any(snippets(page) for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("key", ["base", "start_from"])
def test_a_home_of_nobody_is_a_place_that_is_not_there(tmp_path: Path, key: str) -> None:
    (tmp_path / "a.md").write_text("# A\n")
    (tmp_path / "r.yaml").write_text("name: x\nbase: a/b\nsources: [{path: a.md}]\n")
    with pytest.raises(RecipeError, match=r"there is no .*~nobody-has-this-name"):
        load_recipe(tmp_path / "r.yaml", [f"{key}=~nobody-has-this-name/x"])


@pytest.mark.parametrize("value", ["!!bool x", "!!int ''", "!!timestamp x", "&a [*a]", "&a {b: *a}"])
def test_a_value_of_yaml_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    """What ruamel takes for granted of a tag, and an anchor that holds itself, which nobody comes to the end of."""
    (tmp_path / "r.yaml").write_text(f"name: x\nbase: a/b\nsources: [{{path: .}}]\nseed: {value}\n")
    for overrides in ([], [f"seed={value}"]):
        with pytest.raises(RecipeError, match=r"YAML|valid integer"):
            load_recipe(tmp_path / "r.yaml", overrides)


@pytest.mark.parametrize("round_trip", [False, True])
@pytest.mark.parametrize("bracket", ["[", "{", "{a: "])
def test_brackets_in_brackets_end_the_reading_where_they_are_too_many(bracket: str, *, round_trip: bool) -> None:
    """Not behind the last of them: what a text costs would grow with their square."""
    with pytest.raises(MarkedYAMLError, match="brackets in brackets") as refused:
        parse_yaml(bracket * 5000, round_trip=round_trip)
    assert refused.value.problem_mark.column == DEEPEST * len(bracket)
    deep = "[" * DEEPEST + "]" * DEEPEST
    assert parse_yaml(f"a: {deep}\nb: {deep}", round_trip=round_trip).keys() == {"a", "b"}
