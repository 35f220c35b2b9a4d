"""Reports of studies: that they say what was found, in every form, and survive whatever a study may hold."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from fnmatch import fnmatch
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

import gradchain
import gradchain.cli.report as report_command
from gradchain.ablation import Arm, Design, Results, StudyError, designs, rows, time_to
from gradchain.ablation import reports as written
from gradchain.ablation import study as study_module
from gradchain.ablation.reports.latex import escaped
from gradchain.ablation.reports.numbers import numbers_of
from gradchain.ablation.reports.plot import drawn
from tests.made_studies import (
    ACCURACY,
    HARMED,
    LOSS,
    diverged_run,
    factorial,
    failed_run,
    made_run,
    made_study,
    training,
    troubled,
    tuned,
)
from tests.test_release import PROJECT

SOON = time_to("validation_loss", 0.4)


def one_line(text: str) -> str:
    return " ".join(text.split())


def text_of(study: Results) -> str:
    return one_line(written.report_text(study))


def every_form(study: Results) -> dict[str, str]:
    return {
        "text": written.report_text(study),
        "html": written.to_html(study),
        "json": written.to_json(study),
        "csv": written.to_csv(study),
        "latex": written.to_latex(study),
    }


class TestVerdict:
    def test_it_names_what_is_better_and_worse_and_by_how_much(self):
        study = made_study(HARMED, margin=0.5)
        said = written.headline(study)
        worse = next(row for row in rows(study) if row.label == "without centralize").cells["accuracy"].difference
        assert worse is not None
        assert f"Worse than the full chain: without centralize ({100 * worse.mean:+.2f} points of accuracy)." in said
        assert "Better than the full chain: without decoupled_decay (+" in said
        assert "Equivalent to it within 0.5 points: " in said
        assert "Not resolved with 6 seeds: " in said
        assert text_of(study).startswith(said)

    def test_one_seed(self):
        study = made_study(HARMED, seeds=1)
        assert written.headline(study) == "With 1 seed, no arm can be told from the full chain."
        assert "One seed gives no interval; pass --seeds 3 or more." in text_of(study)

    def test_lower_is_better_for_a_loss_and_for_steps(self):
        for metric, said in ((LOSS, "in loss"), (time_to("training_loss", 0.5), "steps to training_loss <= 0.5")):
            text = written.headline(made_study(HARMED, metrics=(metric,)))
            assert re.search(r"Worse than the full chain: without centralize \(\+[\d.]+ " + re.escape(said), text)

    def test_a_reference_that_is_not_the_full_chain_has_its_name(self):
        design = made_study().design
        base = Arm("base", design.arms[2].chain, "edited")
        study = made_study({"full": 0.05}, design=Design((base, *design.arms[:2])))
        assert "Better than base: full (+" in written.headline(study)
        assert "vs base (points)" in written.report_text(study)

    def test_every_run_failed(self):
        study = made_study()
        lost = {arm.label: [failed_run(arm.label, seed) for seed in range(6)] for arm in study.design.arms}
        said = written.headline(made_study(runs=lost))
        assert said.startswith("Every run ended in an error, so there is nothing to compare.")
        assert "out of luck" in said

    @pytest.mark.parametrize(
        ("lost", "said"),
        [
            (failed_run, "The full chain ended in an error in 2 of 6 seeds, so no arm can be compared with it."),
            (diverged_run, "The full chain diverged in 2 of 6 seeds, so no arm can be compared with it."),
        ],
    )
    def test_a_lost_reference(self, lost, said):
        runs = [*(made_run("full", seed) for seed in range(4)), lost("full", 4), lost("full", 5)]
        assert written.headline(made_study(runs={"full": runs})) == said

    def test_a_target_that_no_run_reached(self):
        study = made_study(metrics=(time_to("validation_loss", 0.01),))
        assert written.headline(study).startswith("No run reached validation_loss = 0.01.")

    def test_no_effect_is_resolved(self):
        study = factorial()
        assert written.headline(made_study(design=study.design)) == (
            "With 6 seeds, no effect on accuracy can be told from chance. "
            "With 6 seeds, no arm can be told from the full chain."
        )
        lost = {"without both": [diverged_run("without both", seed) for seed in range(6)]}
        said = written.headline(made_study(design=study.design, runs=lost))
        assert said.startswith("No effect can be estimated: a run that it needs diverged or ended in an error.")
        assert said.endswith("No verdict: without both diverged in 6 of 6 seeds.")

    def test_many_effects_without_a_difference_are_counted(self):
        stages = ["centralize", "cv_trust_gate", "decoupled_decay", "stochastic_round"]
        study = made_study(seeds=3, design=designs.factorial(gradchain.recipe("rose"), stages))
        study = replace(study, design=replace(study.design, contrasts=study.design.contrasts[1:]))
        worse = {arm.label: -0.05 for arm in study.design.arms if "cv_trust_gate" in arm.label}
        said = written.headline(made_study(worse, seeds=3, design=study.design))
        assert said.startswith("Helps: cv_trust_gate (+")
        assert "Interactions not resolved: 6 of them." in said

    def test_effects_come_first_and_many_arms_are_counted(self):
        study = factorial()
        said = written.headline(study)
        assert re.match(
            r"Helps: centralize \(\+[\d.]+ points of accuracy\); decoupled_decay \(\+[\d.]+ points\)\. "
            r"Worth less together than apart: centralize x decoupled_decay \(-[\d.]+ points\)\. ",
            said,
        )
        assert "a x b is what a adds where b is, less what it adds where b is not" in text_of(study)
        many = tuple(Arm(f"arm {place}", arm.chain, "edited") for place, arm in enumerate(study.design.arms * 3))
        design = replace(study.design, arms=(*study.design.arms, *many))
        assert re.search(
            r"Arms against the full chain: 2 worse, 1 better, 12 not resolved\.",
            written.headline(made_study(HARMED | {"without both": -0.1}, design=design)),
        )


class TestText:
    def test_what_is_lost_is_said(self):
        text = text_of(troubled())
        assert (
            "No verdict: without centralize ended in an error in 6 of 6 seeds; without cv_trust_gate diverged in 2 of 6"
            in text
        )
        assert "- without centralize: ended in an error in 6 of 6 seeds: RuntimeError: out of luck" in text
        assert "- without cv_trust_gate: diverged in 2 of 6 seeds." in text

    def test_looks_are_said_and_arms_that_ended_early_have_their_seeds(self):
        text = written.report_text(troubled())
        assert "8 arms with 4 to 6 seeds each" in text
        assert "Sequential: judged at 4 and 6 seeds, of 3 looks planned. p values are multiplied by 3" in one_line(text)
        line = next(line for line in text.splitlines() if line.startswith("without promote (+  "))
        assert line.split("(+")[1].split()[0] == "4"

    def test_a_longer_step_is_a_warning_unless_the_arms_were_tuned(self):
        said = "take longer or shorter steps than the full chain, so another learning rate may be all that they need"
        assert f"{said}: without decoupled_decay (4 times)" in text_of(troubled())
        assert said not in text_of(made_study(HARMED))
        long = {"without centralize": [made_run("without centralize", seed, change=4e-3) for seed in range(6)]}
        assert said not in text_of(made_study(runs=long, tuned=tuned().tuned))

    def test_what_may_come_of_the_step_size_alone_is_in_the_verdict(self):
        short = [made_run("without centralize", seed, -0.05, change=1e-4) for seed in range(6)]
        said = written.headline(made_study(HARMED, runs={"without centralize": short}))
        assert said.endswith("Not tuned, and may only need another learning rate: without centralize.")
        assert "Not tuned" not in written.headline(troubled())  # that arm is not resolved

    def test_what_may_come_of_a_narrow_range_is_in_the_verdict(self):
        at_edge = "without promote (+ stochastic_round)"
        said = written.headline(tuned(HARMED | {at_edge: -0.05}))
        assert said.endswith(f"Tuned to the edge of the range, and may only need a wider one: {at_edge}.")
        assert "edge" not in written.headline(tuned())  # that arm is not worse

    def test_ties_are_said(self):
        same = [replace(made_run("full", seed), weights=f"other {seed}") for seed in range(6)]
        text = text_of(made_study(runs={"without centralize": same}))
        assert (
            "accuracy is exactly that of the full chain in every seed, though the weights differ: without centralize."
            in text
        )

    def test_a_rate_at_the_edge_is_a_warning(self):
        text = text_of(tuned())
        assert "the same budget of 6 trials of 2 seeds, at 0.1 to 10 times its own values" in text
        edge = (
            "the chosen learning rate lies at the edge of the range, so a better one may lie outside: without promote"
        )
        assert f"{edge} (+ stochastic_round)." in text

    def test_several_metrics_have_intervals_in_their_units(self):
        study = made_study(HARMED, metrics=(ACCURACY, LOSS, SOON))
        text = written.report_text(study)
        first, loss, steps = (
            re.search(rf"^arm .*{title}.*\n((?:.+\n)+)", text, flags=re.M)[1]
            for title in (r"accuracy %", "loss  ", r" 0\.4 ")
        )
        found = next(row for row in rows(study) if row.label == "without centralize").cells
        for table, name, form, factor in ((first, "accuracy", ".2f", 100), (loss, "loss", ".4f", 1)):
            difference = found[name].difference
            shown = [f"{factor * x:+{form}}" for x in (difference.mean, difference.low, difference.high)]
            assert f"{shown[0]} [{shown[1]}, {shown[2]}]" in next(
                line for line in table.splitlines() if "without centralize" in line
            )
        assert "never" in next(line for line in steps.splitlines() if "without centralize" in line)
        assert "runs that never got there count as their last step" in one_line(text)

    def test_what_diverged_did_not_miss_a_target(self):
        lost = {"without centralize": [diverged_run("without centralize", seed) for seed in range(6)]}
        text = text_of(made_study(metrics=(ACCURACY, SOON), runs=lost))
        note = text[text.index("runs that never got there") :].split(" - ")[0]
        assert "without cv_trust_gate (" in note
        assert "without centralize (" not in note

    def test_arms_are_one_line_edits_where_their_labels_do_not_say_it(self):
        arms = made_study().design.arms
        named = replace(arms[2], label="mine", kind="edited", edits="- centralize")
        text = text_of(made_study(design=Design((arms[0], arms[1], named))))
        assert "mine = - centralize" in text
        assert "without promote (+ stochastic_round) =" not in text

    def test_identical_is_no_number(self):
        line = next(line for line in written.report_text(troubled()).splitlines() if "identical to full" in line)
        assert "[" not in line

    @pytest.mark.parametrize(
        ("size", "shown"),
        [(0.5, "0.5000"), (1234.5, "1234.5"), (3e-7, "3.000e-07"), (2e9, "2.000e+09"), (0.0, "0.0000")],
    )
    def test_digits_suit_the_size(self, size, shown):
        runs = {label: [made_run(label, seed, metrics={"loss": size}) for seed in range(2)] for label in ("full",)}
        study = made_study(runs=runs, seeds=2, metrics=(LOSS,), design=Design(made_study().design.arms[:1]))
        assert shown in written.report_text(study)


class Page(HTMLParser):
    """Elements that must be closed, what is loaded, and the texts of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.cells: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action") and value]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def parsed(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def study():
    return made_study(HARMED, margin=0.5, metrics=(ACCURACY, LOSS, SOON))


