"""The rule of the modded-nanogpt optimization track, against figures that were published there."""

from __future__ import annotations

import math

import pytest

from gradchain.ablation import StudyError, TrackEntry, track_compare, track_rule

AURORA = [
    *(3.27765, 3.27965, 3.27675, 3.27978, 3.27961, 3.27999, 3.27696, 3.27746),
    *(3.27929, 3.27910, 3.28025, 3.28060, 3.27822, 3.27837, 3.27969, 3.27966),
]
"""The losses of pull request 312."""


class TestTrackRule:
    @pytest.mark.parametrize(
        ("pull", "mean", "runs", "statistic", "passes"),
        [
            (323, 3.278659, 10, 0.004241, True),
            (289, 3.277178, 6, 0.006912, True),
            (266, 3.27523, 1, 0.00477, True),
            (312, 3.278939375, 16, 0.00424250, True),
            (321, 3.279254, 20, 0.00333, False),
            (321, 3.278856, 20, 0.00511, True),
            (340, 3.27881, 8, 0.00338, False),
            (340, 3.27817, 8, 0.00518, True),
            (345, 3.27950818, 11, 0.00163118, False),
            (345, 3.27778727, 11, 0.00733879, True),
        ],
    )
    def test_published_figures(self, pull, mean, runs, statistic, passes):
        found = track_rule(TrackEntry(mean, runs))
        assert found.statistic == pytest.approx(statistic, abs=2e-5)
        assert found.passes is passes

    def test_of_the_losses_themselves(self):
        found = track_rule(AURORA)
        assert found.statistic == pytest.approx(0.0042425, abs=1e-8)
        assert found.verdict == "passes"
        assert found.more_runs == 0

    def test_exactly_at_the_threshold_passes(self):
        assert track_rule(TrackEntry(3.278, 4)).passes  # (3.28 - 3.278) * 2 is a bit below 0.004 in binary

    @pytest.mark.parametrize(("mean", "runs"), [(3.279508, 11), (3.27991, 1), (3.2781, 4)])
    def test_how_many_more_runs(self, mean, runs):
        found = track_rule(TrackEntry(mean, runs))
        assert not found.passes
        assert found.more_runs == math.ceil((0.004 / (3.28 - mean)) ** 2) - runs
        assert track_rule(TrackEntry(mean, runs + found.more_runs)).passes
        assert not track_rule(TrackEntry(mean, runs + found.more_runs - 1)).passes

    def test_no_number_of_runs_helps_a_mean_above_the_target(self):
        found = track_rule(TrackEntry(3.281, 5))
        assert found.more_runs is None
        assert str(found) == "fails: -0.002236 < 0.004; with these means, no number of further runs would do"

    def test_it_is_about_one_in_a_thousand(self):
        assert track_rule(TrackEntry(3.278, 4)).p == pytest.approx(0.00105, abs=1e-5)

    def test_other_benchmarks(self):
        assert track_rule([1.4, 1.42], target=1.5, threshold=0.09, sigma=0.03).passes


class TestTrackCompare:
    def test_published_figures(self):
        baseline = TrackEntry(3.27866, 10, steps=3250)
        assert track_compare(TrackEntry(3.27817, 8, steps=3210), baseline).statistic == pytest.approx(0.00483, abs=5e-6)
        same = track_compare(TrackEntry(3.27881, 8, steps=3200), TrackEntry(3.28087, 10, steps=3200))
        assert same.statistic == pytest.approx(0.00436, abs=2e-5)
        assert same.passes
        muonh = TrackEntry(3.27778727, 11, steps=3150)
        assert track_compare(muonh, TrackEntry(3.2786, 10, steps=3250)).statistic == pytest.approx(0.01216, abs=5e-6)
        close = track_compare(muonh, TrackEntry(3.2775, 9, steps=3175))  # its mean was published in four digits
        assert close.statistic == pytest.approx(0.00191, abs=6e-5)
        assert not close.passes

    def test_how_many_more_runs(self):
        new, old = TrackEntry(3.2780, 4, steps=3200), TrackEntry(3.2797, 16, steps=3200)
        found = track_compare(new, old)
        assert not found.passes
        assert found.more_runs
        assert track_compare(TrackEntry(3.2780, 4 + found.more_runs, steps=3200), old).passes
        assert not track_compare(TrackEntry(3.2780, 3 + found.more_runs, steps=3200), old).passes

    def test_the_other_entry_may_have_too_few(self):
        found = track_compare(TrackEntry(3.278, 5, steps=3000), TrackEntry(3.279, 4, steps=3000))
        assert found.more_runs is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: track_rule([]), "losses is empty"),
        (lambda: TrackEntry(3.28, 0), "runs = 0: pass how many"),
        (lambda: TrackEntry(math.nan, 3), "mean = nan"),
        (lambda: track_rule(TrackEntry(3.2, 1), threshold=0.0), "threshold = 0.0: pass a positive"),
        (lambda: track_compare(TrackEntry(3.2, 1), TrackEntry(3.2, 1)), "an entry has no steps"),
    ],
)
def test_errors(wrong, message):
    with pytest.raises(StudyError, match=message):
        wrong()
