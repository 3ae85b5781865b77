"""An adapter fits one base: its weights, its token ids, its chat template."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_base

from afina.errors import BaseError
from afina.model.base import IDENTITY_FILE, check_adapter_fits, identify_base
from afina.recipe import Chat
from afina.tokenizer.load import load_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def identity(folder):
    return identify_base(folder, folder.name, load_tokenizer(str(folder), Chat()))


@pytest.fixture
def adapter(base, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / IDENTITY_FILE).write_text(json.dumps({"base": identity(base).as_json()}))
    return folder


def test_the_same_base_in_another_place_fits(base, adapter, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    assert check_adapter_fits(adapter, identity(copy)) is None


def test_the_same_model_with_permuted_token_ids_is_refused(base, adapter, tmp_path):
    """Every text has the logits it had, under other numbers: nothing else could tell."""
    from transformers import AutoModelForCausalLM

    other = shutil.copytree(base, tmp_path / "permuted")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    first, second = (token for token, number in tokenizer["model"]["vocab"].items() if number in (300, 301))
    vocab = tokenizer["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    weights = load_file(other / "model.safetensors")
    order = torch.arange(len(weights["model.embed_tokens.weight"]))
    order[[300, 301]] = order[[301, 300]]
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][order].contiguous()
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    logits = [AutoModelForCausalLM.from_pretrained(each)(torch.tensor([[9, 8, 7]])).logits for each in (base, other)]
    assert torch.equal(logits[0][..., order], logits[1])
    with pytest.raises(BaseError, match="whose weights and tokenizer differ"):
        check_adapter_fits(adapter, identity(other))
    shutil.copy(base / "model.safetensors", other)  # even where the weights were left as they were
    with pytest.raises(BaseError, match="whose tokenizer differ"):
        check_adapter_fits(adapter, identity(other))


def test_other_weights_are_refused(adapter, tmp_path):
    with pytest.raises(BaseError, match="whose weights differ"):
        check_adapter_fits(adapter, identity(make_base(tmp_path / "other", seed=1)))


def test_an_adapter_that_names_no_base_is_opened_with_a_warning(base, tmp_path):
    assert "cannot be checked" in str(check_adapter_fits(tmp_path, identity(base)))


def test_a_gated_base_says_how_to_get_it(monkeypatch):
    """Nothing is wrong with the name; its terms were not accepted."""
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    from afina.model.base import find_base

    def refuse(name, **_):
        raise GatedRepoError(
            "403", response=httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(BaseError, match="accepted its terms") as caught:
        find_base("owner/gated", say=print)
    assert "https://huggingface.co/owner/gated" in caught.value.problems[0].fix
    assert "hf auth login" in caught.value.problems[0].fix
