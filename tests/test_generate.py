"""The generation engine: the same answers as ``model.generate`` one by one, whatever shares the batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import times
from tiny import make_base, make_recipe, make_rows

from afina.errors import AfinaError, ContextOverflow, DoesNotFit, RecipeError
from afina.model.generate.ability_torch import ability_of
from afina.model.generate.call_torch import Caller
from afina.model.generate.engine_torch import Engine
from afina.model.generate.generate_torch import Sampling, generate
from afina.model.generate.request import BASE, Finished, Produced, Request
from afina.model.load_torch import load_base

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A Llama with random weights, and its renderer."""
    base = make_base(tmp_path_factory.mktemp("base"))
    recipe = make_recipe(base)
    return load_base(base, recipe, CPU), make_rows(base, recipe)[1]


def prompts_of(lengths: list[int], vocab: int = 300, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(5, vocab, (length,), generator=generator).tolist() for length in lengths]


def one_by_one(model: Any, prompts: list[list[int]], new: int, stops: list[int], **arguments: Any) -> list[list[int]]:
    """transformers' own answers, without the stop token."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": stops, "pad_token_id": 0}
        written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings, **arguments)
        answer = written[0, len(prompt) :].tolist()
        answers.append(answer[:-1] if answer and answer[-1] in stops else answer)
    return answers


def run(engine: Engine, requests: list[Request]) -> list[Finished]:
    """All requests at once, to their ends."""
    numbers = [engine.submit(request) for request in requests]
    done = {piece.id: piece.done for piece in drain(engine) if piece.done}
    return [done[number] for number in numbers]


def drain(engine: Engine) -> list[Produced]:
    pieces = []
    while engine.busy:
        pieces += engine.step()
    return pieces


# ---- the same as one by one


def likewise(config: Any, path: str | None) -> Any:
    """A kind whose parts another one has: it is answered in `make test-all`."""
    return pytest.param(config, path, marks=pytest.mark.long)


def architectures() -> list[Any]:
    """Small models of many kinds, with the path that each is expected to take."""
    from transformers import (
        BambaConfig,
        BloomConfig,
        DogeConfig,
        Gemma2Config,
        GPT2Config,
        GptOssConfig,
        MambaConfig,
        MiniMaxConfig,
        MistralConfig,
        MixtralConfig,
        OPTConfig,
        Phi3Config,
        Qwen2Config,
        Qwen3Config,
        Qwen3NextConfig,
    )

    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "vocab_size": 300, "max_position_embeddings": 64, "pad_token_id": 0}
    grouped = small | {"num_key_value_heads": 2}
    return [
        likewise(Qwen2Config(**grouped), "slots"),
        (Qwen3Config(**grouped, head_dim=8), "slots"),
        likewise(MistralConfig(**grouped, sliding_window=None), "slots"),
        (MistralConfig(**grouped, sliding_window=16), "slots"),
        likewise(MixtralConfig(**grouped, num_local_experts=4, sliding_window=None), "slots"),
        likewise(Gemma2Config(**grouped, head_dim=8, sliding_window=16), "slots"),
        likewise(Phi3Config(**grouped), "slots"),
        (GptOssConfig(**grouped, head_dim=8, num_local_experts=4, sliding_window=16), "slots"),
        (GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=300, n_positions=64), "slots"),
        likewise(OPTConfig(**small, ffn_dim=64, word_embed_proj_dim=32), None),
        (DogeConfig(**grouped, keep_window_size=8), "slots"),
        (BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=300), None),
        (MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=300, state_size=8), "equal"),
        likewise(
            BambaConfig(
                **grouped, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1,
                mamba_chunk_size=8,
            ),
            "equal",
        ),
        (
            MiniMaxConfig(
                **grouped, head_dim=8, layer_types=["linear_attention", "full_attention"], num_local_experts=4,
                block_size=8,
            ),
            "alone",
        ),
        (  # crosses the length at which all of its frequencies change
            Phi3Config(
                **grouped, original_max_position_embeddings=20,
                rope_parameters={
                    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
                    "long_factor": [2.0, 3.0, 4.0, 5.0], "original_max_position_embeddings": 20,
                },
            ),
            "slots",
        ),
        (
            Qwen3NextConfig(
                **grouped, head_dim=8, layer_types=["linear_attention", "full_attention"], num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=16, shared_expert_intermediate_size=16, linear_num_key_heads=2,
                linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
            ),
            "equal",
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(("config", "path"), architectures(), ids=lambda each: getattr(each, "model_type", str(each)))
def test_other_architectures_answer_as_one_by_one(config: Any, path: str | None, tiny: Any) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = prompts_of([1, 3, 9, 14, 9, 2, 14, 9, 30])
    said: list[str] = []
    engine = Engine(model, tiny[1].tokenizer, [2], places=4, say=said.append)
    done = run(engine, [Request(prompt=prompt, max_new_tokens=12) for prompt in prompts])
    assert [each.tokens for each in done] == one_by_one(model, prompts, 12, [2])
    ability = ability_of(Caller(model))
    taken = "slots" if ability.slots else "equal" if ability.equal else "alone" if ability.cached else "whole"
    assert path in (taken, None)
    assert len(said) == (engine.stats.alone > 0)  # the slow path is never silent
    assert (engine.stats.alone > 0) == (taken != "slots" or ability.longest is not None)


@settings(max_examples=times(10, 40))
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    places=st.integers(1, 8),
    tokens=st.sampled_from([None, 64, 130, 400]),
    data=st.data(),
)
def test_greedy_is_the_same_whatever_the_batch(tiny: Any, lengths: Any, places: int, tokens: Any, data: Any) -> None:
    model, renderer = tiny
    prompts = prompts_of(lengths)
    new = data.draw(st.lists(st.integers(1, 20), min_size=len(prompts), max_size=len(prompts)))
    alone = [one_by_one(model, [prompt], n, renderer.stop_ids())[0] for prompt, n in zip(prompts, new, strict=True)]
    engine = Engine(model, renderer.tokenizer, renderer.stop_ids(), places=places, max_tokens_in_cache=tokens)
    pieces, numbers = [], []
    for prompt, n in zip(prompts, new, strict=True):
        numbers.append(engine.submit(Request(prompt=prompt, max_new_tokens=n)))
        if data.draw(st.booleans()):  # requests come while others run
            pieces += engine.step()
        assert engine.running <= places
    done = {piece.id: piece.done for piece in pieces + drain(engine) if piece.done}
    assert [done[number].tokens for number in numbers] == alone


def test_generate_keeps_the_order_and_asks_the_same_prompt_once(tiny: Any) -> None:
    model, renderer = tiny
    prompts = prompts_of([5, 20, 1, 9])
    seen = []
    answers = generate(
        model, renderer, [*prompts, prompts[1]], max_new_tokens=6, progress=lambda done, of, _: seen.append((done, of))
    )
    texts = [renderer.tokenizer.decode(ids) for ids in one_by_one(model, prompts, 6, renderer.stop_ids())]
    assert [answer.text for answer in answers] == [text.strip() for text in [*texts, texts[1]]]
    assert seen[-1] == (4, 4)


def test_a_tie_is_decided_alone(tiny: Any) -> None:
    """Twin tokens have equal logits up to rounding: in a batch either could win, alone it is as in transformers."""
    model, renderer = copy.deepcopy(tiny[0]), tiny[1]
    weights = model.get_input_embeddings().weight.data
    weights[150:300] = weights[0:150] * (1 + 1e-7)
    prompts = prompts_of([4, 7, 11, 30], vocab=150)
    engine = Engine(model, renderer.tokenizer, [2])
    done = run(engine, [Request(prompt=prompt, max_new_tokens=8) for prompt in prompts])
    assert [each.tokens for each in done] == one_by_one(model, prompts, 8, [2])
    assert engine.stats.near_ties
    loose = Engine(model, renderer.tokenizer, [2], exact=False)
    done = run(loose, [Request(prompt=prompt, max_new_tokens=8) for prompt in prompts])
    assert not loose.stats.near_ties
    assert min(each.lead for each in done if each.lead is not None) < 1e-5  # and says how near it was


def test_half_precision_is_not_decided_alone_but_says_its_lead(tiny: Any) -> None:
    model, renderer = copy.deepcopy(tiny[0]).to(torch.bfloat16), tiny[1]
    engine = Engine(model, renderer.tokenizer, [])
    done = run(engine, [Request(prompt=prompt, max_new_tokens=6) for prompt in prompts_of([5, 20, 3])])
    assert (engine.exact, engine.dtype, engine.stats.near_ties) == (False, "bfloat16 cpu", 0)
    assert all(len(each.tokens) == 6 and each.lead is not None for each in done)


# ---- sampling, probabilities, text


def test_a_sampled_answer_follows_from_its_seed_alone(tiny: Any) -> None:
    model, renderer = tiny
    prompts = prompts_of([5, 20, 3, 9, 9, 30])
    ask = {"max_new_tokens": 12, "temperature": 0.9}
    requests = [Request(prompt=p, seed=n, top_p=1 - n / 10, **ask) for n, p in enumerate(prompts)]  # type: ignore[arg-type]
    together = run(Engine(model, renderer.tokenizer, [2]), requests)
    for request, done in zip(requests, together, strict=True):
        assert run(Engine(model, renderer.tokenizer, [2]), [request])[0].tokens == done.tokens
    other = run(Engine(model, renderer.tokenizer, [2]), [Request(prompt=prompts[0], seed=99, **ask)])  # type: ignore[arg-type]
    assert other[0].tokens != together[0].tokens


def test_a_prompt_asked_again_with_one_seed_draws_again(tiny: Any) -> None:
    model, renderer = tiny
    a, b = prompts_of([6, 8])
    first = generate(model, renderer, [a, b, a], max_new_tokens=8, sampling=Sampling(temperature=1.0, seed=3))
    assert first[0] != first[2]
    assert generate(model, renderer, [b, a, a], max_new_tokens=8, sampling=Sampling(temperature=1.0, seed=3)) == [
        first[1], first[0], first[2],
    ]  # fmt: skip


def test_sampling_draws_by_the_probabilities() -> None:
    """Of 20,000 draws a share's standard deviation is at most 0.0036; it may be off by four."""
    from afina.model.generate.choose_torch import sample

    draws = times(4_000, 20_000)
    logits = torch.tensor([0.0, 1.0, 3.0, 2.0])
    for temperature, top_p in ((1.0, 1.0), (2.0, 1.0), (1.0, 0.8)):
        generator = torch.Generator().manual_seed(1)
        drawn = torch.tensor([sample(logits, temperature, top_p, generator) for _ in range(draws)])
        expected = torch.softmax(logits / temperature, -1)
        if top_p < 1:  # 0.64 + 0.24 are the first to reach 0.8
            expected = torch.where(expected > 0.2, expected, 0.0)
        expected = expected / expected.sum()
        assert torch.allclose(torch.bincount(drawn, minlength=4) / draws, expected, atol=4 * 0.5 / draws**0.5)


