"""Ablation studies: what each stage of a chain contributes, on a small task.

>>> from gradchain.ablation import ablate
>>> print(ablate("rose", task="digits", seeds=3))
"""

from gradchain.ablation.errors import HINT
from gradchain.ablation.errors import StudyError as StudyError

try:
    from gradchain._core.text import Progress as Progress
    from gradchain.ablation.analysis import Cell as Cell
    from gradchain.ablation.analysis import Effect as Effect
    from gradchain.ablation.analysis import Row as Row
    from gradchain.ablation.analysis import effects as effects
    from gradchain.ablation.analysis import rows as rows
    from gradchain.ablation.analysis import value_of as value_of
    from gradchain.ablation.arms import Arm as Arm
    from gradchain.ablation.arms import Contrast as Contrast
    from gradchain.ablation.arms import Design as Design
    from gradchain.ablation.bisect import Bisection as Bisection
    from gradchain.ablation.bisect import bisect as bisect
    from gradchain.ablation.designs import leave_one_out as leave_one_out
    from gradchain.ablation.guilty import bisect_training as bisect_training
    from gradchain.ablation.planning import Plan as Plan
    from gradchain.ablation.planning import PlannedArm as PlannedArm
    from gradchain.ablation.planning import plan as plan
    from gradchain.ablation.reports import headline as headline
    from gradchain.ablation.reports import plot as plot
    from gradchain.ablation.reports import report as report
    from gradchain.ablation.reports import to_csv as to_csv
    from gradchain.ablation.reports import to_html as to_html
    from gradchain.ablation.reports import to_json as to_json
    from gradchain.ablation.reports import to_latex as to_latex
    from gradchain.ablation.reports import write_html as write_html
    from gradchain.ablation.reproducing import Claim as Claim
    from gradchain.ablation.reproducing import Reproduction as Reproduction
    from gradchain.ablation.reproducing import reproduce as reproduce
    from gradchain.ablation.reproducing import reproductions as reproductions
    from gradchain.ablation.results import Result as Result
    from gradchain.ablation.results import Results as Results
    from gradchain.ablation.results import Tuned as Tuned
    from gradchain.ablation.run import Run as Run
    from gradchain.ablation.run import Settings as Settings
    from gradchain.ablation.statistics import Difference as Difference
    from gradchain.ablation.statistics import Judgement as Judgement
    from gradchain.ablation.statistics import judged as judged
    from gradchain.ablation.statistics import paired_difference as paired_difference
    from gradchain.ablation.statistics import seeds_needed as seeds_needed
    from gradchain.ablation.study import RESULTS as RESULTS
    from gradchain.ablation.study import Study as Study
    from gradchain.ablation.study import ablate as ablate
    from gradchain.ablation.study import load_study as load_study
    from gradchain.ablation.study import study_name as study_name
    from gradchain.ablation.task import Measure as Measure
    from gradchain.ablation.task import Part as Part
    from gradchain.ablation.task import Split as Split
    from gradchain.ablation.task import Task as Task
    from gradchain.ablation.task import accuracy as accuracy
    from gradchain.ablation.task import batches as batches
    from gradchain.ablation.task import find_task as find_task
    from gradchain.ablation.task import register_task as register_task
    from gradchain.ablation.task import tasks as tasks
    from gradchain.ablation.track import TrackEntry as TrackEntry
    from gradchain.ablation.track import TrackVerdict as TrackVerdict
    from gradchain.ablation.track import track_compare as track_compare
    from gradchain.ablation.track import track_rule as track_rule
    from gradchain.ablation.trial import MakeOptimizer as MakeOptimizer
    from gradchain.ablation.trial import Metric as Metric
    from gradchain.ablation.trial import Pruned as Pruned
    from gradchain.ablation.trial import Trainable as Trainable
    from gradchain.ablation.trial import Training as Training
    from gradchain.ablation.trial import Trial as Trial
    from gradchain.ablation.trial import time_to as time_to
except ModuleNotFoundError as error:
    if (error.name or "").startswith("gradchain"):
        raise
    raise ModuleNotFoundError(f"{error.name} {HINT}", name=error.name) from None
