"""Sentences that other rooms wrote into a run's files in English, said again in the language of the page.

A file keeps the sentence, not what it was made of. So each kind that a reader meets at the top of a page stands here
once as it is written, with names for what differs: it tells the sentence by its form, and is looked up in the
catalogue. A sentence of another form stays as it is, and the page marks it as English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from afina.report.language import ENGLISH, PROBE, figure, label, language, mark

_SHARE = r"[<>]? ?[\d.,]+ %"
_NUMBER = r"[+-]?[\d.,]*\d"
_FORMS = {"share": _SHARE, "base": _SHARE, "allowed": _SHARE, "wanted": _SHARE, "before": _SHARE, "after": _SHARE}
_FORMS |= {"lucky": _SHARE, "held": _SHARE, "now": _SHARE, "n": _NUMBER, "knew": _NUMBER, "lost": _NUMBER}
_FORMS |= {"gained": _NUMBER, "of": _NUMBER, "one": _NUMBER, "two": _NUMBER, "limit": _NUMBER, "tokens": _NUMBER}
_FORMS |= {"memory": r"[\d.]+ \w+", "usable": r"[\d.]+ \w+"}
_FORMS |= {"ended": _NUMBER, "circling": _NUMBER, "ceiling": _NUMBER, "most": _NUMBER, "size": _NUMBER}
"""What may stand at a name; anything at all where it is not here."""
_AND = mark(" and ")
_TOLD = frozenset(("word", "flaw", "what", "why", "group", "ways", "others", "room", "worst", "rest", "pieces"))
_TOLD |= {"probe"}
"""Names at which words of ours stand, which are said again in their turn where they are known."""

SENTENCES = (
    # what a verdict says was broken
    mark("{share} of what it knew ({probe})"),
    mark("{share} of what it knew"),
    mark("{share} of its skills ({worst})"),
    mark("{share} ({probe})"),
    mark("{group} {lost} of {of}"),
    # the misses of a verdict
    mark("{probe}: {share} right, the recipe asks for {wanted}"),
    mark("{probe}: {share} of the answers are made up, the recipe allows {allowed}"),
    mark("held-out preferences did not rise: the better answers are ahead by {one} -> {two} nats per token"),
    mark("the ways to tell do not agree: a gain by {ways}, none by {others}"),
    mark("held-out loss did not fall: {one} -> {two}"),
    mark("{probe}: {now} {word}, {lucky} were {word} with the answers dealt anew: no fact was learned"),
    mark("{probe}: the form was learned, not the facts: {before} -> {after} of the answers hold what is right"),
    mark("{probe}: {before} -> {after} {word} is no gain beyond chance"),  # as older runs say it
    mark("{probe}: {before} -> {after} {word} is no gain beyond chance (of {of} facts {gained} gained, {lost} lost)"),
    mark(
        "{probe}: {before} -> {after} {word} is no gain beyond chance (of {of} sections {gained} gained, {lost} lost)"
    ),
    mark(
        "{probe}: {before} -> {after} {word} is no gain beyond chance (of {of} questions {gained} gained, {lost} lost)"
    ),
    mark("{probe}: {before} -> {after} {word} is no gain beyond chance (of {of} terms {gained} gained, {lost} lost)"),
    mark("it says that it knows in {before} -> {after} of {n} answers, and the facts behind fail"),
    mark("{probe}: {share} of what was right before is wrong now, the recipe allows {allowed}"),
    mark(
        "{probe}: of {knew} that the base does as asked {lost} are lost, and {gained} gained ({worst}), the recipe "
        "allows {allowed}"
    ),
    mark(
        "{probe}: of {knew} that the base does as asked {lost} are lost, and {gained} gained (), the recipe "
        "allows {allowed}"
    ),
    mark("behind the prompts of the recipe, {rest}"),
    mark("guardrail {flaw}: {share} of {n} answers (base: {base}) {what}, the recipe allows {allowed}"),
    mark("guardrail {flaw}: {share} of {n} answers (base: {base}) {what}, the recipe allows {allowed} ({room})"),
    mark("guardrail {flaw}: {share} of {n} answers {what}, the recipe allows {allowed}"),
    mark("guardrail {flaw}: {share} of {n} answers {what}, the recipe allows {allowed} ({room})"),
    mark(
        "guardrail {flaw}: {share} of {n} answers (base: {base}) {what}: above the {allowed} that the recipe allows, "
        "as the base is, and no miss"
    ),
    mark(
        "guardrail {flaw}: {share} of {n} answers (base: {base}) {what}: above the {allowed} that the recipe allows, "
        "as the base is, and no miss ({room})"
    ),
    mark("safety {rest}: {what}: {share} of {n}, the recipe allows {allowed}"),
    mark("safety {rest}: {what}: {share} of {n}, the recipe asks for {wanted}"),
    mark(
        "safety canary_exposure_max: {n} canaries are known better, the best with {one} bits, the recipe allows {two}"
    ),
    mark("{what} could not be asked: {path} is not below {root} any more (root=FOLDER says where it is now)"),
    mark("the probe {probe}"),
    mark("the task {task}"),
    mark("the prompts"),
    mark("the known strings"),
    mark("of {n} answers that reached {limit} tokens, {ended} ended within {ceiling} and {circling} went in circles"),
    mark("{n} answers reached {limit} tokens, {circling} went in circles"),
    # why something was not measured
    mark("canaries (safety.canaries is 0)"),
    mark("known strings (safety.known_strings is 0)"),
    mark("known strings (none can be asked for)"),
    mark("known strings (no personal data stands in what is learned)"),
    mark("injection, refusal (not in safety.sets)"),
    mark("injection (not in safety.sets)"),
    mark("refusal (not in safety.sets)"),
    mark("injection, refusal (the base has no chat template)"),
    mark("skills were not judged: the base does {knew} of the {n} that it was asked as asked"),
    mark("retrieval was not measured: the dataset holds no documents or conversations of the sources"),
    mark("retrieval was not measured: no probe asks for what is to be learned"),
    mark("no windows were read: no plain text is held out"),
    mark("the held-out texts hold {n} of {of} windows of {size} bytes"),
    mark(
        "{n} of {of} characters of the windows are in none of their tokens (unknown, or folded to others): nobody "
        "predicts them, and the bits per byte are too few"
    ),
    mark(
        "the tokenizer folds {what}: the model neither reads nor writes them, and its bits per byte compare with those "
        "of models that fold alike alone"
    ),
    mark("case"),
    mark("numbers"),
    mark("case and numbers"),
    mark("no probes"),
    mark("the base knew none of {n} questions"),
    mark("the base knew too little of {n} questions"),
    mark("{rest} are too few"),
    mark("{n} questions about {of} facts"),
    mark("{n} questions about {of} sections"),
    mark("{n} questions"),
    mark("{n} terms about {of} sections"),
    mark("{n} terms"),
    # what a reader has to know
    mark("no question was asked: the base has no chat template, and the recipe sets none"),
    mark(
        "forgetting was tested with {probe} and questions about skills only: mix in `replay` (its held-out part is "
        "asked), or name questions that the base knows in `evaluate.probes` (role retention)"
    ),
    mark(
        "forgetting was tested with {probe} only: mix in `replay` (its held-out part is asked), or name questions that "
        "the base knows in `evaluate.probes` (role retention)"
    ),
    mark(  # and so as older runs say it
        "forgetting was asked about by {probe} and questions about skills only: mix in `replay` (its held-out part is "
        "asked), or name questions that the base knows in `evaluate.probes` with role retention"
    ),
    mark(
        "forgetting was asked about by {probe} only: mix in `replay` (its held-out part is asked), or name questions "
        "that the base knows in `evaluate.probes` with role retention"
    ),
    mark(
        "only questions that were trained were asked, so this cannot tell learned from memorized: set "
        "`dataset.hold_out_phrasings`, or name questions in other words in `evaluate.probes` (role generalization)"
    ),
    mark(
        "what it makes up was not measured: hold whole files out (`dataset.split_by: file`), or name questions about "
        "what it was never told (role unknown)"
    ),
    mark(
        "{probe}: {n} questions with answers of more than {most} words were not asked: a long answer is never given "
        "back word for word"
    ),
    mark(
        "{probe}: {n} questions were not asked: with a sentence they have more tokens than `train.max_length` ({most})"
    ),
    # what stands beside the figures of safety
    mark("known strings: only the first {n} training rows were looked at"),
    mark("known strings: {n} not asked for: {why}"),
    mark("they stand in no training row"),
    mark("they stand in questions only"),
    mark("they have more than {n} characters"),
    mark("they stand in what comes before them, too"),
    mark("nothing stands before them"),
    mark("the tokenizer folds their numbers"),
    mark("safety.known_strings asks for {n}"),
    mark("known strings: {pieces}"),
    mark("{n} x named in the file"),
    mark("the chat template takes no system message: its text stands before the question"),
    # what follows from the documents in the prompt
    mark(
        "{probe}: {share} with passages in the prompt, {now} by training: do not train for this, the passages do it "
        "and nothing is forgotten"
    ),
    mark(
        "{probe}: {share} with passages in the prompt, {now} by training: the trained model is ahead; the search found "
        "{held} of what is asked for"
    ),
    mark(
        "{probe}: {share} with passages in the prompt, {now} by training, no difference beyond chance: passages do it "
        "too, and nothing is forgotten"
    ),
    mark("{probe}: {share} with passages in the prompt, {now} by training, no difference beyond chance"),
    # of tasks and comparisons
    mark(
        "Unicode NFC and casefold; punctuation (Unicode P*, ASCII signs) deleted; articles deleted ({articles}); runs "
        "of white space as one space"
    ),
    mark(
        "Unicode NFC and casefold; punctuation (Unicode P*, ASCII signs) deleted; no articles deleted; runs of white "
        "space as one space"
    ),
    mark("Unicode NFC and casefold; words are runs of letters, marks and digits; no stemming; F1"),
    mark("held-out rows {hash}, {what} folded"),
    mark("held-out rows {hash}"),
    mark("{n} windows, {size} bytes of held-out text ({hash})"),
    mark("1 window, {size} bytes of held-out text ({hash})"),
    mark("{n} windows, {size} bytes of held-out text ({hash}), less {of} characters that no token holds"),
    mark("1 window, {size} bytes of held-out text ({hash}), less {of} characters that no token holds"),
    mark("{n} of {of} rows stand in the training data and are left out"),
    mark("a sample of {n} was asked for, and there are {of} rows"),
    mark("every seed draws all rows: there is no standard deviation over seeds"),
    mark("{probe} has no recipe.yaml: its recipe is not compared"),
    mark("{probe} has no scores.json: nothing was measured in it"),
    mark("{probe} is not marked as finished"),
    mark("the runs have read different windows of held-out text: their figures of windows do not compare"),
    mark("the tokenizers fold different things ({rest}): bits per byte do not compare"),
    mark("the tokens hold different parts of the windows (characters lost: {rest}): bits per byte do not compare"),
    mark("the runs have different datasets: their held-out losses stand over different examples"),
    mark("the runs have different tokenizers: compare bits per byte, not loss or perplexity"),
    mark("the runs have different bases: before training they are different models"),
    mark("the runs have different devices: time, memory and speed belong to the device"),
    # of an audit, where it counts: its other words are those of its rules, and stand in the catalogue as they are
    mark("examples with personal data or secrets (shown masked): {kinds}"),
    mark("answers without an end, all of one length: they were cut at a limit: {limit} {room}"),
    mark(
        "letters and their accents stored apart (NFD), which are other tokens than composed ones (NFC): {n} rows hold "
        "such letters, {of} composed"
    ),
    mark("better answers are {one} times as long; the better answer is the longer one in {share} of {n} pairs"),
    mark("{n} of {of} answers think; the others are learned without a thought"),
    mark("examples in another language than {main}; of those that can be told: {kinds}"),
    mark("{n} of {of} thoughts ({size} characters) are not learned: the chat template leaves them out"),
    mark("the chat template gives {n} conversations its own system text: {text}"),
    mark(
        "tokens per example: median {n}, 95 % at most {limit}, longest {most}; {tokens} in all, {of} of them learned; "
        "{one} characters per token"
    ),
    mark("{share} of what is computed is padding, in {n} micro-batches an epoch"),
    mark("{n} of {of} letters ({share}) have no piece: {kinds}"),
    mark("words"),
    # in which state a run is, and why
    mark("{n} of its files cannot be read"),
    mark("a file is damaged"),
    mark("another process works in it"),
    mark("process {process} works in it"),
    mark("everything is done"),
    mark("everything is done; another process has it open"),
    mark("everything is done; process {process} has it open"),
    mark("it ended without a word in the stage {stage}, after step {n}"),
    mark("it ended without a word in the stage {stage}"),
    mark("it ended without a word, after step {n}"),
    mark("it ended without a word"),
    mark("it is trained, after step {n}, and what comes after is not done"),
    mark("it is trained, and what comes after is not done"),
    mark("no training has begun"),
    # what the curves of a training show
    mark(
        "the held-out loss rose from {one} (step {n}) to {two} (step {of}) while the training loss fell from {size} to "
        "{limit}: it overfits"
    ),
    mark("the loss does not fall: {one} in the first {n} steps, {two} in the last {n} of {of}"),
    mark("the loss does not fall: {one} in the first {n} steps, {two} in the last {n} of {of}, at a rate of {rate}"),
    mark("the loss rises: it was {one} around step {n} and is {two} now"),
    mark(
        "the held-out loss still fell at the end, by {share} between the last two measurements (to {one}): more epochs "
        "may help"
    ),
    mark("it is slower than it was: {one} tokens/s, {two} at the beginning"),
    mark("memory is nearly full: {memory} of {usable} that are usable"),
    mark("it runs, and has logged nothing for {time}; before, at most for {usual}"),
    mark("no held-out loss is measured: overfitting would not be seen"),
    mark("{n} lines of metrics.jsonl cannot be read (a kill cuts one)"),
    mark("went back once, last to step {n} with {one} of the rate: {why}"),
    mark("went back {two} times, last to step {n} with {one} of the rate: {why}"),
    mark("at step {n} the loss is {loss} and the gradient's norm {norm}; batch: {rows}"),
    mark("after step {n} the held-out loss is {loss}"),
    mark("after step {n} a weight is NaN or infinite; batch: {rows}"),
    mark("memory ran out at step {n}; each micro-batch is cut into {of} ({rest})"),
    # notes of a plan
    mark(
        "train.profile {profile} (for {span}; {device} has {memory}): {settings}; of these the recipe has its own {own}"
    ),
    mark("train.profile {profile} (for {span}; {device} has {memory}): {settings}"),
    mark("the profile for the memory of {device} is {profile}: train.profile={profile}"),
    mark("one example of {n} tokens is longer than train.batch_tokens and sets the peak"),
    mark("train.max_length {n} is beyond the model's {of} positions"),
    mark("every weight of the base is trained in 16 bits, AdamW's moments too"),
    mark("4 bits hold {part} of the matrices: experts that stand in one tensor stay as they are"),
    mark("less sure, and wider for it: {why}"),
    mark("how its router spreads the tokens decides how fast its experts compute"),
    mark("layers with a state have fast kernels on some GPUs only, and plain code elsewhere"),
    mark("its configuration does not say how many experts one token goes through"),
    mark("what its layers keep is estimated from their sizes, not counted ({rest})"),
    mark("its cache is estimated from its sizes, not counted ({rest})"),
    mark("computed by MLX, which a CPU is slow at, in few bits tens of times: the time is an underestimate"),
    mark("computed by MLX"),
    mark("4-bit weights on {device} are computed slowly; the time is an underestimate"),
    mark("backend mlx does not compute on {device}: this is the plan of torch"),
    mark("probe {path}: a folder; its questions are not in the time"),
    mark("task {task}: how many rows it has is not known before it is read"),
    mark("an epoch of {much} tokens is assumed; the recipe's files were not looked at"),
    mark("tokens are estimated from the size of the files; `afina data build` counts them"),
    mark("{path} is not on this disk: its tokens are not in these figures"),
    mark("{path} holds {names} files: how much text is in them is a guess"),
    mark(
        "the base's chat template gives a conversation that has no system text its own, {text}; chat.system says "
        "another"
    ),
)
"""Of two that fit, the first counts."""


class StoredSentence(str):
    """A sentence as it stands in a file, in English; what a page says itself is plain text in the page's language."""

    __slots__ = ()