@pytest.mark.parametrize("top_p", [1.0, 0.5, 5e-324])
def test_the_smallest_temperature_chooses_the_likeliest(top_p: float) -> None:
    """Logits divided by it are infinite, and their probabilities no numbers: nothing was left to choose from, and the
    error of one request ended the engine for all of them."""
    from afina.model.generate.choose_torch import sample

    logits = torch.tensor([1.0, 3.0, 2.0, float("-inf")])
    assert sample(logits, 5e-324, top_p, torch.Generator()) == 1


def test_logprobs_are_the_models_own(tiny: Any) -> None:
    model, renderer = tiny
    requests = [Request(prompt=prompt, max_new_tokens=5, logprobs=3) for prompt in prompts_of([4, 12])]
    for request, done in zip(requests, run(Engine(model, renderer.tokenizer, []), requests), strict=True):
        ids = [*request.prompt, *done.tokens]
        expected = torch.log_softmax(model(torch.tensor([ids])).logits[0, len(request.prompt) - 1 : -1], -1)
        for place, each in enumerate(done.logprobs):
            assert each.token == done.tokens[place]
            assert each.logprob == pytest.approx(expected[place, each.token].item(), abs=1e-4)
            assert [token for token, _ in each.top] == expected[place].topk(3).indices.tolist()


