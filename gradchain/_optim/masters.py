"""The part of an optimizer that shows parameters in the precision that they are stepped in."""

from __future__ import annotations

import torch

from gradchain._chain.evaluation import is_train_param
from gradchain._chain.masters import master_of
from gradchain._core.ages import ages_of
from gradchain._core.autocast import no_autocast
from gradchain._core.shard import Shard, local_of
from gradchain._core.untraced import untraced
from gradchain._optim.checkpoint import Checkpointed
from gradchain._optim.first_state import first_state
from gradchain._optim.routing import labels_of, parameter_names
from gradchain._optim.train_value import as_slot
from gradchain.errors import OptionError, kind_of, nearest, shown


class Mastered(Checkpointed):
    """Knows more of its parameters than these do."""

    @untraced
    @torch.inference_mode(False)
    @torch.no_grad()
    def master_param(self, parameter: str | torch.Tensor) -> torch.Tensor:
        """Get a parameter in the precision that it is stepped in: its master, where `master_weights` keeps one.

        The parameter is given by its name, or as itself. After `eval()` it is the value that training goes on from.

        Returns: a copy; without `master_weights` and `promote` in the parameter's dtype (float32 for float16). Of a sharded
        parameter a DTensor like it.
        Raises: OptionError: no such parameter.

        >>> weight = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        >>> chain = gradchain.chain(master_weights("fp24"), scale_by_learning_rate(2.0**-10))
        >>> optimizer = gradchain.Optimizer([("weight", weight)], chain)
        >>> weight.grad = torch.ones_like(weight)
        >>> optimizer.step()
        >>> weight.tolist(), optimizer.master_param("weight").tolist()
        ([1.0, 1.0], [0.9990234375, 0.9990234375])

        A model in float32, from one in bfloat16:

        >>> model = torch.nn.Linear(2, 1, dtype=torch.bfloat16)
        >>> optimizer = gradchain.Optimizer(model, chain)
        >>> masters = {name: optimizer.master_param(name) for name, _ in model.named_parameters()}
        >>> torch.nn.Linear(2, 1).load_state_dict(masters)
        <All keys matched successfully>
        """
        param, _ = self._named(parameter)
        self._table.sync(self.param_groups)
        number, position, _ = self._table.place(param, self.param_groups)
        group, settings = self.param_groups[number], self._table.groups[number].settings[position]
        name = parameter_names(group)[position]
        program = self._table.program(param, settings, name)
        state = self.state.get(param) or first_state(program, param, name, self.capturable)
        ages = tuple((address, int(missed)) for address, missed in ages_of(state))
        numbers = program.numbers(self.chain.bindings, group, max(1, int(state["step"])), ages)
        trained = next((value for key, value in state.items() if is_train_param(key)), param)
        local = {key: local_of(value) for key, value in state.items()}
        shard = Shard.of(param, name)
        with no_autocast():
            return as_slot(master_of(program, local_of(trained).detach(), local, numbers, shard), param, shard)

    def _named(self, parameter: object) -> tuple[torch.Tensor, str]:
        """A parameter, given by its name or as itself, and what to call it."""
        groups = enumerate(self.param_groups)
        rows = [pair for number, group in groups for pair in zip(group["params"], labels_of(group, number))]
        by_name = isinstance(parameter, str)
        found = [(param, name) for param, name in rows if (parameter == name if by_name else parameter is param)]
        if not isinstance(parameter, (str, torch.Tensor)):
            raise OptionError(f"parameter = {shown(parameter)} is {kind_of(parameter)}; pass a name, or the parameter.")
        if not found:
            known = nearest(parameter, [name for _, name in rows]) if isinstance(parameter, str) else ""
            raise OptionError(f"the optimizer has no parameter {shown(parameter)}. {known}".rstrip())
        return found[0]
