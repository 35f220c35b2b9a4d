"""Composable gradient transformations for PyTorch: chains of small named stages, run as torch optimizers."""

from typing import TYPE_CHECKING

from gradchain.chain import Chain as Chain
from gradchain.chain import chain as chain
from gradchain.context import Context as Context
from gradchain.distributed.backward import StepInBackward as StepInBackward
from gradchain.distributed.backward import step_in_backward as step_in_backward
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
from gradchain.fields import follow as follow
from gradchain.fields import hyper as hyper
from gradchain.fields import static as static
from gradchain.functional import apply_updates as apply_updates
from gradchain.optimizer import Optimizer as Optimizer
from gradchain.optimizer import optimizer as optimizer
from gradchain.partition import Partition as Partition
from gradchain.partition import partition as partition
from gradchain.reduce import all_parameters as all_parameters
from gradchain.reduce import labelled as labelled
from gradchain.reduce import tensor_partials as tensor_partials
from gradchain.reduce import whole_tensor as whole_tensor
from gradchain.reduce import whole_tensor_max as whole_tensor_max
from gradchain.registry import label_function as label_function
from gradchain.registry import recipe as recipe
from gradchain.registry import register_recipe as register_recipe
from gradchain.stage import Stage as Stage
from gradchain.stage import stateless as stateless
from gradchain.state import LoadReport as LoadReport
from gradchain.transforms import *
from gradchain.transforms.spectral import matrix_or_vector as matrix_or_vector
from gradchain.update import Update as Update

if TYPE_CHECKING:
    from gradchain.registry import recipe_names as recipes  # pyright: ignore[reportUnusedImport]
else:
    from gradchain import recipes  # the package, which is also the function

__version__ = "0.1.0"