def test_streamed_pieces_make_the_text(tiny: Any) -> None:
    """Whole characters only: every piece of half an "ã" is held back until the other half is there."""
    from afina.model.generate.text_stream import TextStream

    tokenizer = tiny[1].tokenizer
    text = "Olhão é não ção — Faro 🙂 marcou"
    stream = TextStream(tokenizer, (), keep_special=True)
    pieces = [stream.add(token)[0] for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_stop_string_ends_the_text_and_is_never_shown(tiny: Any) -> None:
    from afina.model.generate.text_stream import TextStream

    tokenizer = tiny[1].tokenizer
    for stop, expected in (("Q:", "Faro.\n\n"), ("\n\nQ", "Faro."), ("Faro.\n\nQ: x", ""), ("QQ", "Faro.\n\nQ: x")):
        stream = TextStream(tokenizer, (stop,), keep_special=True)
        shown, stopped = "", False
        for token in tokenizer("Faro.\n\nQ: x", add_special_tokens=False)["input_ids"]:
            piece, stopped = stream.add(token)
            shown += piece
            assert expected.startswith(shown)
            if stopped:
                break
        assert stopped == (stop != "QQ")
        assert shown + ("" if stopped else stream.finish()) == expected


def test_stop_strings_and_streams_in_the_engine(tiny: Any) -> None:
    model, renderer = tiny
    prompts = prompts_of([4, 8])
    plain = run(Engine(model, renderer.tokenizer, []), [Request(prompt=p, max_new_tokens=16) for p in prompts])
    stop = renderer.tokenizer.decode(plain[0].tokens[5:7])
    engine = Engine(model, renderer.tokenizer, [])
    first = engine.submit(Request(prompt=prompts[0], max_new_tokens=16, stop=(stop,)))
    second = engine.submit(Request(prompt=prompts[1], max_new_tokens=16, stream=True))
    pieces = drain(engine)
    done = {piece.id: piece.done for piece in pieces if piece.done}
    assert done[first].finish == "stop"
    assert done[first].text == plain[0].text.partition(stop)[0]
    assert done[second].finish == "length"
    assert "".join(piece.text for piece in pieces if piece.id == second) == done[second].text == plain[1].text


def test_a_stop_token_ends_an_answer_and_is_not_in_it(tiny: Any) -> None:
    model, renderer = tiny
    (prompt,) = prompts_of([6])
    whole = run(Engine(model, renderer.tokenizer, []), [Request(prompt=prompt, max_new_tokens=9)])[0]
    stop = whole.tokens[4]
    done = run(Engine(model, renderer.tokenizer, [stop]), [Request(prompt=prompt, max_new_tokens=9)])[0]
    first = whole.tokens.index(stop)
    assert (done.tokens, done.finish, done.written) == (whole.tokens[:first], "stop", first + 1)
    assert (whole.finish, whole.written, whole.prompt_tokens) == ("length", 9, 6)


# ---- places


def test_cancelling_frees_the_place(tiny: Any) -> None:
    model, renderer = tiny
    prompts = prompts_of([4, 8, 6, 5])
    alone = one_by_one(model, prompts, 10, [])
    engine = Engine(model, renderer.tokenizer, [], places=2)
    numbers = [engine.submit(Request(prompt=prompt, max_new_tokens=10)) for prompt in prompts]
    engine.step()
    assert (engine.running, engine.waiting) == (2, 2)
    gone = engine.cancel(numbers[0])
    assert gone is not None and gone.done is not None
    assert (gone.done.finish, gone.done.tokens) == ("cancelled", alone[0][:1])
    assert engine.cancel(numbers[3]) is not None  # one that waited
    assert engine.cancel(numbers[0]) is None  # no longer there
    done = {piece.id: piece.done.tokens for piece in drain(engine) if piece.done}
    assert done == {numbers[1]: alone[1], numbers[2]: alone[2]}


def test_the_cache_is_bounded(tiny: Any) -> None:
    model, renderer = tiny
    engine = Engine(model, renderer.tokenizer, [], max_tokens_in_cache=128)
    for prompt in prompts_of([4, 8, 6, 5]):
        engine.submit(Request(prompt=prompt, max_new_tokens=10))
    engine.step()
    assert (engine.running, engine.waiting) == (2, 2)  # 2 rows x 64 columns
    drain(engine)
    slots = next(iter(engine._shared.values())).cache
    assert slots.capacity_rows * slots.capacity_columns <= 128
    with pytest.raises(DoesNotFit, match="max_tokens_in_cache"):
        Engine(model, renderer.tokenizer, [], max_tokens_in_cache=32).submit(Request(prompt=[5] * 30, max_new_tokens=3))


def test_what_cannot_be_answered_is_refused(tiny: Any) -> None:
    model, renderer = tiny
    engine = Engine(model, renderer.tokenizer, [])
    assert engine.context == 64
    with pytest.raises(ContextOverflow, match="60 prompt tokens and 5 new ones are 65"):
        engine.submit(Request(prompt=[5] * 60, max_new_tokens=5))
    with pytest.raises(RecipeError, match="no adapter 'x'"):
        engine.submit(Request(prompt=[5], max_new_tokens=5, adapter="x"))
    for wrong in ({"prompt": []}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}):
        with pytest.raises(RecipeError, match="a request needs"):
            engine.submit(Request(**({"prompt": [5], "max_new_tokens": 1} | wrong)))  # type: ignore[arg-type]
    said: list[str] = []
    answers = generate(model, renderer, [[5] * 60, [5] * 4], max_new_tokens=8, say=said.append)
    assert answers[0].tokens <= 4
    assert said == [
        "generation: 1 of 2 prompts leave room for fewer than 8 new tokens (the model sees 64); the least is 4"
    ]
    with pytest.raises(ContextOverflow) as caught:
        generate(model, renderer, [[5] * 64, [5], [5] * 70], max_new_tokens=8)
    assert [problem.where for problem in caught.value.problems] == ["prompt 1 of 3", "prompt 3 of 3"]


