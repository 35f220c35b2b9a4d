"""The checks that a chain passes when it is built, so that it cannot fail in step 3000."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from gradchain._chain.declare import Read
from gradchain._chain.elements import Element, Route, addressed, routes
from gradchain._chain.evaluation import TRAIN_PARAM, EvaluationPoint
from gradchain._chain.mixins import numbers_of
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
        _check_neighbours(route)
        _check_followed_keys(route)
        _check_seen_once(route)


def _check_slots(route: Route) -> None:
    owners: dict[str, tuple[int, str]] = {}
    for position, (address, stage) in enumerate(route):
        for slot in stage.known_slots:
            if slot in (SINCE, UNTIL):
                raise ChainError(
                    f"{address} has a slot {slot!r}, under which an optimizer keeps the age of a stage; call it otherwise.",
                    stage=address,
                )
            if slot == TRAIN_PARAM:
                raise ChainError(
                    f"{address} has a slot {slot!r}, under which an optimizer keeps what eval() hides; call it otherwise.",
                    stage=address,
                )
            if slot in owners:
                raise ChainError(
                    f"{owners[slot][1]} and {address} both own slot {slot!r}; remove one, or give it another slot.",
                    stage=address,
                )
            owners[slot] = (position, address)
    for position, (address, stage) in enumerate(route):
        for read in stage.reads:
            _check_read(read, position, address, owners)


def _check_read(read: Read, position: int, address: str, owners: Mapping[str, tuple[int, str]]) -> None:
    at, owner = owners.get(read.slot, (None, ""))
    if read.of == "later":
        if at is None or at <= position:
            where = "and no stage provides it" if at is None else f"but {owner} comes before it"
            raise ChainError(
                f"{address} reads slot {read.slot!r} of a later stage, {where}. Put {_owner_hint(read.slot)} after "
                f"{address}, or remove {address}.",
                stage=address,
            )
    elif read.optional:
        if at is not None and at > position:
            raise ChainError(
                f"{address} would take slot {read.slot!r} of {owner} into account, which comes after it. Put {owner} before "
                f"{address}, or remove it.",
                stage=owner,
            )
    elif at is None or at >= position:
        raise ChainError(
            f"{address} needs slot {read.slot!r} of an earlier stage. Put {_owner_hint(read.slot)} before {address}, or "
            f"remove {address}.",
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


def _check_neighbours(route: Route) -> None:
    stages = [stage.bind({"name": address}) for address, stage in route]  # each known by its full address
    for position, stage in enumerate(stages):
        try:
            stage.check(stages[:position], stages[position + 1 :])
        except ChainError as error:
            error.stage = error.stage or stage.address
            raise


def _check_followed_keys(route: Route) -> None:
    provided = {
        stage.key_of(field) for _, stage in route for field, spec in stage.live_fields().items() if not spec.follows
    }
    provided |= {name for _, stage in route for name in numbers_of(stage)}
    for address, stage in route:
        for field, spec in stage.live_fields().items():
            if spec.follows and not spec.dispensable and spec.key is not None and stage.key_of(field) not in provided:
                key = stage.key_of(field)
                hint = "Add scale_by_learning_rate(...)" if key == "lr" else f"Add a stage with hyperparameter {key!r}"
                raise ChainError(
                    f"{address} follows hyperparameter {key!r}, which no stage provides. {hint}, or remove {address}.",
                    stage=address,
                )


def _check_seen_once(route: Route) -> None:
    points = [address for address, stage in route if isinstance(stage, EvaluationPoint)]
    if len(points) > 1:
        raise ChainError(
            f"{points[0]} and {points[1]} both say where a parameter is seen outside training, and it can be seen at one "
            "point only. Remove one of them.",
            stage=points[1],
        )
