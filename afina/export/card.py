"""The model card: what stands in ``README.md`` beside an export, from what the run wrote.

Nothing of this machine goes into it: folders are named by their last part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from afina import __version__
from afina.evaluate.scores import MADE_UP, Scores, read_scores
from afina.export.origin import Origin
from afina.manifest import Manifest, read_manifest
from afina.model.base_kind import kind_of_config, reads_images
from afina.model.gguf_folder import read_origin
from afina.model.hub import hub_commit
from afina.model.licence import licence_of
from afina.recipe import HUB, WEB, Recipe
from afina.record import read_record
from afina.run import hash_file
from afina.units import show_bytes, show_count, show_share
from afina.verify.card_again import HEADING, as_table, missed_lines, score_parts, verdict_line
from afina.verify.commitment import COMMITMENT
from afina.verify.proof import PROOF

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LIBRARY = {"adapter": "peft", "merged": "transformers", "mlx": "mlx", "gguf": "gguf", "gguf-lora": "gguf"}
_LIBRARY |= {"ollama": "gguf"}
ADAPTERS = ("adapter", "gguf-lora")
"""What is nothing without its base."""


def write_card(
    origin: Origin,
    folder: Path,
    *,
    holds: str,
    comparison: Mapping[str, Any] | None,
    notes: Sequence[str],
    licence: str | None,
) -> str:
    """The card's text.

    Args:
        folder: the export as far as it is written; its files are hashed.
        holds: `adapter`, `merged`, `gguf`, `gguf-lora`, `mlx` or `ollama`: what the folder holds.
        comparison: from :meth:`afina.export.compare.Comparison.as_json`; None where it was not made.
        notes: what the user has to know of the conversion.
    """
    scores, manifest = read_scores(origin.run) or Scores(), read_manifest(origin.run) or Manifest()
    name, (terms, source) = origin.recipe.name, licence_of(origin.base, licence)
    parts = [
        _head(origin, holds, terms),
        f"# {name}",
        _what(origin, holds, scores),
        HEADING,
        *score_parts(scores),
        "## Is this export the trained model?",
        *_comparison(comparison),
        *([as_list(notes)] if notes else []),
        *_proven(folder),
        "## How to use it",
        _use(origin, holds),
        "## Data",
        *about_data(origin.run, origin.recipe),
        "## How it was trained",
        _method(origin, manifest),
        "## Limits",
        as_list(_limits(origin, scores)),
        "## Licence",
        f"`{terms}` ({source}). The licence of the data is for whoever publishes this to know.",
        "## Hashes (SHA-256)",
        as_table(["what", "hash"], [[what, f"`{value}`"] for what, value in _hashes(manifest, folder)]),
        f"Written by afina {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def public_base(origin: Origin) -> str | None:
    """The base's id on the hub; None for a folder of this machine, or for a model from nothing."""
    given = origin.recipe.base
    return given if given and not Path(given).exists() and _HUB_ID.fullmatch(given) else None


def base_name(origin: Origin) -> str:
    """The base as a reader elsewhere may know it."""
    given = origin.recipe.base
    if given is None:
        return "random weights"
    if public := public_base(origin):
        return public
    if gguf := read_origin(origin.base):
        return str(gguf["file"])
    folder = Path(given)
    return folder.parent.name if folder.name == "model" else folder.name  # runs/NAME/model is the run NAME


def _head(origin: Origin, holds: str, licence: str) -> str:
    """The metadata that the hub reads. JSON values are YAML, too."""
    recipe = origin.recipe
    values: dict[str, Any] = {
        **licence_values(licence),
        "language": [recipe.dataset.language[:2]],
        "library_name": _LIBRARY[holds],
        "pipeline_tag": "text-generation",
        "tags": ["afina", *([recipe.adapter.variant] if origin.adapter else [])],
    }
    if base := public_base(origin):
        values["base_model"] = base
        values["base_model_relation"] = "adapter" if holds in ADAPTERS else "finetune"
    datasets = [each.path.removeprefix(HUB).split("?")[0] for each in recipe.sources if each.path.startswith(HUB)]
    if datasets:
        values["datasets"] = datasets
    return "\n".join(
        ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()), "---"]
    )


