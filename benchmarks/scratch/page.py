"""The figures as Markdown: what `make scratch` prints, and what stands in docs/scratch.md between two marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from afina.units import show_count, show_money, show_seconds, show_share
from benchmarks.experiment import Figures, cell, code, table

TITLES = {
    "v1": "LSTM of 256, characters",
    "v2": "LSTM of 512, characters",
    "v3": "two LSTMs of 512, characters",
    "v4-gru": "two GRUs of 512, subwords",
    "v4-lstm": "two LSTMs of 512, subwords",
    "v5": "Transformer of 4 x 256, subwords",
    "v5b": "Transformer of 6 x 320, subwords",
    "v6": "the same, a larger vocabulary",
    "adapter": "LoRA over v6, short answers",
}


def page_of(figures: Figures) -> str:
    """All that stands between the marks."""
    runs: Mapping[str, Mapping[str, Any]] = figures["runs"]
    ladder = {name: run for name, run in runs.items() if run["windows"]}
    parts = [f"{figures['measured']}, {figures['device']}, {figures['threads']:.0f} threads."]
    if ladder:
        read = next(iter(ladder.values()))["windows"]
        parts += [_ladder(ladder), f"Bits per byte of {read['windows']} windows, {read['bytes']:,} bytes in all."]
        parts += [_order(ladder), _tokenizers(ladder), _written(ladder)]
    parts += [_adapter(runs["adapter"], runs)] if "adapter" in runs else []
    parts += [_samples(figures["samples"], list(ladder))] if figures["samples"] else []
    return "\n\n".join(parts)


def _ladder(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each version."""
    rows = [["", "", "bits per byte", "parameters", "tokens", "FLOP", "training", "everything", "cost"]]
    for name, run in runs.items():
        after = run["windows"]["after"]
        ends = "" if after["low"] is None else f" [{after['low']:.3f}, {after['high']:.3f}]"
        rows.append(
            [
                name,
                TITLES[name],
                f"{after['bits_per_byte']:.3f}{ends}",
                show_count(run["parameters"]),
                show_count(run["tokens"]),
                "-" if run["flops"] is None else f"{run['flops']:.3g}",
                show_seconds(run["train_seconds"]),
                show_seconds(3600 * run["hours"]),
                _money(run["money"], run["currency"]),
            ]
        )
    return table(rows)


def _money(amount: float | None, currency: str) -> str:
    return "-" if amount is None else show_money(amount, currency)


def _order(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The versions by what they reached, in words, and which neighbours may stand the other way round. Those of which
    no token holds as many characters as of most (they fold them) predict another text, and have no place."""
    lost = {name: run["windows"].get("lost", 0) for name, run in runs.items()}
    usual = max(lost.values(), key=list(lost.values()).count)
    reached = {name: run["windows"]["after"] for name, run in runs.items() if lost[name] == usual}
    order = sorted(reached, key=lambda name: reached[name]["bits_per_byte"])
    close = [f"{one} and {two}" for one, two in pairwise(order) if _overlap(reached[one], reached[two])]
    said = f"From the best to the worst: {', '.join(order)}."
    said += f" The intervals of {', '.join(close)} overlap." if close else ""
    others = [f"{name} ({lost[name]:,} characters)" for name in runs if name not in reached]
    if others:
        said += f" Not ranked, since no token holds what they fold and nobody predicts it: {', '.join(others)}."
    return said


def _overlap(better: Mapping[str, Any], worse: Mapping[str, Any]) -> bool:
    """Whether two intervals do; whether they may, where one is not known."""
    return better["high"] is None or worse["low"] is None or better["high"] >= worse["low"]


def _tokenizers(runs: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [["tokenizer of", "kind", "entries", "of them used", "characters a token", "tokens a word", "byte fallback"]]
    rows[0].append("short pieces")
    for name, run in runs.items():
        cut = run["tokenizer"]
        rows.append(
            [
                name,
                cell(cut["kind"]),
                f"{cut['vocabulary']:,}",
                show_share(cut["used_share"]),
                f"{cut['characters_per_token']:.2f}",
                f"{cut['tokens_per_word']:.2f}",
                f"{cut['fallback_ratio']:.4f}",
                f"{cut['short_ratio']:.4f}",
            ]
        )
    return f"How each vocabulary cuts the held-out works:\n\n{table(rows)}"


def _written(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with the samples, by measures that do not depend on the vocabulary."""
    rows = [["written by", "broken words", "flaws of the texts"]]
    for name, run in runs.items():
        broken = run["broken"]
        shown = "-"
        if broken:
            shown = f"{show_share(broken['share'])} [{show_share(broken['low'])}, {show_share(broken['high'])}]"
        flaws = ", ".join(f"{count} {flaw.replace('_', ' ')}" for flaw, count in (run["flaws"] or {}).items() if count)
        rows.append([name, shown, f"{flaws or 'none'} of {run['texts']}" if run["texts"] else "-"])
    control = next((run["control"] for run in runs.values() if run["control"] is not None), None)
    lacks = f"; of the held-out works {show_share(control)} are such words" if control is not None else ""
    return f"Words that stand nowhere in what was learned{lacks}:\n\n{table(rows)}"


def _adapter(adapter: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Both tracks: what v6 answers, and what the adapter over it does, beside what they cost."""
    rows = [["", "held-out loss, nats a token", *(_title(score) for score in adapter["scores"]), "time", "cost"]]
    losses = adapter["loss"] or {"before": None, "after": None}
    for side, title, key in (("before", adapter["base"] or "its base", None), ("after", "with the adapter", adapter)):
        spent = runs.get("v6") if key is None else adapter
        hours = spent["hours_with_base"] or spent["hours"] if spent else None
        money = (spent["money_with_base"] or spent["money"]) if spent else None
        rows.append(
            [
                title,
                "-" if losses[side] is None else f"{losses[side]:.3f}",
                *("-" if score[side] is None else f"{score[side]:.3f}" for score in adapter["scores"]),
                "-" if hours is None else show_seconds(3600 * hours),
                _money(money, adapter["currency"]),
            ]
        )
    gains = adapter["gains"]
    rows.append(
        ["difference, row by row", _gain(gains.get("loss")), *(_gain(gains.get(_title(s))) for s in adapter["scores"])]
    )
    rows[-1] += ["", ""]
    return f"The adapter over v6, on answers of three words at most:\n\n{table(rows)}"


def _gain(found: Mapping[str, float | None] | None) -> str:
    """A paired difference with its 95 % interval.

    >>> _gain({"value": 0.1, "low": -0.05, "high": 0.25}), _gain(None)
    ('+0.100 [-0.050, +0.250]', '-')
    """
    value, low, high = (found or {}).get("value"), (found or {}).get("low"), (found or {}).get("high")
    if value is None:
        return "-"
    return f"{value:+.3f}" + ("" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]")


def _title(score: Mapping[str, Any]) -> str:
    return f"{score['task']}, {score['metric']}"


def _samples(samples: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """What each version goes on with behind the same prompts."""
    lines = [f"What each version goes on with, drawn at the same temperature with seed {samples[0]['seed']}:"]
    for each in samples:
        lines += ["", f"> {cell(each['prompt'])} ...", ""]
        lines += [f"- {name}: {code(each[name])}" for name in names if name in each]
    return "\n".join(lines)
