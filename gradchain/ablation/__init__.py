"""Ablation studies: what each stage of a chain contributes, on a small task.

>>> from gradchain.ablation import ablate
>>> print(ablate("rose", task="digits", seeds=3))
"""

from gradchain.ablation.errors import HINT
from gradchain.ablation.errors import StudyError as StudyError

try:
    from gradchain._core.text import Progress as Progress
    from gradchain.ablation.arms import Arm as Arm
    from gradchain.ablation.arms import Contrast as Contrast
    from gradchain.ablation.arms import Design as Design
    from gradchain.ablation.bisect import Bisection as Bisection
    from gradchain.ablation.bisect import bisect as bisect
    from gradchain.ablation.designs import leave_one_out as leave_one_out
    from gradchain.ablation.plot import plot as plot
    from gradchain.ablation.report import Row as Row
    from gradchain.ablation.report import headline as headline
    from gradchain.ablation.report import report as report
    from gradchain.ablation.report import rows as rows
    from gradchain.ablation.results import Result as Result
    from gradchain.ablation.run import Run as Run
    from gradchain.ablation.run import Settings as Settings
    from gradchain.ablation.statistics import Difference as Difference
    from gradchain.ablation.statistics import Judgement as Judgement
    from gradchain.ablation.statistics import judged as judged
    from gradchain.ablation.statistics import paired_difference as paired_difference
    from gradchain.ablation.statistics import seeds_needed as seeds_needed
    from gradchain.ablation.study import LR_FACTORS as LR_FACTORS
    from gradchain.ablation.study import RESULTS as RESULTS
    from gradchain.ablation.study import Study as Study
    from gradchain.ablation.study import ablate as ablate
    from gradchain.ablation.study import study_name as study_name
    from gradchain.ablation.task import Part as Part
    from gradchain.ablation.task import Split as Split
    from gradchain.ablation.task import Task as Task
    from gradchain.ablation.task import batches as batches
    from gradchain.ablation.task import find_task as find_task
    from gradchain.ablation.task import register_task as register_task
    from gradchain.ablation.task import tasks as tasks
except ModuleNotFoundError as error:
    if (error.name or "").startswith("gradchain"):
        raise
    raise ModuleNotFoundError(f"{error.name} {HINT}", name=error.name) from None