def test_logits_that_are_no_numbers_stop_it(tiny: Any) -> None:
    model, renderer = copy.deepcopy(tiny[0]), tiny[1]
    weights = model.get_input_embeddings().weight.data
    engine = Engine(model, renderer.tokenizer, [], places=2)
    prompts = [[6] * 21, [8, 9], [8, 9], [9, 8]]  # the last two get the place of the first
    alone = one_by_one(model, prompts[1:], 4, [])
    model.model.embed_tokens.register_forward_hook(
        lambda _, given, out: torch.where((given[0] == 6)[..., None], torch.nan, out)
    )
    ill, *well = run(engine, [Request(prompt=prompt, max_new_tokens=4) for prompt in prompts])
    assert (ill.finish, ill.tokens) == ("failed", [])
    assert [each.tokens for each in well] == alone  # nobody else is harmed
    weights[7] = torch.nan
    with pytest.raises(AfinaError, match="logits are NaN"):
        generate(model, renderer, prompts, max_new_tokens=2)


# ---- adapters


def with_adapters(model: Any, **kinds: dict[str, Any]) -> Any:
    """PEFT's model with adapters that change the answers."""
    from peft import LoraConfig, get_peft_model

    peft = None
    for seed, (name, kind) in enumerate(kinds.items()):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False, **kind)
        if peft is None:
            peft = get_peft_model(copy.deepcopy(model), config, adapter_name=name)
        else:
            peft.add_adapter(name, config)
    return peft.eval()


