"""An answer that is known as text, followed token by token by a model that would write another: where it parts from it,
and how much likelier it holds what it would write there.

The same model in fewer bits, or on another machine, parts only where that is little; another adapter does not.

The text's tokens are taken to be those that the tokenizer makes of it: of all ways to write it they are the one that a
model was trained on. Any other token that the text begins with (half a word, or a word and a half, which no text is cut
into) may be very unlikely to the very model that wrote the text; and where a model writes half a word (" ra" where the
text has " rain"), it has parted, though the letters are the same: it goes on to another word from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from afina.model.generate.request import TokenLogprob

TOP = 20
"""Likeliest tokens that are looked through for one that goes on as the answer did."""
MOST_PARTINGS = 40


def lead(led: Led, write: Callable[[list[int], int], Sequence[TokenLogprob]], longest: int) -> tuple[list[str], bool]:
    """Where a model parts from an answer, and whether all of that is rounding.

    Args:
        write: what the model writes behind these tokens of an answer, as many as it may, with the :data:`TOP` likeliest
            at each place, the end token too.
        longest: tokens of the answer at most.
    """
    texts: list[str] = []
    while len(texts) <= MOST_PARTINGS and len(led.ids) < longest and not led.ended:
        parting = led.along(write(led.ids, longest - len(led.ids)))
        if parting is None:
            break
        text, margin = parting
        texts.append(text)
        if margin > led.limit:
            return texts, False
    if led.left.strip() and len(led.ids) < longest:
        return [*texts, "it ends sooner"], False
    if led.left.strip() and not led.begun:  # which would go on with any answer
        return [*texts, "it writes nothing but white space"], False
    if led.stopped and not led.ended:
        return [*texts, "it does not end there"], False
    return texts, len(texts) <= MOST_PARTINGS


class Led:
    """How far an answer has been followed.

    Args:
        own: the tokens that the answer is made of.
        limit: largest margin that is rounding, in nats.
        stopped: whether an end token closed the answer, which then has to come; false: none did, and none may; None:
            it is not known.
    """

    def __init__(
        self,
        right: str,
        own: Sequence[int],
        token_bytes: Callable[[int], bytes],
        stop_ids: frozenset[int],
        limit: float,
        *,
        stopped: bool | None = None,
    ) -> None:
        self.left, self.limit, self.stopped = right.encode(), limit, stopped
        self.ids: list[int] = []
        self._bytes, self._stops = token_bytes, stop_ids
        self.begun = self.ended = False
        self._own: dict[int, bytes] = {}
        """Bytes that are left -> what the token that the run wrote there stands for."""
        left = len(self.left)
        for token in own:
            piece = token_bytes(token)
            self._own[left] = piece = piece if self._own.get(len(self.left)) else piece.lstrip()
            left -= len(piece)

    def along(self, written: Sequence[TokenLogprob]) -> tuple[str, float] | None:
        """Follow what was written as far as it is the run's answer; where it parts, take the run's side.

        Returns:
            What to say of it and the margin in nats; None where the answer ends as the run's does.
        """
        for each in written:
            if self._ends(each.token):
                self.ended = True
                return None
            same = [pair for pair in each.top if self._ends(pair[0]) or self._goes_on(pair[0])]
            other = max(same, key=self._like_the_runs, default=None)
            least = other[1] if other else min(value for _, value in each.top)
            margin = each.logprob - least
            cut_otherwise = other and self._is_own(other[0]) and not self._is_own(each.token) and margin <= self.limit
            if self._goes_on(each.token) and not cut_otherwise:
                self._take(each.token)
                continue
            said = f"{self._shown(other[0])!r}" if other else f"as the run does (not among the {TOP} likeliest)"
            text = f"{self._shown(each.token)!r} instead of {said}, {margin:.2g} nats likelier"
            if other is None:
                return text, float("inf")
            if self._ends(other[0]):
                self.ended = True
                return text, margin
            self._take(other[0])
            return text, margin
        return None

    def _ends(self, token: int) -> bool:
        return self.stopped is not False and not self.left and token in self._stops

    def _goes_on(self, token: int) -> bool:
        """Whether a token is what stands next in the run's answer, white space at its ends apart."""
        if token in self._stops:
            return False
        if not self.left:
            return not self._bytes(token).strip()
        return self.left.startswith(self._piece(token))

    def _like_the_runs(self, pair: tuple[int, float]) -> tuple[bool, int, float]:
        """The run's own token first; else the longest, as the run may have cut its text otherwise than the tokenizer
        does; of two that are equal but for white space at the answer's beginning, the likelier."""
        token, logprob = pair
        return self._is_own(token), len(self._piece(token)), logprob

    def _is_own(self, token: int) -> bool:
        return self._piece(token) == self._own.get(len(self.left))

    def _piece(self, token: int) -> bytes:
        piece = self._bytes(token)
        return piece if self.begun else piece.lstrip()

    def _take(self, token: int) -> None:
        piece = self._piece(token)
        self.left = self.left[len(piece) :]
        self.begun = self.begun or bool(piece)
        self.ids.append(token)

    def _shown(self, token: int) -> str:
        return self._bytes(token).decode("utf-8", "replace")
