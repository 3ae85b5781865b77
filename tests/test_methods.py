"""The seam for a method: one table of facts, one file each, and no method that stands in for another."""

from __future__ import annotations

import ast
import inspect
import runpy
import subprocess
import sys
from typing import get_args

import pytest
from parsed import FILES, PACKAGE, nodes_of, tree_of
from tiny import make_recipe

from afina.errors import RecipeError
from afina.model import footprint
from afina.model.shape_table import dense_shape
from afina.plan import plan as plan_module
from afina.plan import programs
from afina.plan.device import Device
from afina.plan.tokens import TokenCount
from afina.recipe import METHODS, Train, method_facts
from afina.recipe.methods import METHOD_SETTINGS, Judged, MethodName
from afina.train.methods import objective_of

# ---- methods


def test_an_unknown_method_cannot_fall_into_another():
    """Once, whatever was not DPO trained ORPO."""
    for name in METHODS:
        assert objective_of(Train(method=name)).settings.method == name
    unknown = Train().model_copy(update={"method": "ipo"})
    with pytest.raises(RecipeError, match="no method of training called 'ipo'"):
        objective_of(unknown)
    with pytest.raises(RecipeError, match="one of sft, cpt"):
        method_facts("ipo")


def test_the_table_has_every_method_of_the_recipe_and_a_file_for_each():
    assert set(METHODS) == set(get_args(MethodName))
    files = {file.stem.removesuffix("_torch") for file in (PACKAGE / "train/methods").glob("*_torch.py")}
    assert {facts.file for facts in METHODS.values()} == files - {"judged"}
    assert set(Train.model_fields) >= METHOD_SETTINGS
    assert {facts.judged for facts in METHODS.values()} == {None, *get_args(Judged)}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_needs_a_reference_says_what_it_asks_of_it(name):
    objective = objective_of(Train(method=name))
    assert METHODS[name].needs_reference == hasattr(objective, "judge") == hasattr(objective, "judgements")


def test_only_the_table_compares_a_methods_name():
    """`method == "dpo"` anywhere else is a place that a new method would have to find."""
    wrong = [
        f"{file}:{node.lineno}"
        for file in FILES
        for node in nodes_of(tree_of(file))
        if isinstance(node, ast.Compare)
        and {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)} & (set(METHODS) - {"scratch"})
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted(METHOD_SETTINGS))
def test_a_setting_of_another_method_is_refused(name):
    for method, facts in METHODS.items():
        settings = {"method": method, name: 0.25}
        if name in facts.settings:
            assert getattr(Train(**settings), name) == 0.25
        else:
            with pytest.raises(ValueError, match=f"{name} belongs to method"):
                Train(**settings)


def test_only_modules_called_after_torch_load_torch():
    """What plans, guards and logs a training could drive another framework."""
    modules = [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in (PACKAGE / "train").rglob("*.py")
        if not file.stem.endswith(("_torch", "_mlx"))
    ]
    assert {"afina.train.loop", "afina.train.ranks", "afina.train.guard", "afina.train.methods"} <= set(modules)
    code = "import sys, importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in modules)
    code += "print(*sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---- numbers that plan and loop share


def _assigned(tree):
    for node in nodes_of(tree):
        if isinstance(node, ast.Assign):
            yield from ((target.id, node.lineno) for target in node.targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("room", ["model", "plan", "train"])
def test_a_shared_number_has_no_second_copy(room):
    shared = {name for name in vars(footprint) if name.isupper()}
    assert shared >= {"LOGIT_BYTES", "LEAST_TARGETS", "GOOD_STEPS", "MEMORY_BYTES"}
    for file in (PACKAGE / room).rglob("*.py"):
        if file.name == "footprint.py":
            continue
        tree = tree_of(file)
        copies = [place for name, place in _assigned(tree) if name in shared]
        copies += [
            node.lineno
            for node in nodes_of(tree)
            if isinstance(node, ast.BinOp)
            and all(isinstance(each, ast.Constant) for each in (node.left, node.right))
            and eval(ast.unparse(node)) in (footprint.LOGIT_BYTES, footprint.LOGIT_BYTES / 4)
        ]
        assert not copies, f"{file}: lines {copies}"


def test_the_plans_chunk_of_logits_is_the_losss(monkeypatch):
    monkeypatch.setattr(footprint, "LOGIT_BYTES", 4 * 7777)
    monkeypatch.setattr(footprint, "LEAST_TARGETS", {"cpu": 3, "cuda": 5, "mps": 7})
    fresh = runpy.run_path(inspect.getfile(programs))
    for name, place in (("AFINA_CPU", "cpu"), ("AFINA_CUDA", "cuda"), ("AFINA_MPS", "mps")):
        for vocab in (10, 5000):
            chunk = max(fresh[name].least_chunk, int(fresh[name].chunk_logits // vocab))
            assert chunk == footprint.chunk_targets(vocab, place), name


def _kept(parameters, steps, kind="none", place="cpu"):
    """The plan's bytes to go back to, of a model of about so many parameters."""
    hidden = round((parameters / 12 / 12) ** 0.5 / 8) * 8
    shape = dense_shape("llama", layers=12, hidden=hidden, intermediate=8 * hidden // 3, heads=8, kv_heads=8,
                  head_dim=hidden // 8, vocab=100, tied_embeddings=True, max_positions=4096)  # fmt: skip
    tokens = TokenCount(tokens=100 * steps, targets=100 * steps, rows=steps, longest=100, padded=100 * steps,
                        micro_batches=steps)  # fmt: skip
    recipe = make_recipe(train={"epochs": 1, "batch_tokens": 100}, adapter={"kind": kind})
    device = Device(name="here", kind=place, memory_bytes=64 << 30, usable_bytes=64 << 30, flops_per_second=1e11,
                    bytes_per_second=1e10)  # fmt: skip
    setup = plan_module.afina_setup(recipe, shape, tokens, device)
    return setup.kept_states, shape, setup


@pytest.mark.parametrize("parameters", [1e6, 50e6, 170e6, 190e6, 500e6])
@pytest.mark.parametrize("steps", [5, 30, 60])
def test_the_plan_keeps_the_states_that_the_loop_holds(parameters, steps):
    """0.5 G parameters on a CPU were planned with 12 GB that no loop ever held."""
    kept, shape, _ = _kept(parameters, steps)
    held = footprint.state_in_memory(4 * shape.parameters)  # what LastGood asks
    assert (kept > 0) == held
    if held:
        assert kept == (1 / 3 if steps <= 20 else 1.0 if steps <= 40 else 2.0)
    assert held == (12 * shape.parameters <= 2 << 30)


def test_the_steps_between_good_states_are_one_number(monkeypatch):
    monkeypatch.setattr(footprint, "GOOD_STEPS", 4)
    assert [_kept(1e6, steps)[0] for steps in (4, 8, 9)] == [1 / 3, 1.0, 2.0]
