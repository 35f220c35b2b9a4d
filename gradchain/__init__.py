"""Composable gradient transformations for PyTorch: chains of small named stages, run as torch optimizers."""

from typing import TYPE_CHECKING

from gradchain._chain.chain import Chain as Chain
from gradchain._chain.chain import chain as chain
from gradchain._chain.context import Context as Context
from gradchain._chain.cost import ChainCost as ChainCost
from gradchain._chain.cost import StageCost as StageCost
from gradchain._chain.declare import ParamInfo as ParamInfo
from gradchain._chain.declare import Slot as Slot
from gradchain._chain.declare import earlier as earlier
from gradchain._chain.declare import later as later
from gradchain._chain.diff import Diff as Diff
from gradchain._chain.diff import diff as diff
from gradchain._chain.functional import apply_updates as apply_updates
from gradchain._chain.mixins import Decay as Decay
from gradchain._chain.mixins import Precision as Precision
from gradchain._chain.mixins import SharedNumbers as SharedNumbers
from gradchain._chain.partition import Partition as Partition
from gradchain._chain.partition import partition as partition
from gradchain._chain.recipes import recipe as recipe
from gradchain._chain.recipes import register_recipe as register_recipe
from gradchain._chain.registry import label_function as label_function
from gradchain._chain.stage import Stage as Stage
from gradchain._chain.stage import Yields as Yields
from gradchain._chain.stage import stateless as stateless
from gradchain._chain.trace import Trace as Trace
from gradchain._chain.trace import TraceRow as TraceRow
from gradchain._core.fields import Interval as Interval
from gradchain._core.fields import follow as follow
from gradchain._core.fields import hyper as hyper
from gradchain._core.fields import static as static
from gradchain._core.reduce import all_parameters as all_parameters
from gradchain._core.reduce import labelled as labelled
from gradchain._core.reduce import tensor_partials as tensor_partials
from gradchain._core.reduce import whole_tensor as whole_tensor
from gradchain._core.reduce import whole_tensor_max as whole_tensor_max
from gradchain._core.update import Update as Update
from gradchain._export.export import export as export
from gradchain._optim.backward import StepInBackward as StepInBackward
from gradchain._optim.backward import step_in_backward as step_in_backward
from gradchain._optim.by_name import optimizer as optimizer
from gradchain._optim.exchange import ImportReport as ImportReport
from gradchain._optim.exchange import import_state as import_state
from gradchain._optim.hessian import give_hessian as give_hessian
from gradchain._optim.leaving import export_state as export_state
from gradchain._optim.optimizer import Optimizer as Optimizer
from gradchain._optim.state import LoadReport as LoadReport
from gradchain.errors import ChainError as ChainError
from gradchain.errors import CompileWarning as CompileWarning
from gradchain.errors import ConfigError as ConfigError
from gradchain.errors import GradchainError as GradchainError
from gradchain.errors import GradientError as GradientError
from gradchain.errors import OptionError as OptionError
from gradchain.errors import ParameterError as ParameterError
from gradchain.errors import StateError as StateError
from gradchain.errors import UnknownNameError as UnknownNameError
from gradchain.errors import UnknownOptionError as UnknownOptionError
from gradchain.transforms import *
from gradchain.transforms.spectral import matrix_or_vector as matrix_or_vector

if TYPE_CHECKING:
    from gradchain import optim as optim
    from gradchain._chain.recipes import recipe_names as recipes  # pyright: ignore[reportUnusedImport]
else:
    from gradchain import optim, recipes  # the package, which is also the function

__version__ = "0.1.0"
