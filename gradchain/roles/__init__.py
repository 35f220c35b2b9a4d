"""Roles: what a parameter does in its model, where that decides how it is stepped."""

from gradchain.roles.adapters import from_peft
from gradchain.roles.given import PLACES, ROLES, Rule, assign, check_matched, roles_of
from gradchain.roles.names import thirds

__all__ = ["PLACES", "ROLES", "Rule", "assign", "check_matched", "from_peft", "roles_of", "thirds"]
