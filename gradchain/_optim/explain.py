"""The part of an optimizer that explains the next step of a parameter."""

from __future__ import annotations

import torch

from gradchain._chain.lockstep import run_lockstep
from gradchain._chain.trace import Trace, Tracer, title
from gradchain._core.autocast import no_autocast
from gradchain._core.untraced import untraced
from gradchain._engine.param_step import ParamStep
from gradchain._optim.masters import Mastered
from gradchain._optim.table import StepInfo
from gradchain.errors import GradientError


class Explained(Mastered):
    """Explains what `step` would do."""

    @untraced
    @torch.no_grad()
    def explain(self, parameter: str | torch.Tensor) -> Trace:
        """Follow the present gradient of a parameter to the change that `step` would make, stage by stage.

        The parameter is given by its name, or as itself. The step is computed eagerly, from the present gradients and
        state, and nothing is changed. The last row is the change that an eager step then makes, bit for bit; a compiled
        one agrees to a few units in the last place. Of a sharded parameter it is that of the rows here; all processes
        must ask.

        Returns: the trace, to be printed, plotted, or read row by row.
        Raises: OptionError: no such parameter; GradientError: it has no gradient, or `nonfinite="skip"` would skip the step.

        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = gradchain.optimizer("sgd", [("weight", weight)], lr=0.1)
        >>> weight.grad = torch.tensor([1.0, -3.0])
        >>> optimizer.explain("weight").change
        tensor([-0.1000,  0.3000])
        """
        param, name = self._asked(parameter)
        self._table.sync(self.param_groups)
        due = self._table.due(self.param_groups, StepInfo(self.state, self._partition, self.capturable))
        here = next(item for item in due if item.record.param is param)
        due = self._stepped(due, here, name)
        task = here.task
        tracer = Tracer(here.program, task.param, task.gradient)
        runs = [item.task.start(tracer.see if item is here else None, observe=item is here) for item in due]
        with no_autocast():
            outcomes = run_lockstep([item.program for item in due], runs, self._partition.totals)
        outcome = outcomes[due.index(here)]
        step = int(here.state["step"]) + 1
        return tracer.trace(title(name, task.param, step), outcome.param, outcome.recorded)

    def _asked(self, parameter: object) -> tuple[torch.Tensor, str]:
        """A parameter that has a gradient, and its name."""
        param, name = self._named(parameter)
        if param.grad is None:
            raise GradientError(f"parameter {name} has no gradient. Call loss.backward() before explain.")
        return param, name

    def _stepped(self, due: list[ParamStep], here: ParamStep, name: str) -> list[ParamStep]:
        """Those that the step would be taken of, among them the one that is asked about."""
        if not self._guard.active:
            return due
        finite = [item for item in due if bool(item.grad.isfinite().all())]
        if here not in finite or (self._guard.model_wide and len(finite) < len(due)):
            raise GradientError(
                f"the step of {name} would not be taken, since a gradient is not finite. print(optimizer.nonfinite_report("
                "origins=True)) says where it comes from."
            )
        return finite