@pytest.fixture(scope="module")
def html(study):
    return written.to_html(study)


class TestPage:
    def test_the_verdict_comes_first(self, study, html):
        body = re.sub(r"<[^>]*>", " ", html.split("<body>")[1])
        title, said = "Ablation of rose on made", written.headline(study)
        assert one_line(body).startswith(f"{title} {said}")

    def test_it_loads_nothing(self, html):
        assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html)
        assert all(re.match(r"#|data:", address) for address in parsed(html).addresses)

    def test_its_numbers_are_those_of_the_rows(self, study, html):
        cells = parsed(html).cells
        for row in rows(study):
            assert row.label in cells
            assert f"{100 * row.cells['accuracy'].mean:.2f}" in cells
            assert f"{row.cells['loss'].mean:.4f}" in cells
            assert f"{row.state_bytes:,}" in cells

    def test_the_data_in_it_is_the_json(self, study, html):
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, flags=re.DOTALL)[1]
        assert json.loads(data) == json.loads(written.to_json(study))

    def test_chains_are_there_as_toml(self, study, html):
        assert study.full.chain.to_toml().replace('"', "&#34;") in html
        assert study.command in html

    def test_every_drawing_comes_wide_and_narrow(self, html):
        svgs = re.findall(r'<svg class="(\w+)"', html)
        assert svgs == ["wide", "narrow"] * 3  # differences and two curves
        ids = re.findall(r' id="([^"]+)"', html)
        assert len(ids) == len(set(ids))

    def test_tuning_effects_and_what_is_not_there(self, html):
        assert "Hyperparameters</h2>" not in html
        assert "Effects and interactions" not in html
        assert "The value that was chosen is ringed" in written.to_html(tuned())
        assert "Effects and interactions" in written.to_html(factorial())
        bare = {
            label: [made_run(label, seed, curves={}) for seed in range(2)] for label in ("full", "without centralize")
        }
        arms = [arm for arm in made_study().design.arms if arm.label in bare]
        assert "Curves</h2>" not in written.to_html(made_study(runs=bare, seeds=2, design=Design(tuple(arms))))

    def test_the_template_is_installed(self):
        patterns = PROJECT["tool"]["setuptools"]["package-data"]["gradchain.ablation.reports"]
        assert any(fnmatch("page.html", pattern) for pattern in patterns)

    def test_a_file_that_cannot_be_written(self, study, tmp_path):
        (tmp_path / "taken").write_text("")
        with pytest.raises(StudyError, match="the report cannot be written"):
            written.write_html(study, tmp_path / "taken" / "page.html")


