"""Every check over the examples of one split of a dataset, or of a chunk of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from afina.dataset.audit.along_rows import CutAnswers, ShiftedAnswers, UnicodeForms
from afina.dataset.audit.answer_checks import ANSWER_CHECKS
from afina.dataset.audit.between_examples import Across, LanguageMix, LengthBias
from afina.dataset.audit.exchange import Exchange, exchanges
from afina.dataset.audit.one_example import CHECKS, Spot, excerpt, whole
from afina.dataset.audit.rules import FEWEST_EXAMPLES, RULES, Finding, Severity, make_finding
from afina.dataset.audit.text_checks import TEXT_CHECKS
from afina.dataset.audit.token_audit import TokenAudit
from afina.dataset.audit.turn_checks import TURN_CHECKS, Thinking
from afina.text.example import Example
from afina.text.formats import has_own_lines
from afina.text.personal_data import find_personal_data

LearnedOrHeldOut = Literal["train", "validation"]
ALL_CHECKS = CHECKS | TURN_CHECKS
EXAMPLES_SHOWN = 5
MIXED_ABOVE = 0.10
"""Share of examples in another language from which on it is a warning."""


@dataclass
class _Tally:
    count: int = 0
    shown: list[dict[str, str]] = field(default_factory=list)

    def hit(self, where: str, text: str) -> None:
        self.count += 1
        if len(self.shown) < EXAMPLES_SHOWN:
            self.shown.append({"where": where, "text": text})

    def merge(self, later: _Tally) -> None:
        self.count += later.count
        self.shown = [*self.shown, *later.shown][:EXAMPLES_SHOWN]


class SplitAudit:
    """Feed it the examples of a split with :meth:`add`, or what was seen of its chunks, in their order, with
    :meth:`merge`; then :meth:`findings`."""

    def __init__(self, split: LearnedOrHeldOut, expected: str = "") -> None:
        self.split = split
        self.personal_data: Counter[str] = Counter()
        self.languages = LanguageMix(expected)
        self.lengths, self.cut, self.shifted, self.forms = LengthBias(), CutAnswers(), ShiftedAnswers(), UnicodeForms()
        self.thinking = Thinking()
        self.shown_in: dict[str, _Tally] = {}
        self.examples = self.conversations = 0
        self.tallies = {name: _Tally() for name in RULES}

    def add(self, example: Example) -> None:
        """Look at one example."""
        self.examples += 1
        self.conversations += bool(example.messages)
        for name, check in ALL_CHECKS.items():
            spot = check(example)
            if spot:
                self._hit(name, example, spot)
                if name == "personal_data":
                    self.personal_data.update(found.kind for found in find_personal_data(whole(example)))
        self._see_answers(example)
        self._see_language(example)
        self.lengths.add(example)
        self.thinking.add(example)
        self.forms.see(whole(example), f"{example.path}:{example.line}")

    def merge(self, later: SplitAudit) -> None:
        """Add what was seen of the rows that follow."""
        self.examples += later.examples
        self.conversations += later.conversations
        for name, tally in later.tallies.items():
            self.tallies[name].merge(tally)
        for language, shown in later.shown_in.items():
            self.shown_in.setdefault(language, _Tally()).merge(shown)
        self.personal_data.update(later.personal_data)
        self.languages.merge(later.languages)
        self.lengths.merge(later.lengths)
        self.cut.merge(later.cut)
        self.shifted.merge(later.shifted)
        self.forms.merge(later.forms)
        self.thinking.merge(later.thinking)

    def _see_answers(self, example: Example) -> None:
        """Each answer by itself; a flaw counts once for an example."""
        found: set[str] = set()
        said: list[Exchange] = list(exchanges(example))
        own_lines = not example.messages and has_own_lines(example.path)
        for each in said:
            for checks in (ANSWER_CHECKS if each.asked else {}, TEXT_CHECKS):
                for name, check in checks.items():
                    if name not in found and (at := check(each)) is not None:
                        found.add(name)
                        below = each.answer.count("\n", 0, at) if own_lines else 0
                        self._hit(name, example, Spot(excerpt(each.answer, at), below))
            if each.asked and not example.made and "answer_loops" not in found:
                self.cut.see(each, f"{example.path}:{example.line}")
        if len(said) == 1 and said[0].asked and not example.made:
            self.shifted.see(said[0], example.path, example.line)

    def _see_language(self, example: Example) -> None:
        language = self.languages.add(example)
        shown = self.shown_in.setdefault(language, _Tally())
        if language and len(shown.shown) < EXAMPLES_SHOWN:
            shown.hit(f"{example.path}:{example.line}", excerpt(f"{language}: {whole(example)}"))

    def _hit(self, name: str, example: Example, spot: Spot) -> None:
        self.tallies[name].hit(f"{example.path}:{example.line + spot.lines_below}", spot.text)

    def findings(
        self, between: Sequence[Across] = (), warn_only: Sequence[str] = (), tokens: TokenAudit | None = None
    ) -> Iterator[Finding]:
        """What was found in the split.

        Args:
            between: what was found between its rows.
            warn_only: names that are not fatal here.
            tokens: what a base's tokenizer showed of them.
        """
        for name, tally in self.tallies.items():
            if tally.count:
                what = self._kinds() if name == "personal_data" else ""
                yield make_finding(name, tally.count, self.examples, tally.shown, self.split, what=what)
        for across in between:
            if across.count:
                told = across.name in warn_only
                yield make_finding(
                    across.name, across.count, across.of, across.shown, self.split, what=across.what, warn_only=told
                )
        if self.split == "train" and self.examples < FEWEST_EXAMPLES:
            yield make_finding("too_few_examples", self.examples, self.examples, [], self.split)
        yield from self._along_rows()
        yield from self._language_mix()
        for item in tokens.findings() if tokens else ():
            yield make_finding(
                item.name,
                item.count,
                item.of,
                item.examples,
                self.split,
                what=item.what,
                severity=item.severity,
                fix=item.fix,
            )

    def _along_rows(self) -> Iterator[Finding]:
        """What only many rows show."""
        if cut := self.cut.found():
            count, unit, limit, places = cut
            what = f"{RULES['cut_answers'].what}: {limit} {unit}"
            yield make_finding("cut_answers", count, self.cut.answers, _places(places), self.split, what=what)
        shifted, places = self.shifted.found()
        if shifted:
            shown = _places(places, "from here on")
            yield make_finding("shifted_answers", shifted, self.examples, shown, self.split)
        forms = self.forms
        if forms.decomposed:
            what = (
                f"{RULES['unicode_mixed'].what}: {forms.decomposed} rows hold such letters, {forms.composed} composed"
            )
            shown = _places(forms.places)
            yield make_finding("unicode_mixed", forms.decomposed, self.examples, shown, self.split, what=what)
        if self.split == "train" and (pairs := self.lengths.pairs):
            what = f"{RULES['length_bias'].what} are {self.lengths} of {pairs} pairs"
            severity: Severity = "warning" if self.lengths.strong else "note"
            yield make_finding("length_bias", self.lengths.longer, pairs, [], self.split, what=what, severity=severity)

        if (thinking := self.thinking).on_some:
            what = f"{thinking.thinking} of {thinking.answers} answers think; the others are learned without a thought"
            silent = thinking.answers - thinking.thinking
            yield make_finding("think_on_some", silent, thinking.answers, thinking.shown, self.split, what=what)

    def _language_mix(self) -> Iterator[Finding]:
        """One finding, where there is more than one language, or another than the recipe names."""
        mix = self.languages
        if mix.count:
            shown = [item for name, tally in self.shown_in.items() if name != mix.main for item in tally.shown]
            severity: Severity = "warning" if mix.count > MIXED_ABOVE * mix.judged else "note"
            what = f"examples in another language than {mix.main}; of those that can be told: {mix}"
            yield make_finding(
                "language_mix", mix.count, mix.judged, shown[:EXAMPLES_SHOWN], self.split, what=what, severity=severity
            )

    def _kinds(self) -> str:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.personal_data.items()))
        return f"{RULES['personal_data'].what}: {kinds}"


def _places(places: Sequence[str], text: str = "") -> list[dict[str, str]]:
    return [{"where": place, "text": text} for place in places]
