"""The recipe: the one description of what will happen.

The same object is the YAML file, the command line's overrides, the JSON schema for editors and
the ``recipe.yaml`` saved in every run with each default written out. An unknown key is an error
that names the nearest known one, and every problem is reported at once.
"""

from __future__ import annotations

from afina.recipe.code import Check, Code, read_checks
from afina.recipe.endpoints import Endpoint, Judge, Teacher
from afina.recipe.load import (
    KeyProblem,
    check_recipe,
    expand_path,
    is_remote,
    limits_of,
    load_recipe,
    nearest,
    parse_recipe,
    read_limits,
    read_recipe,
    read_saved_recipe,
    recipe_of,
    recipe_schema,
)
from afina.recipe.methods import METHODS, Kind, Method, method_facts
from afina.recipe.part import RecipePart
from afina.recipe.parts import (
    HUB,
    VARIABLE,
    WEB,
    Adapter,
    BackEndName,
    Budget,
    Chat,
    Clean,
    Dataset,
    Datatrove,
    Evaluate,
    FileKind,
    First,
    Launch,
    NearDuplicates,
    Questions,
    Recipe,
    Retrieval,
    Scratch,
    Source,
    Train,
)
from afina.recipe.probe import (
    PROMPT_SEEDS,
    PROMPT_TOKENS,
    SKILL_QUESTIONS,
    SKILL_TOKENS,
    Guardrails,
    Limits,
    Probe,
    Role,
)
from afina.recipe.safety import EXPOSURE_BITS, QuestionSet, Safety, SafetyLimits
from afina.recipe.task import Task
from afina.recipe.tokenizers import TOKENIZERS, TokenizerKind

__all__ = [
    "EXPOSURE_BITS",
    "HUB",
    "METHODS",
    "PROMPT_SEEDS",
    "PROMPT_TOKENS",
    "SKILL_QUESTIONS",
    "SKILL_TOKENS",
    "TOKENIZERS",
    "VARIABLE",
    "WEB",
    "Adapter",
    "BackEndName",
    "Budget",
    "Chat",
    "Check",
    "Clean",
    "Code",
    "Dataset",
    "Datatrove",
    "Endpoint",
    "Evaluate",
    "FileKind",
    "First",
    "Guardrails",
    "Judge",
    "KeyProblem",
    "Kind",
    "Launch",
    "Limits",
    "Method",
    "NearDuplicates",
    "Probe",
    "QuestionSet",
    "Questions",
    "Recipe",
    "RecipePart",
    "Retrieval",
    "Role",
    "Safety",
    "SafetyLimits",
    "Scratch",
    "Source",
    "Task",
    "Teacher",
    "TokenizerKind",
    "Train",
    "check_recipe",
    "expand_path",
    "is_remote",
    "limits_of",
    "load_recipe",
    "method_facts",
    "nearest",
    "parse_recipe",
    "read_checks",
    "read_limits",
    "read_recipe",
    "read_saved_recipe",
    "recipe_of",
    "recipe_schema",
]