EVIL = "<script>alert('$x_1$ & \\ \"%')</script>"


@pytest.fixture(scope="module")
def forms():
    arms = made_study().design.arms[:2]
    design = Design((arms[0], replace(arms[1], label=EVIL, edits=f"- {EVIL}")), (), (f"note {EVIL}",))
    runs = [*(made_run(EVIL, seed, advice=[EVIL]) for seed in range(2)), failed_run(EVIL, 2, f"ValueError: {EVIL}")]
    full = [made_run("full", seed, curves={EVIL: [[1.0, 2.0], [2.0, 1.0]]}) for seed in range(3)]
    study = made_study(design=design, runs={EVIL: runs, "full": full}, seeds=3, command=f"gradchain {EVIL}")
    return every_form(
        replace(
            study, name=EVIL, settings=replace(study.settings, training=replace(study.settings.training, name=EVIL))
        )
    )


class TestStrangers:
    """Texts of users go through every form as they are, and do nothing."""

    def test_html(self, forms):
        assert "<script>alert" not in forms["html"]
        assert parsed(forms["html"]).tags.count("script") == 2
        assert "&lt;script&gt;alert" in forms["html"]

    def test_json_and_csv(self, forms):
        assert json.loads(forms["json"])["rows"][1]["label"] == EVIL
        assert {line["arm"] for line in csv.DictReader(io.StringIO(forms["csv"]))} == {"full", EVIL}

    def test_latex(self, forms):
        assert escaped("a_b & 5 % \\ {x} #1 $2 ~^") == (
            r"a\_b \& 5 \% \textbackslash{} \{x\} \#1 \$2 \textasciitilde{}\textasciicircum{}"
        )
        inside = forms["latex"].split(r"\midrule")[1]
        assert r"\textless{}script\textgreater{}alert('\$x\_1\$ \& \textbackslash{}" in inside

    def test_text(self, forms):
        assert EVIL in one_line(forms["text"])

    def test_labels_are_no_markup_and_no_formulas(self, tmp_path):
        arms = [replace(arm, label=f"{arm.label} [bold] $x_$") for arm in made_study().design.arms[:2]]
        study = made_study(design=Design(tuple(arms)))
        assert "full [bold] $x_$" in written.report_text(study)
        assert "$x_$" in re.sub(r"<[^>]*>", "", written.to_html(study).split("<svg")[1])
        assert written.plot(study, tmp_path / "plot.png").exists()


