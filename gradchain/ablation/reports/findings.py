"""Notes that follow from the results, and how the study was made."""

from __future__ import annotations

from gradchain.ablation.analysis import Row
from gradchain.ablation.arms import listed
from gradchain.ablation.reports.numbers import Numbers, counted, margin_text
from gradchain.ablation.results import Result, Results, Tuned
from gradchain.ablation.tuning import at_edge

WARNING = "warning: "

SAME_STEP = 1.25
"""A step that is longer or shorter by up to this factor counts as the same."""


def described(study: Results) -> str:
    """How the study was made, in a paragraph."""
    settings = study.settings
    training, budget = settings.training, settings.budget
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in training.facts().items())
    parts = (
        f"{len(study.results)} arms with {_seeds(study)} each",
        "" if budget is None else f"{budget} {training.unit}",
        facts,
        "compiled" if settings.compile else "eager",
        "" if training.threads is None else counted(training.threads, "thread"),
        *(f"{name} {version}" for name, version in study.versions),
    )
    return (
        f"{training.summary.rstrip('.')}.\n{', '.join(filter(None, parts))}.\n"
        "Runs with the same seed share everything but the chain."
    )


def _seeds(study: Results) -> str:
    fewest = min(len(result.runs) for result in study.results)
    return counted(study.seeds, "seed") if fewest == study.seeds else f"{fewest} to {study.seeds} seeds"


def looked(study: Results) -> str:
    """When a study that grows was judged; nothing for one of a fixed size."""
    if study.planned_looks <= 1:
        return ""
    return (
        f"Sequential: judged at {listed([str(look) for look in study.looks])} seeds, of {study.planned_looks} looks "
        f"planned. p values are multiplied by {study.planned_looks}, so that all looks together keep to 5 %. "
        "An arm ends when it is settled."
    )


def chosen(study: Results) -> str:
    """How hyperparameters were chosen."""
    tuned = study.tuned
    if tuned is None:
        return "Hyperparameters: each arm's own, untuned."
    return (
        f"Hyperparameters: {listed(tuned.over)} of every arm chosen by {study.settings.training.tune_on.name}, with the "
        f"same budget of {counted(tuned.trials, 'trial')} of {counted(tuned.seeds, 'seed')}, at {tuned.span[0]:g} to "
        f"{tuned.span[1]:g} times its own values. Seeds of trials are not those of the results."
    )


def findings(numbers: Numbers) -> list[str]:
    """What a reader must know before the table. Returns: notes, warnings last."""
    study = numbers.study
    return [
        *study.design.notes,
        *_nothing_done(numbers),
        *_ties(numbers),
        *_lost(numbers),
        *_missed(numbers),
        *(WARNING + text for text in (*_step_sizes(numbers), *_edges(study), *_advice(study))),
    ]


def _nothing_done(numbers: Numbers) -> list[str]:
    return [
        f"{row.label}: the weights are bit for bit those of {numbers.reference}. In this setting the change does nothing "
        "(wrong dtype, a strength of 0, a warmup not yet over), so this says nothing about its worth."
        for row in numbers.rows
        if row.identical
    ]


def _ties(numbers: Numbers) -> list[str]:
    """Arms that train to other weights and to the same metric."""
    name = numbers.metric.name
    ties = [
        row.label
        for row in numbers.rows
        if (difference := numbers.of_first(row)) is not None
        and not row.identical
        and difference.pairs > 1
        and difference.mean == difference.low == difference.high == 0
        and row.cells[name].missed == 0
    ]
    if not ties:
        return []
    return [
        f"{name} is exactly that of {numbers.reference} in every seed, though the weights differ: {'; '.join(ties)}."
    ]


def _lost(numbers: Numbers) -> list[str]:
    found: list[str] = []
    for row, result in zip(numbers.rows, numbers.study.results):
        seeds = f"of {counted(len(result.runs), 'seed')}"
        if row.failed:
            error = next(run.failed for run in result.runs if run.failed is not None)
            found.append(f"{row.label}: ended in an error in {row.failed} {seeds}: {error}")
        if row.diverged:
            found.append(f"{row.label}: diverged in {row.diverged} {seeds}.")
    return found


