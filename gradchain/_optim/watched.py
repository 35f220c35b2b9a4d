"""The part of an optimizer that watches a run: telemetry, and shadows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradchain._chain.chain import Chain
from gradchain._core.untraced import untraced
from gradchain._optim.explain import Explained
from gradchain._optim.exporters import check_target, write
from gradchain._optim.shadows import Runs, Shadows
from gradchain._optim.state import LoadReport
from gradchain.errors import OptionError, shown


class Watched(Explained):
    """What can be seen of a run, and that shadows are saved with it."""

    _shadows: Shadows | None = None

    def _beside(self, groups: list[dict[str, Any]], chain: Chain) -> Runs:
        """The optimizer of a shadow."""
        raise NotImplementedError

    def _shadowed_by(self, chains: Mapping[str, Chain]) -> Shadows | None:
        """These shadows before their first step."""
        return Shadows(chains, self.chain, self.defaults, self.param_groups, self._beside) if chains else None

    @untraced
    def telemetry(self, gather: bool | None = None) -> dict[str, float]:
        """Collect what was measured in the last step that telemetry looked at, over all parameters of groups with telemetry.

        Of each stage: `stage/rms_in` and `stage/rms_out`, the RMS of the direction before it and after, `stage/cosine`
        between the two, `stage/cosine_gradient` between the direction after it and the gradient, `stage/sign_flips`, the
        fraction of elements whose sign it turned, and `stage/rms_decay`, if it decays. A pending scale counts as divided
        out. Of the step: `rms_gradient`, `rms_param`, `rms_change`, `relative_change` (the last over the one before it)
        and `effective_lr`, the change over the gradient. And what stages report themselves; shared numbers; shadows.

        `step` is the counter of the parameter visited last in that step. What stages record by `ctx.record` is 0 before
        the first step and without telemetry. This call syncs with the device; the step does not.

        Args:
            gather: `True` for the numbers of the whole model, where parameters are divided over processes or sharded; all
                processes must call this. `False` for those of the parameters and rows that are here. `None`: with
                `partition_of` an error, and of sharded parameters what is measured is left out.

        Returns: numbers by name.
        Raises: OptionError: the parameters are divided over processes, and `gather` does not say which numbers are meant.
        """
        if gather is not None and not isinstance(gather, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"gather = {shown(gather)} is not True, False or None. Pass one of these.")
        names = {name for traits in self._table.traits for name in traits.records}
        if gather is None and self._partition.places:
            raise OptionError(
                "the parameters are divided over processes. Pass gather=True, in all processes, for the telemetry of the "
                "whole model, or gather=False for that of the parameters that this process steps."
            )
        told = self._telemetry.report(sorted(names), self._partition.members if gather else None, gather)
        if any(group["telemetry"] for group in self.param_groups):
            told |= {f"{at}/{name}": float(self.param_groups[0][key]) for at, name, key in self.chain.bindings.shared}
        if self._shadows is not None:
            told |= self._shadows.report()
        return {**told, **self._guard.tally.numbers()} if self._guard.active else told

    @untraced
    def log_telemetry(
        self, to: Any, *, step: int | None = None, prefix: str = "", gather: bool | None = None
    ) -> dict[str, float] | None:
        """Write what `telemetry()` collects somewhere, if there is anything new: call it after every step.

        With `telemetry=100` it writes at every hundredth step, and waits for the device only then.

        Args:
            to: a path, for JSON lines that are appended; a `SummaryWriter`, or what has `add_scalar(name, value, step)`;
                anything with `log_metrics(dict, step=)` (mlflow, Lightning), `log(dict, step=)` or `log(dict)` (wandb,
                trackio, their modules too); a function of a dict. `None` collects and writes nothing, as processes other
                than the first need with `gather=True`.
            step: the number to file it under; by default the count of optimizer steps.
            prefix: put before all names, such as `"optimizer/"`.
            gather: as for `telemetry`.

        Returns: the numbers that were written, or `None` if there was nothing new.
        Raises: OptionError: telemetry cannot be written there, or as `telemetry`.

        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = gradchain.optimizer("sgd", [weight], lr=0.5, telemetry=True)
        >>> weight.grad = torch.ones(2)
        >>> optimizer.step()
        >>> told = optimizer.log_telemetry(lambda numbers: print(numbers["step"], numbers["effective_lr"]))
        1 0.5
        >>> optimizer.log_telemetry(print)
        """
        check_target(to)
        if not self._telemetry.fresh:
            return None
        told = self.telemetry(gather)
        self._telemetry.fresh = False
        at = int(told.pop("step")) if step is None else step
        told.pop("step", None)
        numbers = {prefix + name: value for name, value in told.items()}
        write(to, numbers, at)
        return {"step": at, **numbers}

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        return saved if self._shadows is None else {**saved, "shadows": self._shadows.state_dict()}

    state_dict.__doc__ = Explained.state_dict.__doc__

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> LoadReport:
        if self._shadows is None:
            return super().load_state_dict(state_dict, strict)
        saved = state_dict.get("shadows") if isinstance(state_dict, Mapping) else None  # pyright: ignore
        shadows = None if saved is None else self._shadows.loaded(saved)
        report = super().load_state_dict(state_dict, strict)
        self._shadows = shadows or self._shadowed_by(self._shadows.chains)
        return report

    load_state_dict.__doc__ = Explained.load_state_dict.__doc__

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_shadows": self._shadows}
