"""The checks that a chain passes when it is built, so that it cannot fail in step 3000."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gradchain._chain.elements import Element, Route, addressed, routes
from gradchain._core.ages import SINCE, UNTIL
from gradchain.errors import ChainError


def check(elements: Sequence[Element]) -> None:
    """Raise `ChainError` unless every route through the elements is sound."""
    repeated = [address for address, count in Counter(a for a, _ in addressed(elements)).items() if count > 1]
    if repeated:
        raise ChainError(
            f"two stages are named {repeated[0]!r}; give one of them another name with name='...'.", stage=repeated[0]
        )
    for route in routes(elements):
        _check_slots(route)
        _check_scale(route)
        _check_places(route)
        _check_followed_keys(route)


def _check_slots(route: Route) -> None:
    owners: dict[str, tuple[int, str]] = {}
    for position, (address, stage) in enumerate(route):
        for slot in stage.known_slots:
            if slot in (SINCE, UNTIL):
                raise ChainError(
                    f"{address} has a slot {slot!r}, under which an optimizer keeps the age of a stage; call it otherwise.",
                    stage=address,
                )
            if slot in owners:
                raise ChainError(
                    f"{owners[slot][1]} and {address} both own slot {slot!r}; remove one, or give it another slot.",
                    stage=address,
                )
            owners[slot] = (position, address)
    for position, (address, stage) in enumerate(route):
        for slot in stage.reads_previous:
            if slot not in owners or owners[slot][0] <= position:
                where = f"but {owners[slot][1]} comes before it" if slot in owners else "and no stage provides it"
                raise ChainError(
                    f"{address} reads slot {slot!r} of a later stage, {where}. Put {_owner_hint(slot)} after "
                    f"{address}, or remove {address}.",
                    stage=address,
                )
        for slot in stage.optional:
            if slot in owners and owners[slot][0] > position:
                raise ChainError(
                    f"{address} would take slot {slot!r} of {owners[slot][1]} into account, which comes after it. Put "
                    f"{owners[slot][1]} before {address}, or remove it.",
                    stage=owners[slot][1],
                )
        later = [other for _, other in route[position + 1 :]]
        for slot in stage.serves:
            if not any(slot in (*other.optional, *other.requires) for other in later):
                raise ChainError(
                    f"{address} provides {slot!r}, and no stage after it makes use of that. Put a stage that does, such as "
                    f"second_moment(...), after {address}, or remove it.",
                    stage=address,
                )
        for slot in stage.requires:
            if slot not in owners or owners[slot][0] >= position:
                raise ChainError(
                    f"{address} needs slot {slot!r} of an earlier stage. Put {_owner_hint(slot)} before {address}, "
                    f"or remove {address}.",
                    stage=address,
                )


def _owner_hint(slot: str) -> str:
    return {"exp_avg": "first_moment(...)", "exp_avg_sq": "second_moment(...)"}.get(slot, f"a stage with slot {slot!r}")


def _check_scale(route: Route) -> None:
    setter: str | None = None
    for address, stage in route:
        rule = stage.scale
        if rule in ("edits", "resolves") and setter is None:
            raise ChainError(
                f"{address} needs a pending scale, and no stage before it sets one. Add range_normalize() or "
                f"second_moment(...) before {address}, or remove {address}.",
                stage=address,
            )
        if rule == "sets" and setter is not None:
            raise ChainError(
                f"{address} sets a scale while the one of {setter} is still pending. Put divide() or atan2_scale() "
                f"between {setter} and {address}, or remove one of them.",
                stage=address,
            )
        if rule == "resolved" and setter is not None:
            raise ChainError(
                f"{address} needs a resolved direction, but the scale of {setter} is still pending. Put divide() or "
                f"atan2_scale() between {setter} and {address}.",
                stage=setter,
            )
        setter = address if rule == "sets" else None if rule == "resolves" else setter
    if setter is not None:
        raise ChainError(
            f"the scale that {setter} sets is never resolved. Add divide() or atan2_scale() after {setter}, or remove "
            f"{setter}.",
            stage=setter,
        )


def _check_places(route: Route) -> None:
    for position, (address, stage) in enumerate(route):
        before, after = route[:position], route[position + 1 :]
        if stage.place == "first" and any(other.place != "first" for _, other in before):
            raise ChainError(
                f"{address} must come first: {before[-1][0]} would not see what it does. Move {address} to the front.",
                stage=address,
            )
        if stage.place == "last" and after:
            raise ChainError(
                f"{address} must come last: it decides how the parameter is stored, but {after[0][0]} follows it. "
                f"Move {address} to the end.",
                stage=address,
            )
        if stage.decays == "steers" and not any(other.decays == "adds" for _, other in after):
            raise ChainError(
                f"{address} steers the decay stages after it, and there is none. Put decoupled_decay(...) after {address}, "
                f"or remove {address}.",
                stage=address,
            )
        stage.check_place([other for _, other in before], address)


def _check_followed_keys(route: Route) -> None:
    provided = {
        stage.key_of(field) for _, stage in route for field, spec in stage.live_fields().items() if not spec.follows
    }
    provided |= {name for _, stage in route for name in stage.init_shared()}
    for address, stage in route:
        for field, spec in stage.live_fields().items():
            if spec.follows and not spec.dispensable and spec.key is not None and stage.key_of(field) not in provided:
                key = stage.key_of(field)
                hint = "Add scale_by_learning_rate(...)" if key == "lr" else f"Add a stage with hyperparameter {key!r}"
                raise ChainError(
                    f"{address} follows hyperparameter {key!r}, which no stage provides. {hint}, or remove {address}.",
                    stage=address,
                )