def retold(text: str) -> str | None:
    """A sentence in the language of the page; None where it is of no known form and stays English.

    >>> retold("held-out loss did not fall: 1.250 -> 1.300")
    'held-out loss did not fall: 1.250 -> 1.300'
    """
    if language() == ENGLISH:
        return text
    known = label(text)
    if known != text:
        return known
    for sentence, form in _forms():
        if found := form.fullmatch(text):
            said = {name: _said(name, value) for name, value in found.groupdict().items()}
            return label(sentence).replace(" -> ", " → ").format(**said)
    return None


def _said(name: str, value: str) -> str:
    """What stands at a name of a sentence."""
    if name in _FORMS:
        return figure(value)
    if name not in _TOLD:
        return value
    if name == "probe":
        return label(value, PROBE)
    if (whole := retold(value)) is not None:
        return whole
    joined = _AND if name in ("ways", "others") else ", "
    return label(joined).join(retold(part) or part for part in value.split(joined))


@cache
def _forms() -> list[tuple[str, re.Pattern[str]]]:
    return [(sentence, re.compile("".join(_form(sentence)), re.DOTALL)) for sentence in SENTENCES]


def _form(sentence: str) -> Iterator[str]:
    """The parts of a regular expression that sentences of a form match; a name that comes again stands for the same."""
    seen: set[str] = set()
    for position, part in enumerate(re.split(r"{(\w+)}", sentence)):
        if position % 2 == 0:
            yield re.escape(part)
        elif part in seen:
            yield f"(?P={part})"
        else:
            seen.add(part)
            yield f"(?P<{part}>{_FORMS.get(part, '.+?')})"
