"""Whether what an optimizer is built with is a chain, and its choices are choices."""

from __future__ import annotations

from gradchain._chain.chain import Chain
from gradchain.errors import OptionError, kind_of, shown


def check_arguments(params: object, chain: object, compile: object, capturable: object, nonfinite: object) -> None:
    """Raise `OptionError` for what is not a chain, or not a choice, or for choices that contradict each other."""
    if not isinstance(chain, Chain):
        if isinstance(params, Chain):
            raise OptionError("the arguments are swapped: pass the parameters first, Optimizer(params, chain).")
        made = " Call the recipe's function." if callable(chain) else ""
        named = f" For a recipe's name: gradchain.recipe({shown(chain)})." if isinstance(chain, str) else ""
        raise OptionError(
            f"chain = {shown(chain)} is {kind_of(chain)}; pass gradchain.chain(...) or a recipe.{made}{named}"
        )
    if not (isinstance(compile, str) and compile in ("auto", "background")) and not isinstance(compile, bool):
        raise OptionError(
            f"compile = {shown(compile)} is not one of 'auto', 'background', True, False. Pass one of these."
        )
    if not isinstance(capturable, bool):
        raise OptionError(f"capturable = {shown(capturable)} is not True or False. Pass one of these.")
    if capturable and nonfinite == "error":
        raise OptionError(
            "nonfinite = 'error' has to read from the device at every step, which capturable=True promises not to do. Pass "
            "nonfinite='skip', and look at nonfinite_report() now and then."
        )
