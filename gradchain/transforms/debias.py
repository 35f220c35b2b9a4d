"""The bias correction of a moment, as a stage of its own."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.declare import Read, earlier
from gradchain._chain.stage import Number, Stage
from gradchain._core.fields import hyper, static
from gradchain._core.update import Update


class debias(Stage):
    r"""Divide the direction by $1-\beta^t$: the first moment's bias correction, applied where this stage stands.

    $$u \leftarrow \frac{u}{1-\beta^t} \qquad \text{or} \qquad u \leftarrow u \sqrt{1-\beta^t}$$

    Args:
        beta: $\beta \in [0, 1)$, default 0.9; shares `betas[0]` with the first moment. Rename it for the second one.
        of: `"first_moment"` (default); or `"second_moment"`: multiply by the root, for what was divided by $\sqrt v$.

    Raises: OptionError: a value out of range; ChainError: no stage before it owns `exp_avg`, or `exp_avg_sq`.
    Source: Adams applies it outside the arctangent, so that a step may reach $\frac{\eta}{1-\beta}\frac{\pi}{2}$; GaLore
        and APOLLO behind the quotient, so that $\epsilon$ is added to the raw root.

    >>> gradchain.chain(
    ...     gradchain.first_moment(0.9, bias_correction=False), gradchain.debias(0.9)
    ... ).hyperparameters
    {'betas': (0.9,)}
    """

    source = "Adams, pypi.org/project/adams-torch"

    beta: float = hyper(default=0.9, ge=0, lt=1, key="betas[0]")
    of: str = static(default="first_moment", choices=("first_moment", "second_moment"))

    @property
    def reads(self) -> tuple[Read, ...]:  # type: ignore[override]
        """The moment that it corrects for."""
        return (earlier("exp_avg" if self.of == "first_moment" else "exp_avg_sq"),)

    def scalars(self, step: Number) -> dict[str, Number]:
        remaining = 1 - self.beta**step
        return {"correction": 1 / remaining if self.of == "first_moment" else remaining**0.5}

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(value=update.value * ctx["correction"])
