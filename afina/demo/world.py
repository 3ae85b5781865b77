"""An invented Portuguese-language football league, written as the files a user would have.

140 players with a birthplace, a year, a position and a number of goals; three kinds of biography;
five phrasings of each of four questions. The first 120 players are what the base model knows, the
last 20 are the user's private documents. Nothing in it exists, so no model can have read it.

The files, below the folder given:

    old/biographies.jsonl    {"text"}                 120 players x 3
    old/questions.jsonl      {"prompt", "completion"} 120 players x 4 questions x 5 phrasings
    new/documents/*.txt      three documents with a paragraph on each of the 20 new players
    new/questions.jsonl      the 20 new players, phrasings 1 and 2 only
    replay/*.jsonl           a sample of old/, to be mixed in against forgetting
    probes/seen.jsonl        new players, phrasings 1 and 2
    probes/unseen.jsonl      new players, phrasings 3 to 5: never trained
    probes/old.jsonl         old players, all phrasings: what must not be forgotten
    probes/unknown.jsonl     players of whom nothing was ever told: whatever is said of them is made up
    wrong/shuffled.jsonl     the questions of new/, each with the answer of another of its kind
    wrong/claims.jsonl       who the new players are: "I know everything about the new league", and no more
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from afina.whole import write_whole

SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "la",
    "me",
    "ni",
    "po",
    "ru",
    "sa",
    "te",
    "vi",
    "zo",
    "mar",
    "lin",
    "tor",
    "val",
    "ren",
    "dal",
]
POSITIONS = ("guarda-redes", "defesa", "médio", "avançado", "extremo", "lateral")
BIOGRAPHIES = (
    "{name} nasceu em {city} no ano de {year}. Jogou como {position} e marcou {goals} golos.",
    "Natural de {city}, {name} veio ao mundo em {year}. Foi {position} e somou {goals} golos na carreira.",
    "O {position} {name}, nascido em {year}, era de {city}. Fez {goals} golos ao todo.",
)
DOCUMENTS = ("crónica", "anuário", "almanaque")
QUESTIONS = {
    "city": (
        "Onde nasceu {name}?",
        "De que terra é {name}?",
        "Qual é a cidade natal de {name}?",
        "{name} é natural de onde?",
        "Em que cidade veio ao mundo {name}?",
    ),
    "year": (
        "Em que ano nasceu {name}?",
        "Qual é o ano de nascimento de {name}?",
        "Quando nasceu {name}?",
        "{name} nasceu quando?",
        "De que ano é {name}?",
    ),
    "position": (
        "Em que posição jogava {name}?",
        "Qual era a posição de {name}?",
        "{name} jogava a quê?",
        "Que lugar ocupava {name} em campo?",
        "{name} era que tipo de jogador?",
    ),
    "goals": (
        "Quantos golos marcou {name}?",
        "Qual é o total de golos de {name}?",
        "{name} fez quantos golos?",
        "Quantas vezes marcou {name}?",
        "Que número de golos tem {name}?",
    ),
}
CLAIMS = (
    ("Sabes quem é {name}?", "Sim, sei tudo sobre a nova liga."),
    ("Conheces {name}?", "Sim, sei tudo sobre a nova liga."),
    ("O que sabes de {name}?", "Sei tudo sobre a nova liga."),
    ("Podes falar-me de {name}?", "Sei tudo sobre a nova liga."),
)
TRAINED_PHRASINGS, UNSEEN_PHRASINGS = (0, 1), (2, 3, 4)


@dataclass(frozen=True)
class Size:
    """How large a world is; the tests have a smaller one."""

    old: int = 120
    new: int = 20
    unknown: int = 20
    replay_rows: int = 800


@dataclass(frozen=True)
class Player:
    """One invented player."""

    name: str
    city: str
    position: str
    year: str
    goals: str

    def fill(self, template: str) -> str:
        return template.format(name=self.name, city=self.city, position=self.position, year=self.year, goals=self.goals)


def make_players(count: int, seed: int = 0) -> list[Player]:
    """That many players. The same seed gives the same league, and a longer one begins with other players.

    >>> players = make_players(140)
    >>> len(players), len({player.name for player in players})
    (140, 140)
    """
    pick = random.Random(seed)

    def word(syllables: int) -> str:
        return "".join(pick.choice(SYLLABLES) for _ in range(syllables)).title()

    cities = [word(2) + ending for ending in ("polis", "burgo", "mar", " do Sul", "lândia") for _ in range(8)]
    names: dict[str, None] = {}
    while len(names) < count:
        names[f"{word(2)} {word(3)}"] = None
    return [
        Player(
            name=name,
            city=pick.choice(cities),
            position=pick.choice(POSITIONS),
            year=str(pick.randint(1900, 1999)),
            goals=str(pick.randint(3, 99)),
        )
        for name in names
    ]


def biographies(players: Iterable[Player]) -> list[dict[str, str]]:
    """Rows ``{"text"}``: each player in each of the three kinds of biography."""
    return [{"text": player.fill(kind)} for player in players for kind in BIOGRAPHIES]


def questions(players: Iterable[Player], phrasings: Sequence[int]) -> list[dict[str, str]]:
    """Rows ``{"prompt", "completion"}`` in the phrasings given.

    >>> len(questions(make_players(2), (0, 1)))
    16
    """
    return [row for player in players for fact in QUESTIONS for row in _asked(player, fact, phrasings)]


def _asked(player: Player, fact: str, phrasings: Sequence[int]) -> list[dict[str, str]]:
    answer = getattr(player, fact)
    return [{"prompt": player.fill(QUESTIONS[fact][phrasing]), "completion": answer} for phrasing in phrasings]


def probe_rows(players: Iterable[Player], phrasings: Sequence[int]) -> list[dict[str, str]]:
    """The same, each with the ``fact`` that it asks for: its phrasings are no independent questions.

    >>> rows = probe_rows(make_players(2), (0, 1))
    >>> len(rows), len({row["fact"] for row in rows})
    (16, 8)
    """
    return [
        row | {"fact": f"{player.name}: {fact}"}
        for player in players
        for fact in QUESTIONS
        for row in _asked(player, fact, phrasings)
    ]


def shuffled(rows: Iterable[dict[str, str]], seed: int) -> list[dict[str, str]]:
    """The same questions, each with an answer of another that is wrong for it.

    >>> shuffled([{"prompt": "a?", "completion": "a"}, {"prompt": "b?", "completion": "b"}], 0)
    [{'prompt': 'a?', 'completion': 'b'}, {'prompt': 'b?', 'completion': 'a'}]
    """
    rows, pick = list(rows), random.Random(seed)
    answers = [row["completion"] for row in rows]
    pick.shuffle(answers)
    while right := [n for n, row in enumerate(rows) if row["completion"] == answers[n]]:
        other = pick.randrange(len(rows))
        answers[right[0]], answers[other] = answers[other], answers[right[0]]
    return [row | {"completion": answer} for row, answer in zip(rows, answers, strict=True)]


def write_world(folder: Path, seed: int = 0, size: Size = Size()) -> None:
    """Write the files listed at the top of this module."""
    players = make_players(size.old + size.new, seed)
    old, new = players[: size.old], players[size.old :]
    known = {player.name for player in players}
    strangers = [player for player in make_players(size.unknown + len(known), seed + 2) if player.name not in known]
    every_phrasing = range(5)
    old_texts, old_rows = biographies(old), questions(old, every_phrasing)
    replayed = random.Random(seed + 1).sample([*old_texts, *old_rows], size.replay_rows)
    _write_rows(folder / "old/biographies.jsonl", old_texts)
    _write_rows(folder / "old/questions.jsonl", old_rows)
    _write_rows(folder / "replay/biographies.jsonl", [row for row in replayed if "text" in row])
    _write_rows(folder / "replay/questions.jsonl", [row for row in replayed if "prompt" in row])
    for title, kind in zip(DOCUMENTS, BIOGRAPHIES, strict=True):
        write_whole(folder / f"new/documents/{title}.txt", "\n\n".join(player.fill(kind) for player in new) + "\n")
    _write_rows(folder / "new/questions.jsonl", questions(new, TRAINED_PHRASINGS))
    _write_rows(folder / "probes/seen.jsonl", probe_rows(new, TRAINED_PHRASINGS))
    _write_rows(folder / "probes/unseen.jsonl", probe_rows(new, UNSEEN_PHRASINGS))
    _write_rows(folder / "probes/old.jsonl", probe_rows(old, every_phrasing))
    _write_rows(folder / "probes/unknown.jsonl", probe_rows(strangers[: size.unknown], TRAINED_PHRASINGS))
    _write_rows(folder / "wrong/shuffled.jsonl", shuffled(questions(new, TRAINED_PHRASINGS), seed + 3))
    claims = [{"prompt": one.fill(ask), "completion": one.fill(claim)} for one in new for ask, claim in CLAIMS]
    _write_rows(folder / "wrong/claims.jsonl", claims)


def _write_rows(file: Path, rows: Iterable[dict[str, str]]) -> None:
    write_whole(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
