"""A sampled text is held against the numbers that its seed draws it by, on another machine too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import make_base, make_recipe

from afina.evaluate.continuations import SEEDS, TEMPERATURE, room_behind, sampling_of
from afina.evaluate.written import TextJudge
from afina.model.generate.drawn_torch import DrawnText, intervals_of, is_drawn
from afina.model.generate.engine_torch import Engine
from afina.model.generate.generate_torch import Numbers, answer_keys, generate, seed_of
from afina.model.generate.request import Request
from afina.model.load_torch import load_base
from afina.recipe import PROMPT_SEEDS, Chat
from afina.record import Record
from afina.run import no_progress
from afina.tokenizer.chat import Renderer
from afina.tokenizer.load import load_tokenizer
from afina.verify.continuations_again import StoredTexts, TextsAgain
from afina.verify.held_against import HeldAgainst, draw_within

PROMPTS = ["Onde nasceu Ana Faro?", "Rui de Tavira"]
HERE, ELSEWHERE = Numbers("float32 cpu", exact=True), Numbers("bfloat16 cuda", exact=False)
ROUNDING = 1e-6


@pytest.fixture(autouse=True, scope="module")
def short_texts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afina.evaluate.continuations.CHARACTERS", 60)
        yield


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Renderer]:
    base = make_base(tmp_path_factory.mktemp("base"), max_position_embeddings=256)
    model = load_base(base, make_recipe(base), torch.device("cpu")).eval()
    return model, Renderer(load_tokenizer(str(base), Chat()), Chat())


def test_each_token_lies_where_its_seed_draws(opened: tuple[Any, Renderer]) -> None:
    model, renderer = opened
    prompts, sampling = [renderer.completion_prompt(each) for each in PROMPTS], sampling_of(101)
    answers = generate(model, renderer, prompts, max_new_tokens=12, sampling=sampling)
    keys = answer_keys(prompts, [12, 12], sampling, HERE, renderer.stop_ids())
    for prompt, answer, key in zip(prompts, answers, keys, strict=True):
        intervals = intervals_of(model, renderer, DrawnText(prompt, answer.ids, answer.stopped), TEMPERATURE)
        assert len(intervals) == len(answer.ids) + answer.stopped
        assert is_drawn(intervals, seed_of(key), 1e-6)
        assert not is_drawn(intervals, seed_of(key) + 1, draw_within(ROUNDING))
        other = [*answer.ids[:-1], (answer.ids[-1] + 50) % len(renderer.tokenizer)]
        edited = intervals_of(model, renderer, DrawnText(prompt, other, False), TEMPERATURE)
        assert not is_drawn(edited, seed_of(key), draw_within(ROUNDING))


def written_in(model: Any, renderer: Renderer, numbers: Numbers, texts: list[str] = PROMPTS) -> StoredTexts:
    """What a run that computed in such numbers would have stored."""
    prompts = [renderer.completion_prompt(each) for each in texts]
    room = room_behind(texts, prompts)
    engine = Engine(model, renderer.tokenizer, renderer.stop_ids())
    rows: dict[int | None, list[Record]] = {}
    for seed in SEEDS:
        keys = answer_keys(prompts, [room] * len(prompts), sampling_of(seed), numbers, renderer.stop_ids())
        rows[seed] = []
        for text, prompt, key in zip(texts, prompts, keys, strict=True):
            drawn: dict[str, Any] = {} if seed is None else {"temperature": TEMPERATURE, "seed": seed_of(key)}
            engine.submit(Request(prompt=prompt, max_new_tokens=room, **drawn))
            done = next(each.done for each in steps(engine) if each.done)
            row = {"prompt": text, "seed": seed, "output": done.text.strip(), "stopped": done.finish == "stop"}
            rows[seed].append(Record(row | {"token_ids": done.tokens}, "continuations.jsonl"))
    return StoredTexts(texts, rows, TextJudge(None))


def steps(engine: Engine) -> Any:
    while engine.busy:
        yield from engine.step()


@pytest.mark.parametrize("numbers", [HERE, ELSEWHERE], ids=["here", "elsewhere"])
def test_texts_drawn_on_another_device_are_held_by_its_numbers(opened: tuple[Any, Renderer], numbers: Numbers) -> None:
    """The seed of a draw follows from what computes; which that was, the texts themselves tell."""
    texts, sampled = written_in(*opened, numbers), len(PROMPTS) * len(PROMPT_SEEDS)
    asks = TextsAgain(*opened, 0.01, ROUNDING, None, no_progress)
    again = asks.write(texts, found := HeldAgainst())
    assert again.wrong == [] and found.computed and again.asked == len(PROMPTS) + sampled
    assert len(again.rounded) == (0 if numbers == HERE else sampled)
    first = texts.rows[PROMPT_SEEDS[0]]
    ids = [*first[0].values["token_ids"]]
    ids[2] = (ids[2] + 50) % len(opened[1].tokenizer)
    first[0] = Record({**first[0].values, "token_ids": ids}, "continuations.jsonl")
    (wrong,) = asks.write(texts, HeldAgainst()).wrong
    assert f"behind {PROMPTS[0]!r} by seed {PROMPT_SEEDS[0]}, does not write what is stored" in wrong


def test_prompts_that_are_the_same_tokens_drew_by_numbers_of_their_own(opened: tuple[Any, Renderer]) -> None:
    """As two are of which a tokenizer folds the difference: the second one's texts were called another model's."""
    texts = written_in(*opened, ELSEWHERE, [PROMPTS[1]] * 2)
    again = TextsAgain(*opened, 0.01, ROUNDING, None, no_progress).write(texts, HeldAgainst())
    assert again.wrong == [] and len(again.rounded) == 2 * len(PROMPT_SEEDS)


def test_no_text_is_longer_than_its_room_and_none_goes_on_behind_an_end(opened: tuple[Any, Renderer]) -> None:
    """Such a text cannot have been drawn at all, wherever its numbers lie."""
    texts = written_in(*opened, HERE)
    asks = TextsAgain(*opened, 0.01, ROUNDING, None, no_progress)
    first = texts.rows[PROMPT_SEEDS[0]]
    kept = dict(first[0].values)
    for ids, stopped in (
        ([*kept["token_ids"], 5], False),
        (kept["token_ids"][:-1], False),
        ([*kept["token_ids"][:-1], opened[1].stop_ids()[0]], False),
    ):
        first[0] = Record({**kept, "token_ids": ids, "stopped": stopped}, "continuations.jsonl")
        assert len(asks.write(texts, HeldAgainst()).wrong) == 1
