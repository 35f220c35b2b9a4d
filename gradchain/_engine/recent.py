"""A cache of bounded size."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(dict[K, V]):
    """At most `limit` entries; the least recently used are evicted."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def use(self, key: K) -> V | None:
        """The value, which is now the last to be evicted; `None` if there is none."""
        value = self.pop(key, None)
        if value is not None:
            self[key] = value
        return value

    def add(self, key: K, value: V) -> V:
        self[key] = value
        while len(self) > self.limit:
            del self[next(iter(self))]
        return value