@pytest.mark.parametrize("second", [{}, {"use_dora": True}], ids=["mixed", "dora apart"])
def test_base_and_adapters_in_one_batch(tiny: Any, second: dict[str, Any]) -> None:
    model, renderer = tiny
    peft = with_adapters(model, one={}, two=second)
    prompts = prompts_of([5, 20, 3])
    expected = {BASE: one_by_one(model, prompts, 8, [2])}
    for name in ("one", "two"):
        peft.set_adapter(name)
        expected[name] = one_by_one(peft, prompts, 8, [2])
    assert len({str(each) for each in expected.values()}) == 3
    peft.set_adapter("one")
    engine = Engine(peft, renderer.tokenizer, [2])
    assert engine.adapters() == [BASE, "one", "two"]
    names = [name for name in expected for _ in prompts] + [None] * 3
    requests = [Request(prompt=p, max_new_tokens=8, adapter=n) for n, p in zip(names, prompts * 4, strict=True)]
    done = run(engine, requests)
    assert [each.tokens for each in done] == [*expected[BASE], *expected["one"], *expected["two"], *expected["one"]]
    assert peft.active_adapter == "one"
    for request in requests:
        engine.submit(request)
    engine.step()
    assert len(engine._shared) == (2 if second else 1)


def test_a_switched_off_adapter_stays_off(tiny: Any) -> None:
    model, renderer = tiny
    peft = with_adapters(model, one={})
    prompts = prompts_of([5, 20])
    base, adapted = one_by_one(model, prompts, 8, [2]), one_by_one(peft, prompts, 8, [2])
    with peft.disable_adapter():
        engine = Engine(peft, renderer.tokenizer, [2])
        requests = [Request(prompt=prompt, max_new_tokens=8) for prompt in prompts]
        requests += [Request(prompt=prompt, max_new_tokens=8, adapter="one") for prompt in prompts]
        assert [each.tokens for each in run(engine, requests)] == [*base, *adapted]
        assert one_by_one(peft, prompts, 8, [2]) == base
    assert one_by_one(peft, prompts, 8, [2]) == adapted


