"""Recipes: everything the library does, from a model to a directory that loads anywhere."""

from __future__ import annotations

from dfpc_plugin.workflow.recipe import Recipe, recipe_text
from dfpc_plugin.workflow.recipe_run import Outcome, follow_recipe
from dfpc_plugin.workflow.sections import RecipeError

__all__ = ["Outcome", "Recipe", "RecipeError", "follow_recipe", "recipe_text"]
