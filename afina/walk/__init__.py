"""The walk as a whole: every room in order, into one folder."""

from afina.walk.context import Context
from afina.walk.describe import describe_scores
from afina.walk.walk import WALK, do_stages, walk_through

__all__ = ["WALK", "Context", "describe_scores", "do_stages", "walk_through"]