def test_prompt_tuning_takes_the_slow_path(tiny: Any) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model, renderer = tiny
    peft = get_peft_model(copy.deepcopy(model), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()
    prompts = prompts_of([5, 12])
    said: list[str] = []
    engine = Engine(peft, renderer.tokenizer, [2], say=said.append)
    done = run(engine, [Request(prompt=prompt, max_new_tokens=6) for prompt in prompts])
    for prompt, each in zip(prompts, done, strict=True):
        ids = list(prompt)
        for token in each.tokens:
            assert peft(torch.tensor([ids])).logits[0, -1].argmax() == token
            ids.append(token)
    assert len(said) == 1


def test_the_first_adapter_may_come_while_requests_run(tiny: Any) -> None:
    model, renderer = copy.deepcopy(tiny[0]), tiny[1]
    prompts = prompts_of([5, 20])
    base = one_by_one(model, prompts, 8, [2])
    engine = Engine(model, renderer.tokenizer, [2])
    first = engine.submit(Request(prompt=prompts[0], max_new_tokens=8))
    engine.step()
    peft = with_adapters(model, one={})
    engine.adopt(peft)
    second = engine.submit(Request(prompt=prompts[1], max_new_tokens=8, adapter="one"))
    done = {piece.id: piece.done.tokens for piece in drain(engine) if piece.done}
    assert done == {first: base[0], second: one_by_one(peft, prompts, 8, [2])[1]}


# ---- kept answers


def test_an_answer_is_paid_for_once(tiny: Any, tmp_path: Path) -> None:
    from afina.model.generate.stored_answers import KeptAnswers

    model, renderer = tiny
    prompts = prompts_of([5, 20, 3])
    ask = {"max_new_tokens": 6, "sampling": Sampling(logprobs=True)}

    def kept(weights: str = "base") -> KeptAnswers:
        return KeptAnswers(tmp_path / "_answers", weights)

    first = kept()
    answers = generate(model, renderer, prompts, kept=first, **ask)  # type: ignore[arg-type]
    assert first.hits == 0
    again = kept()
    broken = copy.deepcopy(model)
    broken.get_input_embeddings().weight.data[:] = torch.nan  # it is not asked at all
    ability_of(Caller(broken))
    assert generate(broken, renderer, prompts, kept=again, **ask) == answers  # type: ignore[arg-type]
    assert again.hits == 3
    others = (
        (kept("other weights"), {}),
        (kept(), {"max_new_tokens": 7}),
        (kept(), {"sampling": Sampling(stop=("a",), logprobs=True)}),
    )
    others += (kept(), {"sampling": Sampling(1.0, seed=1, logprobs=True)}), (kept(), {"sampling": Sampling()})  # type: ignore[assignment]
    for other, change in others:
        generate(model, renderer, prompts, kept=other, **(ask | change))  # type: ignore[arg-type]
        assert other.hits == 0
    drawing = Sampling(temperature=1.0, seed=1, logprobs=True)
    drawn = generate(
        model,
        renderer,
        prompts,
        kept=kept(),
        max_new_tokens=6,
        sampling=drawing,
    )
    unseeded = kept()
    lines = unseeded.file.read_bytes()
    generate(model, renderer, prompts, kept=unseeded, max_new_tokens=6, sampling=Sampling(temperature=1.0))
    assert unseeded.file.read_bytes() == lines  # another answer every time is not kept
    assert drawn == generate(
        broken,
        renderer,
        prompts,
        kept=kept(),
        max_new_tokens=6,
        sampling=drawing,
    )


def kept_answer(text: str) -> dict[str, Any]:
    return {"text": text, "tokens": 1, "stopped": True, "logprobs": [], "ids": []}


def test_answers_kept_before_there_were_ids_are_found(tmp_path: Path) -> None:
    from afina.model.generate.stored_answers import KeptAnswers

    before = {key: value for key, value in kept_answer("sim").items() if key != "ids"}
    KeptAnswers(tmp_path, "w").put("k", before)
    assert KeptAnswers(tmp_path, "w").get("k") == kept_answer("sim")


def test_kept_answers_survive_a_kill(tmp_path: Path) -> None:
    from afina.model.generate.stored_answers import KeptAnswers

    first = KeptAnswers(tmp_path, "w")
    for number in range(3):
        first.put(f"k{number}", kept_answer(f"não {number}"))
    whole = first.file.read_bytes()
    first.file.write_bytes(whole[:-9])  # killed while it wrote the last line
    second = KeptAnswers(tmp_path, "w")
    assert (second.damaged, second.get("k1"), second.get("k2")) == (1, kept_answer("não 1"), None)
    second.put("k3", kept_answer("3"))
    third = KeptAnswers(tmp_path, "w")
    assert (third.damaged, third.get("k3")) == (1, kept_answer("3"))
    assert KeptAnswers(tmp_path, "v").get("k3") is None


@pytest.mark.parametrize(
    "wrong", [{"text": 3}, {"tokens": "1"}, {"stopped": None}, {"logprobs": {}}, {"logprobs": ["x"]}]
)
def test_a_kept_answer_of_wrong_kinds_is_counted_and_asked_again(tmp_path: Path, wrong: dict[str, Any]) -> None:
    from afina.model.generate.stored_answers import KeptAnswers

    KeptAnswers(tmp_path, "w").put("k", kept_answer("Faro") | wrong)
    opened = KeptAnswers(tmp_path, "w")
    assert (opened.damaged, opened.get("k")) == (1, None)