class TestData:
    def test_json_has_rows_effects_and_runs(self):
        study = factorial()
        data = json.loads(written.to_json(study))
        for row, found in zip(rows(study), data["rows"]):
            assert found["label"] == row.label
            assert found["cells"]["accuracy"]["mean"] == row.cells["accuracy"].mean
            assert (found["judgement"] or {}).get("verdict") == (row.judgement.verdict if row.judgement else None)
        assert [effect["label"] for effect in data["effects"]] == [c.label for c in study.design.contrasts]
        assert data["arms"][0]["runs"][0]["metrics"] == study.full.runs[0].metrics
        assert data["verdict"] == written.headline(study)

    def test_csv_has_a_line_for_each_run(self):
        study = made_study(HARMED, metrics=(ACCURACY, SOON))
        lines = list(csv.DictReader(io.StringIO(written.to_csv(study))))
        assert len(lines) == len(study.runs)
        assert [float(line["accuracy"]) for line in lines] == [run.metrics["accuracy"] for run in study.runs]
        assert all(float(line[SOON.name]) <= 200 for line in lines)
        assert {line["lr"] for line in lines} == {"0.001"}

    def test_what_is_missing_is_empty_or_null(self):
        study = troubled()
        runs = [replace(run, seconds=float("nan")) for run in study.full.runs]
        study = replace(study, results=(replace(study.full, runs=tuple(runs)), *study.results[1:]))
        data = json.loads(written.to_json(study), parse_constant=pytest.fail)
        assert data["arms"][0]["runs"][0]["seconds"] is None
        lost = next(line for line in csv.DictReader(io.StringIO(written.to_csv(study))) if line["failed"])
        assert lost["accuracy"] == ""
        assert lost["failed"] == "RuntimeError: out of luck"

    def test_latex_numbers_are_those_of_the_rows(self):
        study = made_study(HARMED)
        table = written.to_latex(study)
        for row in rows(study)[1:]:
            difference = row.cells["accuracy"].difference
            ends = [f"${100 * x:+.2f}$" for x in (difference.mean, difference.low, difference.high)]
            line = next(line for line in table.splitlines() if line.strip().startswith(escaped(row.label)))
            assert f"${100 * row.cells['accuracy'].mean:.2f}$ & {ends[0]} [{ends[1]}, {ends[2]}] & " in line
        lines = [line for line in table.split(r"\midrule")[1].splitlines() if line.endswith(r"\\")]
        assert {line.count("&") for line in lines} == {len(re.search(r"tabular}{(\w+)}", table)[1]) - 1}
        assert written.to_latex(factorial()).count(r"\begin{table}") == 2