def _missed(numbers: Numbers) -> list[str]:
    """Runs that never reached the target of a metric."""
    found: list[str] = []
    for metric in numbers.study.metrics:
        missed = [
            f"{row.label} ({row.cells[metric.name].missed} of {len(result.runs)})"
            for row, result in zip(numbers.rows, numbers.study.results)
            if row.cells[metric.name].missed and row.cells[metric.name].mean is not None
        ]
        if missed:
            found.append(
                f"{metric.name}: runs that never got there count as their last step, which makes differences smaller than "
                f"they are: {'; '.join(missed)}."
            )
    return found


def other_steps(numbers: Numbers) -> list[Row]:
    """The arms whose steps are longer or shorter than the reference's, which tuning would have evened out."""
    if numbers.study.tuned is not None:
        return []
    return [
        row
        for row in numbers.rows[1:]
        if row.change_ratio is not None and not 1 / SAME_STEP <= row.change_ratio <= SAME_STEP
    ]


def _step_sizes(numbers: Numbers) -> list[str]:
    changed = [f"{row.label} ({row.change_ratio:.2g} times)" for row in other_steps(numbers)]
    if not changed:
        return []
    return [
        f"these arms take longer or shorter steps than {numbers.reference}, so another learning rate may be all that they "
        f"need: {'; '.join(changed)}. Tune every arm (--tune) before you conclude that a stage matters."
    ]


def edge_arms(study: Results, name: str) -> list[str]:
    """The arms whose chosen hyperparameter of that name lies at the edge of the range."""
    return [result.arm.label for result in study.results if _at_edge(result, name, study.tuned)]


def _edges(study: Results) -> list[str]:
    found: list[str] = []
    for name in () if study.tuned is None else study.tuned.over:
        at_edge = edge_arms(study, name)
        if at_edge:
            what = "learning rate" if name == "lr" else name
            found.append(
                f"the chosen {what} lies at the edge of the range, so a better one may lie outside: {'; '.join(at_edge)}."
            )
    return found


def _at_edge(result: Result, name: str, tuned: Tuned | None) -> bool:
    own, best = (chain.hyperparameters.get(name) for chain in (result.arm.chain, result.chain))
    if tuned is None or not isinstance(own, (int, float)) or not isinstance(best, (int, float)):
        return False
    return own > 0 and best > 0 and at_edge(best, own, tuned.span)


def _advice(study: Results) -> list[str]:
    """What optimizers and trainings warned of, once each."""
    return [*dict.fromkeys(text for run in study.runs for text in run.advice)]


def legend(numbers: Numbers) -> str:
    """How the tables are read."""
    study, metric = numbers.study, numbers.metric
    better = ", ".join(f"{each.name} {'higher' if each.higher_is_better else 'lower'}" for each in study.metrics)
    if study.seeds == 1:
        return f"Better is: {better}. One seed gives no interval; pass --seeds 3 or more."
    differences = [*map(numbers.of_first, numbers.rows), *(effect.difference for effect in numbers.effects)]
    tests = {difference.test for difference in differences if difference is not None} - {""}
    said = [
        f"Better is: {better}.",
        f"Differences to {numbers.reference} of the same seed: mean and 95 % interval, each arm by itself.",
        f"Verdicts and p are on {metric.name}: all arms together, one is called different by chance in at most 5 % of "
        f"studies (Holm; {' and '.join(sorted(tests)) or 'no test'}).",
    ]
    if any(row.judgement is not None and row.judgement.verdict == "not resolved" for row in numbers.rows):
        said.append("Not resolved: if there is a difference, it takes more seeds to see it.")
    if study.margin is not None:
        said.append(f"Equivalent: by less than {margin_text(numbers)}, two one-sided t tests.")
    if numbers.effects:
        said.append("Effects are a family of their own: what is added, on average over the arms that are compared.")
    if any(" x " in effect.label for effect in numbers.effects):
        said.append("a x b is what a adds where b is, less what it adds where b is not.")
    return " ".join(said)
