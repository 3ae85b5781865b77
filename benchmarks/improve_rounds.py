"""`afina improve` on the demo's world, where it can help and where it cannot.

    python benchmarks/improve_rounds.py --base runs/demo-base/model [--runs /tmp/rounds]
    python benchmarks/improve_rounds.py --tiny --base FOLDER                # a small world: shows that it runs

Two recipes over a base that knows 120 players (`afina demo` leaves one): 20 new players, whose documents and questions
in one phrasing alone are trained for one epoch, with general rows against forgetting. The second is over a base whose
tokenizer has neither capitals nor digits nor accents, and cannot write most answers; the audit's finding of that is
accepted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from afina.demo.demo import adapter_recipe
from afina.demo.world import Size, make_players, probe_rows, questions, write_world
from afina.recipe import Recipe, check_recipe

ROOT = Path(__file__).resolve().parent.parent
TINY = Size(old=4, new=4, unknown=2, replay_rows=20)


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    """One row a line."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def one_phrasing(runs: Path, base: Path, name: str, epochs: float, size: Size) -> Recipe:
    """The demo's adapter with one phrasing of each question and too few steps; what is asked beside it is asked in the
    other four."""
    world = runs / "world"
    write_world(world, size=size)
    new = make_players(size.old + size.new)[size.old :]
    write_rows(world / "new/questions.jsonl", questions(new, (0,)))
    write_rows(world / "probes/seen.jsonl", probe_rows(new, (0,)))
    write_rows(world / "probes/unseen.jsonl", probe_rows(new, (1, 2, 3, 4)))
    values = adapter_recipe(world.resolve(), base.resolve(), name).model_dump(mode="json")
    values["train"] |= {"epochs": epochs}
    values["sources"] = [source | {"repeat": 1} for source in values["sources"]]
    return check_recipe(values)


def letterless_base(folder: Path) -> Path:
    """A tiny base with random weights whose tokenizer is the small letters of English."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ("[UNK]", "[PAD]", "[EOS]", *"abcdefghijklmnopqrstuvwxyz .,?")
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="[UNK]"))
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]")
    fast.save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), max_position_embeddings=512, **shape)).save_pretrained(folder)
    return folder


def afina(*words: str) -> int:
    """A verb's exit code; it prints what it has to say.

    Raises:
        SystemExit: it ended without a verdict.
    """
    code = subprocess.run([sys.executable, "-m", "afina", *words], cwd=ROOT, check=False).returncode
    if code not in (0, 5):
        raise SystemExit(f"`afina {' '.join(words)}` ended with exit code {code}")
    return code


def main() -> None:
    """Both, and what they print."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--base", type=Path, help="a model's folder")
    given.add_argument("--runs", type=Path, default=Path("runs/rounds"))
    given.add_argument("--rounds", default="6")
    given.add_argument("--only", choices=("mended", "hopeless"))
    given.add_argument("--tiny", action="store_true", help="a small world, a round of each: shows that it runs")
    options = given.parse_args()
    if options.base is None:
        print("left out: name the base that `afina demo` leaves with --base")
        return
    size, options.rounds = (TINY, "1") if options.tiny else (Size(), options.rounds)
    options.runs = options.runs.resolve()
    options.runs.mkdir(parents=True, exist_ok=True)
    recipes = {"mended": one_phrasing(options.runs, options.base, "mended", 1.0, size)}
    if options.only != "mended":
        letterless = letterless_base(options.runs / "letterless")
        values = one_phrasing(options.runs, letterless, "hopeless", 1.0, size).model_dump()
        values["chat"] |= {"template": "chatml"}
        values["dataset"] |= {"accept": ["letters_not_in_vocabulary"]}
        recipes["hopeless"] = check_recipe(values)
    for name, recipe in recipes.items():
        if options.only not in (None, name):
            continue
        file = options.runs / f"{name}.yaml"
        file.write_text(recipe.to_yaml(), encoding="utf-8")
        code = afina("improve", str(file), "--rounds", options.rounds, "--runs", str(options.runs))
        print(f"{name}: exit code {code}", flush=True)


if __name__ == "__main__":
    main()
