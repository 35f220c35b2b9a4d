"""Roles: what a parameter does in its model, where that decides how it is stepped."""

from gradchain.roles.adapters import from_peft
from gradchain.roles.given import PLACES, ROLES, Rule, assign, check_matched, roles_of
from gradchain.roles.model import Found, Roles, Rules, from_model
from gradchain.roles.walk import Head

__all__ = [
    "PLACES",
    "ROLES",
    "Found",
    "Head",
    "Roles",
    "Rule",
    "Rules",
    "assign",
    "check_matched",
    "from_model",
    "from_peft",
    "roles_of",
]
