"""Every benchmark is run by a test in its smallest form: one that the product leaves behind is noticed."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from benched import BENCHMARKS, ROOT, opened, started

RUN_BY = {
    "aider_edit": "test_bench_serve::test_the_settings_for_aider_lead_to_an_answer",
    "audit_speed": "test_bench_data::test_an_audit_is_timed_and_its_memory_seen",
    "clean_speed": "test_bench_data::test_copies_are_found_and_the_rest_is_tokens",
    "corpus_cpu": "test_bench_corpus::test_one_copy_is_built_alike_by_one_two_and_a_killed_worker",
    "encode_memory": "test_tokens::test_memory_does_not_grow_with_the_corpus",
    "generate_cpu": "test_bench_serve::test_the_engine_answers_as_the_rows_do_one_by_one",
    "gpu": "test_bench_gpu::test_tiny_shapes_run",
    "improve_rounds": "test_bench_runs::test_rounds_where_they_can_help_and_where_they_cannot",
    "mlx_cpu": "test_bench_mlx::test_both_learn_the_same_rows_and_what_mlx_lm_leaves_out_is_shown",
    "plan_accuracy": "test_calibration::test_the_shipped_table_is_what_the_script_yields",
    "plan_here": "test_bench_train::test_a_plan_is_held_against_a_training_of_this_machine",
    "plan_time_cpu": "test_bench_train::test_seconds_as_planned_stand_beside_what_they_were",
    "scratch_cpu": "test_bench_scratch::test_contestants_run_in_processes_of_their_own",
    "serve_llamacpp": "test_llamacpp::test_the_benchmark_beside_llama_cpps_own_server_runs",
    "serve_load": "test_bench_serve::test_load_leaks_and_end_of_our_own_server",
    "skills_guard": "test_bench_runs::test_the_guard_over_skills_is_asked_of_three_trainings",
    "start_up": "test_bench_data::test_every_command_that_is_timed_goes_well",
    "train_cpu": "test_bench_train::test_our_contestants_learn_the_same_rows",
    "why": "test_bench_runs::test_planted_rows_are_looked_for_and_others_left_out",
}
"""A benchmark -> the test that runs it."""


def of_make() -> set[str]:
    """Those that `make bench` starts."""
    return {file.stem for file in BENCHMARKS.glob("*.py") if "__main__" in file.read_text(encoding="utf-8")}


def test_every_benchmark_is_run_by_a_test() -> None:
    """Those that none ran were left behind by what a server answers, by exit codes, and by `make bench`."""
    assert set(RUN_BY) == of_make()
    for benchmark, test in RUN_BY.items():
        file, name = test.split("::")
        text = (ROOT / f"tests/{file}.py").read_text(encoding="utf-8")
        functions = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
        assert name in functions and re.search(rf"\b{benchmark}\b", text), test


@pytest.mark.parametrize("name", ["clean_speed", "improve_rounds", "skills_guard", "why"])
def test_what_is_not_here_is_left_out_with_a_word(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`make bench` goes on to the next one; it ended in its middle."""
    needs = {"clean_speed": ("--data", tmp_path / "nowhere"), "why": ("--demo", tmp_path)}
    started(opened(name, monkeypatch), monkeypatch, *needs.get(name, ()))
    assert capsys.readouterr().out.startswith("left out: ")


def test_make_bench_starts_them_without_a_word_more() -> None:
    """None of them needs an option to begin."""
    shown = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "$(grep -l __main__ benchmarks/*.py)" in shown
    required = [name for name in of_make() if "required=True" in (BENCHMARKS / f"{name}.py").read_text("utf-8")]
    assert required == []
