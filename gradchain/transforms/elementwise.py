"""Transforms of the direction that keep no state."""

from __future__ import annotations

from gradchain._chain.context import Context
from gradchain._chain.stage import Stage
from gradchain._core.fields import hyper
from gradchain._core.update import Update


class sign(Stage):
    r"""The sign of each element, with $\operatorname{sign}(0) = 0$.

    $$u \leftarrow \operatorname{sign}(u)$$

    Source: Bernstein et al. (2018), signSGD, arXiv:1802.04434.

    >>> gradchain.chain(gradchain.sign(), gradchain.scale_by_learning_rate(1e-3))
    chain(sign(), scale_by_learning_rate())
    """

    source = "signSGD, arXiv:1802.04434"

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(value=update.value.sign())


class multiply(Stage):
    r"""Multiply the direction by a constant.

    $$u \leftarrow c\, u$$

    Args:
        factor: $c$, any number.

    Raises: OptionError: a value out of range.
    Source: `optax.scale`.

    >>> gradchain.chain(gradchain.sign(), gradchain.multiply(0.5), gradchain.scale_by_learning_rate(0.1)).hyperparameters
    {'factor': 0.5, 'lr': 0.1}
    """

    factor: float = hyper()

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(value=self.factor * update.value)


class scale_by_learning_rate(Stage):
    r"""Multiply the direction by the learning rate.

    $$u \leftarrow \eta\, u$$

    Args:
        lr: $\eta \ge 0$, default 1e-3. Goes by `lr` in `param_groups`; schedulers write it there.

    Raises: OptionError: a value out of range.

    >>> gradchain.chain(gradchain.scale_by_learning_rate(0.1)).hyperparameters
    {'lr': 0.1}
    """

    lr: float = hyper(default=1e-3, ge=0)

    def update(self, update: Update, ctx: Context) -> Update:
        return update.replace(value=self.lr * update.value)
