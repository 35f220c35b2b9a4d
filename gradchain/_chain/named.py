"""Things of a user's, found by where they are: `module:name`, modules to import, entry points of installed packages."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from gradchain.errors import ConfigError, OptionError, nearest, shown

GROUPS = ("gradchain.recipes", "gradchain.transforms")
"""The entry points that installed packages may have; loading one registers what is in its module."""


def is_place(name: str) -> bool:
    """Whether this is `module:name`."""
    module, separator, attribute = name.partition(":")
    return bool(separator) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def find_place(name: str) -> Any:
    """The object at `module:name`.

    Raises:
        OptionError: there is no such module, or nothing of this name in it.
        ConfigError: the module raises when it is imported.
    """
    module, _, attribute = name.partition(":")
    found: Any = import_named(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            raise OptionError(f"{name}: {module} has no {shown(attribute)}. {nearest(part, public)}")
        found = getattr(found, part)
    return found


def import_named(module: str) -> Any:
    """Import a module that a user names.

    Raises:
        OptionError: there is no such module.
        ConfigError: it raises when it is imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # one that it needs itself
            raise ConfigError(f"{module} needs the module {error.name}, which is not installed.") from error
        raise OptionError(
            f"there is no module {shown(module)}. Name it as `import` would, with its folder as the current one or on "
            "PYTHONPATH."
        ) from None
    except Exception as error:
        raise ConfigError(f"importing {module} raised {type(error).__name__}: {str(error)[:300]}") from error


def load_entry_points() -> None:
    """Import what installed packages offer under `gradchain.recipes` and `gradchain.transforms`.

    Raises:
        ConfigError: an entry point cannot be loaded.
    """
    for group in GROUPS:
        for point in entry_points(group=group):
            try:
                point.load()
            except Exception as error:
                raise ConfigError(
                    f"entry point {point.name} = {point.value} of {group} cannot be loaded: {type(error).__name__}: "
                    f"{str(error)[:200]}. Mend or uninstall its package."
                ) from error
