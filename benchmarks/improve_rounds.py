"""`afina improve` on the demo's world, where it can help and where it cannot.

    python benchmarks/improve_rounds.py --base runs/demo-base/model [--runs /tmp/rounds]

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
from afina.demo.world import make_players, probe_rows, questions, write_world
from afina.recipe import Recipe, check_recipe

ROOT = Path(__file__).resolve().parent.parent


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    """One row a line."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def one_phrasing(runs: Path, base: Path, name: str, epochs: float) -> Recipe:
    """The demo's adapter with one phrasing of each question and too few steps; what is asked beside it is asked in the
    other four."""
    world = runs / "world"
    write_world(world)
    new = make_players(140)[120:]
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


def main() -> None:
    """Both, and what they print."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--base", type=Path, required=True)
    given.add_argument("--runs", type=Path, default=Path("runs/rounds"))
    given.add_argument("--rounds", default="6")
    given.add_argument("--only", choices=("mended", "hopeless"))
    options = given.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    recipes = {"mended": one_phrasing(options.runs, options.base, "mended", 1.0)}
    if options.only != "mended":
        values = one_phrasing(options.runs, letterless_base(options.runs / "letterless"), "hopeless", 1.0).model_dump()
        values["chat"] |= {"template": "chatml"}
        values["dataset"] |= {"accept": ["letters_not_in_vocabulary"]}
        recipes["hopeless"] = check_recipe(values)
    for name, recipe in recipes.items():
        if options.only not in (None, name):
            continue
        file = options.runs / f"{name}.yaml"
        file.write_text(recipe.to_yaml(), encoding="utf-8")
        words = ["improve", str(file), "--rounds", options.rounds, "--runs", str(options.runs)]
        done = subprocess.run([sys.executable, "-m", "afina", *words], cwd=ROOT, check=False)
        print(f"{name}: exit code {done.returncode}", flush=True)


if __name__ == "__main__":
    main()