SHAPES = {
    "one seed": lambda: made_study(seeds=1),
    "reference alone": lambda: made_study(design=Design(made_study().design.arms[:1])),
    "no curves": lambda: made_study(runs={"full": [made_run("full", s, curves={}) for s in range(6)]}),
    "troubled": troubled,
    "all failed": lambda: made_study(
        runs={arm.label: [failed_run(arm.label, s) for s in range(6)] for arm in made_study().design.arms}
    ),
    "no learning rate": lambda: made_study(runs={"full": [made_run("full", s, lr=None) for s in range(6)]}),
    "ten seeds": lambda: made_study(seeds=10),
    "steps": lambda: made_study(HARMED, metrics=(SOON,)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_form_takes_every_study(shape, tmp_path):
    study = SHAPES[shape]()
    forms = every_form(study)
    assert all(study.full.arm.label in text for text in forms.values())
    assert not re.search(r"\b(nan|None|inf)\b", forms["text"] + forms["latex"])
    parsed(forms["html"])
    assert written.plot(study, tmp_path / "plot.png").stat().st_size > 5_000


class TestPlot:
    @pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
    def test_the_suffix_decides(self, suffix, start, tmp_path):
        path = tmp_path / "deep" / f"plot{suffix}"
        assert written.plot(troubled(), path) == path
        assert path.read_bytes().startswith(start)

    def test_the_same_study_is_the_same_file(self, tmp_path):
        one, two = (written.plot(factorial(), tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
        assert one == two

    def test_another_suffix(self, tmp_path):
        with pytest.raises(StudyError, match=r"plot ends with .png, .svg, .pdf"):
            written.plot(factorial(), tmp_path / "plot.jpeg2")


def test_a_curve_that_runs_away_does_not_squeeze_the_others():
    lost = [
        replace(diverged_run("without centralize", seed), curves={"loss": [[1.0, 2.0], [2.0, 1e9], [3.0, 1e30]]})
        for seed in range(6)
    ]
    kept = {
        label: [made_run(label, s, curves={"loss": [[1.0, 2.0], [3.0, 1.0]]}) for s in range(6)] for label in ("full",)
    }
    study = made_study(runs={**kept, "without centralize": lost}, design=Design(made_study().design.arms[:3:2]))
    low, high = drawn(numbers_of(study)).axes[-1].get_ylim()
    assert low < 1.0 < 2.0 < high < 4.0


class TestCommand:
    @pytest.fixture
    def call(self, monkeypatch, tmp_path):
        monkeypatch.setattr(study_module, "load_study", lambda folder: factorial())
        monkeypatch.chdir(tmp_path)

        def called(*arguments: str) -> str:
            result = CliRunner().invoke(report_command.app, ["report", *arguments])
            return result.output if result.exit_code == 0 else f"{result.exit_code}: {result.output}"

        return called

    def test_text(self, call):
        assert one_line(call("study")) == text_of(factorial())

    @pytest.mark.parametrize(("flag", "write"), [("--csv", "to_csv"), ("--json", "to_json"), ("--latex", "to_latex")])
    def test_printed_or_written(self, call, flag, write, tmp_path):
        text = getattr(written, write)(factorial()).rstrip("\n") + "\n"
        assert call("study", flag) == text
        assert call("study", flag, "--out", "deep/file") == "deep/file\n"
        assert (tmp_path / "deep" / "file").read_text(encoding="utf-8") == text

    def test_page(self, call, tmp_path):
        assert call("study", "--html") == "study/report.html\n"
        assert call("study", "--html", "--out", "page.html") == "page.html\n"
        assert (tmp_path / "page.html").read_bytes() == (tmp_path / "study" / "report.html").read_bytes()

    def test_two_forms_at_once(self, call):
        assert call("study", "--csv", "--json") == "2: gradchain: --csv and --json exclude each other; pass one.\n"


def test_a_study_that_was_read_back_is_reported_as_it_was(tmp_path):
    study = study_module.ablate(
        "adamw", metric="loss:min", seeds=2, epochs=1, batch_size=512, baseline=None, out=tmp_path
    )
    assert written.headline(study_module.load_study(tmp_path)) == written.headline(study)
    assert [row.cells for row in rows(study_module.load_study(tmp_path))] == [row.cells for row in rows(study)]


def test_made_studies_are_never_run():
    with pytest.raises(AssertionError):
        training(None, None)
