"""Many processes: steps in the backward pass, and what a chain's step sends between processes."""

from gradchain._dist.cost import Cost as Cost
from gradchain._dist.cost import cost as cost
from gradchain._optim.backward import StepInBackward as StepInBackward
from gradchain._optim.backward import step_in_backward as step_in_backward
