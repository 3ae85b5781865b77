"""Every causal family through every door, with a tiny base each: six of them here, all of them in the long form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
from architectures.families import FAMILIES, Family, family_of, make_base
from architectures.measure import measure
from architectures.page import PAGE, page_of
from called import call_afina
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from afina.base_page import base_page
from afina.errors import BaseError
from afina.model.proven import COLUMNS, read_proven

OFTEN = ("gpt_oss", "phi3 longrope")
"""A mixture with a window, positions by length. Others are answered in test_generate.py, and trained in
test_shortcuts.py."""
QUICK = ("loss equal", "greedy equal")


@pytest.mark.parametrize("name", OFTEN)
def test_loss_gradients_and_answers_are_those_of_plain_rows(name: str, tmp_path: Path):
    found = measure(family_of(name), tmp_path, QUICK)
    assert {head: cell for head, cell in found.items() if cell.state != "right"} == {}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_in_its_long_form(family: Family, tmp_path: Path):
    """Loss, gradients and answers; `make architectures` measures every column."""
    said = {each.name: each for each in read_proven().families}[family.name]
    found = measure(family, tmp_path, QUICK)
    assert {head: cell.state for head, cell in found.items()} == {head: said.cells[head].state for head in QUICK}


def test_the_page_is_what_was_measured():
    assert page_of(read_proven()) == PAGE.read_text(encoding="utf-8"), "make architectures"


def test_enough_families_are_right_and_none_is_wrong():
    proven = read_proven()
    assert [each.name for each in proven.families] == [each.name for each in FAMILIES]
    assert all(set(each.cells) == set(COLUMNS) for each in proven.families)
    wrong = {
        (each.name, head) for each in proven.families for head, cell in each.cells.items() if cell.state == "wrong"
    }
    assert not wrong
    assert len({each.model_type for each in proven.families}) >= 60
    assert len({each.model_type for each in proven.families if each.right}) >= 55


def test_the_families_are_those_of_transformers():
    assert {each.model_type for each in FAMILIES} <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert len({each.name for each in FAMILIES}) == len(FAMILIES)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(family_of("mixtral"), tmp_path_factory.mktemp("page") / "base")


def test_a_bases_page_says_what_it_is_and_what_was_proven(mixture: Path):
    page = base_page(str(mixture))
    text = page.describe()
    assert "is a model that writes text" in text and "mixtral (MixtralForCausalLM)" in text
    assert "4 experts, a token goes through 2" in text and "an answer ends with <|end|>" in text
    assert "lora, qlora, every weight (none)" in text
    assert all(f"    {head}" in text for head in COLUMNS)


def test_a_page_names_llama_cpp_where_the_base_can_be_written_for_it(mixture: Path, tmp_path: Path):
    llama = tiny.make_base(tmp_path / "llama")
    for base, more in ((mixture, ""), (llama, ", llamacpp")):
        said = [line.split(maxsplit=1) for line in base_page(str(base)).describe().splitlines()]
        assert ["serve", f"afina's own server, vllm, mlx{more}"] in said


def test_a_page_without_its_tokenizer_says_so(mixture: Path, tmp_path: Path):
    shutil.copy(mixture / "config.json", tmp_path)
    assert "its tokenizer is not on this machine" in base_page(str(tmp_path)).describe()


def test_an_architecture_that_was_not_tried_is_not_called_proven(mixture: Path, tmp_path: Path):
    folder = shutil.copytree(mixture, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "granite_swa", "architectures": ["GraniteSWAForCausalLM"], "head_dim": 8}
    (folder / "config.json").write_text(json.dumps(config))
    page = base_page(str(folder))
    assert page.families == [] and "not proven here: granite_swa" in page.describe()


def test_what_is_no_model_that_writes_text_is_refused_as_by_every_verb(mixture: Path, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(BaseError, match="is an encoder"):
        base_page(str(tmp_path))


def test_the_verb_prints_the_page(mixture: Path, tmp_path: Path):
    said = json.loads(call_afina("base", "show", mixture, "--json", folder=tmp_path).stdout)
    assert said["architecture"] == "mixtral" and said["proven"][0]["cells"]["plan"]["state"] == "right"
    assert said["kind"]["trains"] == ["lora", "qlora", "none"] and said["talk"]["stops"] == ["<|end|>"]
