"""The labels that are known, and the words that say that a value is none: plain tables, one line an entry."""

from __future__ import annotations

import re
import unicodedata

LABELS: dict[str, str] = {
    # Portuguese, European and Brazilian; without accents, in small letters, without de, do, da, no...
    "nascimento": "born",
    "data nascimento": "birth_date",
    "nasceu": "born",
    "local nascimento": "birth_place",
    "falecimento": "died",
    "data falecimento": "death_date",
    "local falecimento": "death_place",
    "nome completo": "full_name",
    "alcunha": "nickname",
    "alcunhas": "nickname",
    "apelido futebolistico": "nickname",
    "posicao": "position",
    "posicoes": "position",
    "altura": "height",
    "estatura": "height",
    "nacionalidade": "nationality",
    "profissao": "profession",
    "clubes": "clubs",
    "carreira": "career",
    "carreira jogador": "player_career",
    "carreira como jogador": "player_career",
    "como jogador": "player_career",
    "carreira completa": "whole_career",
    "treinador": "coach_career",
    "como treinador": "coach_career",
    "carreira treinador": "coach_career",
    "carreira como treinador": "coach_career",
    "titulos": "titles",
    "titulo": "titles",
    "titulos jogador": "player_titles",
    "titulos treinador": "coach_titles",
    "titulos conquistas": "titles",
    "palmares": "titles",
    "reconhecimento": "recognition",
    "caracteristicas": "traits",
    "estatisticas": "statistics",
    "familia": "family",
    "legado": "legacy",
    "companheiros": "companions",
    "selecao": "national_team",
    "selecao nacional": "national_team",
    "jogos": "games",
    "golos": "goals",
    "gols": "goals",
    "epocas": "seasons",
    "temporadas": "seasons",
    "mandato": "term",
    "presidencia": "term",
    "periodo presidencia": "term",
    "feitos notaveis": "feats",
    "curiosidades": "curiosities",
    "idade": "unread",  # true on one day only
    "age": "unread",
    # English
    "born": "born",
    "birth": "born",
    "date birth": "birth_date",
    "birth date": "birth_date",
    "birthday": "birth_date",
    "place birth": "birth_place",
    "birthplace": "birth_place",
    "died": "died",
    "death": "died",
    "date death": "death_date",
    "place death": "death_place",
    "full name": "full_name",
    "nickname": "nickname",
    "nicknames": "nickname",
    "position": "position",
    "height": "height",
    "nationality": "nationality",
    "profession": "profession",
    "occupation": "profession",
    "clubs": "clubs",
    "teams": "clubs",
    "career": "career",
    "titles": "titles",
    "honours": "titles",
    "honors": "titles",
    "national team": "national_team",
    "games": "games",
    "goals": "goals",
    "seasons": "seasons",
    "term": "term",
    "presidency": "term",
}
"""Label, as :func:`label_key` writes it -> kind of fact. ``born`` and ``died`` hold a date, a place or both;
``unread`` makes no question."""

NAMES = {"nome", "name", "titulo documento", "title"}
"""Labels that say who the document is about; they make no question."""

SINGLE = {"birth_date", "birth_place", "death_date", "death_place", "height", "full_name", "games", "goals"}
"""Kinds with one true value: two different values contradict each other."""

PLAYING = (
    "avancado", "medio", "defesa", "guarda-redes", "guardiao", "goleiro", "extremo", "lateral", "interior", "libero",
    "trinco", "ponta", "central", "centro-campista", "atacante", "zagueiro", "volante", "forward", "midfielder",
    "defender", "goalkeeper", "winger", "striker",
)  # fmt: skip
"""Words that tell a position on the field from another role."""

PERSONAL = {"dados pessoais", "personal data", "facts", "ficha", "em numeros", "perfil", "profile"}
"""Headings and labels of a part that holds nothing but labels with values."""

NOT_SAID = re.compile(
    r"(?:dados |informa\w+ )?(?:nao (?:especificad|disponi|conhecid|encontrad)\w*|desconhecid\w*)|n/?[ad]|-+|\?+"
    r"|nenhum\w* .{0,30}encontrad\w*|unknown|not (?:available|known|specified)|none|null",
)
"""Values that say that there is no value (matched on the folded text)."""

ACCENTS = {
    "selecao": "seleção", "posicao": "posição", "periodo": "período", "periodos": "períodos", "taca": "taça",
    "competicao": "competição", "estatisticas": "estatísticas", "pais": "país", "titulo": "título",
    "titulos": "títulos", "epoca": "época", "epocas": "épocas", "arabe": "árabe", "funcao": "função",
    "observacao": "observação", "informacao": "informação", "informacoes": "informações", "numero": "número",
    "presidencia": "presidência", "historia": "história", "profissao": "profissão", "familia": "família",
    "caracteristicas": "características", "codigo": "código", "descricao": "descrição", "endereco": "endereço",
}  # fmt: skip
"""Portuguese words that the keys of JSON are written without accents for."""

_SMALL = {"de", "do", "da", "dos", "das", "no", "na", "o", "a", "os", "as", "e", "of", "the", "and"}


def fold(text: str) -> str:
    """Small letters, no accents, single spaces.

    >>> fold("  João  GRALHO ")
    'joao gralho'
    """
    plain = unicodedata.normalize("NFKD", text).casefold()
    return " ".join("".join(letter for letter in plain if not unicodedata.combining(letter)).split())


def label_key(label: str) -> str:
    """A label as :data:`LABELS` knows it; the words of a ``camelCase`` key count apart.

    >>> label_key("Data de Nascimento"), label_key("dataNascimento")
    ('data nascimento', 'data nascimento')
    """
    words = re.findall(r"[^\W_]+", fold(re.sub(r"(?<=[a-z0-9à-ÿ])(?=[A-ZÀ-Ý])", " ", label)))
    return " ".join([word for word in words if word not in _SMALL] or words)