def licence_values(terms: str) -> dict[str, str]:
    """A licence as the hub's metadata has it, which takes an id and refuses the whole card for a title.

    >>> licence_values("MIT"), licence_values("Apache License")
    ({'license': 'mit'}, {'license': 'other', 'license_name': 'apache-license'})
    """
    if re.fullmatch(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", terms.lower()):
        return {"license": terms.lower()}
    name = "-".join(re.findall(r"[a-z0-9.]+", terms.lower())) or "unknown"
    return {"license": "other", "license_name": name}


def _what(origin: Origin, holds: str, scores: Scores) -> str:
    recipe = origin.recipe
    what = {
        "adapter": "A LoRA adapter for",
        "gguf-lora": "A LoRA adapter in GGUF format for",
        "merged": "A model with an adapter merged into",
    }.get(holds, f"A model in {holds.upper()} format, made of")
    if not origin.adapter:
        what = "A model of which every weight was trained, from"
    said = f"{what} {base_name(origin)}"
    if recipe.adapter.kind == "qlora" and origin.adapter and holds != "adapter":
        said += f", in {origin.precision} (it was trained and measured over the base in 4 bits)"
    verdict = verdict_line(scores)
    return f"{said}.\n\n{verdict}" if verdict else f"{said}. It was not measured."


def _comparison(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        yield "It was not compared (`--no-check`)."
        return
    rows = [
        ["prompts, token for token", f"{found['same_prompts']} of {found['asked']}"],
        ["greedy answers, token for token", f"{found['same_answers']} of {found['asked']}"],
        ["difference of logits", f"{found['logit_mean']:.2g} mean, {found['logit_max']:.2g} largest"],
        ["KL from the run's model, nats", f"{found['kl_mean']:.2g} mean, {found['kl_max']:.2g} largest"],
    ]
    if found["perplexity"] is not None:
        figures = (
            f"{found['perplexity_run']:.4f} in the run, {found['perplexity']:.4f} here ({found['targets']} tokens)"
        )
        rows.append(["perplexity on held-out rows", figures])
    yield f"Opened by {found['program']}, weights {found['kind']}, and held against the run's own model:"
    yield as_table(["", ""], rows)
    if said := [f"rounding: {each}" for each in found["rounded"]] + list(found["notes"]):
        yield as_list(said)


def _proven(folder: Path) -> Iterator[str]:
    """How a reader checks the scores by themselves."""
    file = folder / PROOF / COMMITMENT
    if file.is_file():
        yield (
            f"`{PROOF}/` holds every question, every answer, the scores, and what the run committed to before its "
            f"training (`{COMMITMENT}`, SHA-256 `{hash_file(file)}`). To check them, and to ask again: "
            "`pip install afina`, then `afina verify` with this folder."
        )


def _use(origin: Origin, holds: str) -> str:
    base, name = base_name(origin), origin.recipe.name
    commit = hub_commit(origin.base) if public_base(origin) else None
    pinned = f', revision="{commit}"' if commit else ""
    opener = "AutoModelForImageTextToText" if reads_images(origin.config) else "AutoModelForCausalLM"
    imports = f"from transformers import {opener}, AutoTokenizer"
    if kind_of_config(origin.config).name == "recurrent":
        imports += "\n\nfrom afina.model.rnn_torch import register_recurrent\n\nregister_recurrent()"
    code = {
        "adapter": f"from peft import PeftModel\n{imports}\n\n"
        f"model = {opener}.from_pretrained({json.dumps(base, ensure_ascii=False)}{pinned})\n"
        'model = PeftModel.from_pretrained(model, "THIS_FOLDER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
        "merged": f"{imports}\n\n"
        f'model = {opener}.from_pretrained("THIS_FOLDER")\n'
        'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
        "mlx": 'mlx_lm.generate --model THIS_FOLDER --prompt "..." --temp 0',
        "gguf": f"llama-server -m {name}.gguf --jinja",
        "gguf-lora": f"llama-server -m {quote(base.rpartition('/')[2] + '.gguf')} --lora {name}-lora.gguf --jinja",
        "ollama": f"ollama create {name.lower()} -f Modelfile\nollama run {name.lower()}",
    }[holds]
    language = "python" if holds in ("adapter", "merged") else "sh"
    system = origin.recipe.chat.system
    note = (
        f"\n\nIt was trained with the system text {system!r}; the chat template writes it by itself." if system else ""
    )
    if system and holds in ADAPTERS:
        note = f"\n\nIt was trained with the system text {system!r}: give it in every conversation."
    return f"```{language}\n{code}\n```{note}"


def about_data(run: Path, recipe: Recipe) -> Iterator[str]:
    """The sources of a run as a table, and how many examples were made of them."""
    rows = []
    for source in recipe.sources:
        shown = source.path if source.path.startswith((HUB, *WEB)) or not Path(source.path).is_absolute() else ""
        path = shown or Path(source.path).name
        what = [
            "against forgetting" if source.replay else "",
            f"{source.repeat} times an epoch" if source.repeat > 1 else "",
        ]
        rows.append([f"`{path}`", ", ".join(filter(None, what))])
    yield as_table(["source", ""], rows)
    data = read_record(run / "dataset/dataset.json")
    if data and (train := data.record("train")):
        dropped = [f"{count:.0f} {reason.replace('_', ' ')}" for reason, count in data.record("dropped").numbers()]
        yield (
            f"{train.required_whole('examples')} examples to train ({train.whole('conversations') or 0} conversations, "
            f"{train.whole('texts') or 0} texts; {show_count(train.required_number('characters'))} characters), "
            f"{data.record('validation').required_whole('examples')} held out. "
            + (f"Left out: {', '.join(dropped)}." if dropped else "Nothing was left out.")
        )


def _method(origin: Origin, manifest: Manifest) -> str:
    train, adapter = origin.recipe.train, origin.recipe.adapter
    said = [f"{train.method}, {train.epochs:g} epochs, learning rate {train.learning_rate:g} ({train.schedule})"]
    if origin.adapter:
        kind = "QLoRA" if adapter.kind == "qlora" else "LoRA"
        variant = "" if adapter.variant == "lora" else f" ({adapter.variant})"
        said.append(f"{kind}{variant}, rank {adapter.rank}, alpha {adapter.alpha:g}")
    if train.first:
        said.append(f"after a first stage of {train.first.method}")
    if manifest.measured:
        steps, tokens, seconds, peak = map(
            manifest.measured.required_number, ("steps", "tokens", "train_seconds", "peak_bytes")
        )
        said.append(
            f"{steps:.0f} steps, {show_count(tokens)} tokens, "
            f"{seconds:.0f} s on {manifest.device.required_text('used')}, {show_bytes(peak)}"
        )
    return "; ".join(said) + "."


def _limits(origin: Origin, scores: Scores) -> list[str]:
    verdict = scores.verdict
    said = [*missed_lines(scores), *verdict.notes] if verdict else []
    for probe in scores.probes:
        shown = probe.figures()[0]
        if shown.counted is MADE_UP and shown.after:
            said.append(f"Asked what it was never told, it makes up {show_share(shown.after)} of its answers.")
    said.append("Scores hold for questions like those asked, answered greedily, and say nothing of others.")
    said.append(f"It was trained on rows of at most {origin.recipe.train.max_length} tokens.")
    return said


def _hashes(manifest: Manifest, folder: Path) -> Iterator[tuple[str, str]]:
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.gguf")]):
        yield f"`{file.name}` here", hash_file(file)
    if trained := manifest.trained:
        yield f"the run's {trained.kind} (names and hashes of its weights)", str(trained.weights_sha256)
    if manifest.base:
        yield "the base (names and hashes of its weights)", manifest.base.required_text("weights_sha256")
    if manifest.dataset:
        yield "the dataset (names and hashes of its files)", manifest.dataset.required_text("sha256")


def as_list(items: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {item}" for item in items)
