"""Report generation with a fake encoder whose reports are known."""

import dataclasses
import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import f1_score
from support.vector_images import vectors_of

from medclip_jax.errors import UserError
from medclip_jax.evaluate.report_generation import evaluate, most_common_report
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.table import print_result

NORMAL = "The lungs are clear."
EFFUSION = "Small left pleural effusion."
EDEMA = "There is pulmonary edema, unchanged from prior."
NAMES = ("No Finding", "Edema", "Pleural Effusion", "Hernia")
LABELS = {NORMAL: (1, 0, 0, 0), EFFUSION: (0, 0, 1, 0), EDEMA: (0, 1, 0, np.nan)}


@dataclasses.dataclass
class Writer:
    """Writes the text that the image's first number stands for."""

    texts: list[str]
    config: ConfigDict = dataclasses.field(
        default_factory=lambda: ConfigDict(
            {"data": {"sections": ("findings",), "remove_priors": True}}
        )
    )
    asked: list = dataclasses.field(default_factory=list)

    def generate_reports(self, images, *, method, seed):
        self.asked.append((method, seed, len(images)))
        return [self.texts[int(number)] for (number,) in vectors_of(images)]

    def randomly_initialized(self, seed=0):
        return Writer(["effusion"] * len(self.texts), self.config)


@pytest.fixture
def case(study, studies_of, opened):
    """Eight test studies with the reports' numbers as images, and a training split."""

    def make(texts):
        numbered = list(enumerate(texts))
        test = [
            study(
                number,
                # Only the first image counts.
                [[number], [99]][: 1 + number % 2],
                patient=f"p{number // 2}",
                report=f"FINDINGS: {text}\nIMPRESSION: Not asked for.",
                labels=LABELS[text],
            )
            for number, text in numbered
        ]
        train = [
            study(i, [[0]], report=f"FINDINGS: {text}", labels=[0] * 4)
            for i, text in enumerate([EFFUSION, NORMAL, EDEMA, NORMAL.upper(), NORMAL])
        ]
        return opened({"train": studies_of(train, NAMES), "test": studies_of(test, NAMES)})

    return make


REFERENCES = [NORMAL, EFFUSION, EDEMA, NORMAL, EFFUSION, EDEMA, NORMAL, EDEMA]
WRITTEN = [NORMAL, EFFUSION, EDEMA, EFFUSION, "Possible pleural effusion.", EDEMA, NORMAL, NORMAL]


@pytest.fixture
def request_of(tmp_path):
    return lambda **options: Request(
        "set/small", task="report-generation", output=tmp_path, num_resamples=50, **options
    )


@pytest.fixture
def result(case, request_of):
    return evaluate(Writer(WRITTEN), case(REFERENCES), request_of())


def test_clinical_f1_is_scikit_learns(result):
    truth = np.array([LABELS[text][:3] for text in REFERENCES])
    # The doubtful effusion states none, but is no normal report either.
    stated = np.array([LABELS.get(text, (0, 0, 0))[:3] for text in WRITTEN])
    each = f1_score(truth, stated, average=None)
    for name, value in zip(NAMES[:3], each, strict=True):
        assert result.metrics[f"clinical_f1/{name}"] == pytest.approx(value)
        assert result.metrics[f"clinical_f1_vs_report/{name}"] == pytest.approx(value)
    assert 0.4 < result.metrics["clinical_f1"] == pytest.approx(each.mean())
    assert result.metrics["clinical_f1_micro"] == pytest.approx(
        f1_score(truth, stated, average="micro")
    )
    # Lung findings that clear lungs deny are no positives.
    assert np.isnan(result.metrics["clinical_f1_vs_report/Pneumonia"])
    assert result.metrics["clinical_f1_vs_report"] == pytest.approx(each.mean())


def test_baselines_stand_beside(result):
    metrics = result.metrics
    # "Effusion" and nothing else: two of eight, found with precision 1/4.
    assert metrics["random_initialization/clinical_f1"] == pytest.approx((2 * 0.25 / 1.25) / 3)
    # Always normal: three of eight.
    assert metrics["most_common_report/clinical_f1"] == pytest.approx((2 * 3 / (8 + 3)) / 3)
    gain = metrics["clinical_f1"] - metrics["most_common_report/clinical_f1"]
    assert metrics["improvement_over_most_common_report/clinical_f1"] == pytest.approx(gain)
    gain = metrics["bleu4"] - metrics["random_initialization/bleu4"]
    assert metrics["improvement_over_random_initialization/bleu4"] == pytest.approx(gain)
    common = result.protocol["most_common_report"]
    assert common["times"] == 3 and common["of"] == 5
    assert common["text"].upper() == NORMAL.upper()


def test_rates_of_prior_mentions(result):
    assert result.metrics["prior_mention_rate"] == pytest.approx(2 / 8)
    assert result.metrics["reference/prior_mention_rate"] == pytest.approx(3 / 8)
    assert result.metrics["most_common_report/prior_mention_rate"] == 0.0


def test_intervals_hold_the_figures(result):
    for name in ("clinical_f1", "bleu4", "cider", "rouge_l", "meteor", "prior_mention_rate"):
        low, high = result.confidence_intervals[name]
        assert low < result.metrics[name] < high
    assert "improvement_over_most_common_report/cider" in result.confidence_intervals
    assert result.num_examples == 8 and result.num_patients == 4


def test_first_images_sections_and_arrays(case, request_of):
    writer = Writer(WRITTEN)
    result = evaluate(writer, case(REFERENCES), request_of(method="beam", seed=3))
    assert writer.asked == [("beam", 3, 8)]
    assert result.arrays["references"].tolist() == REFERENCES
    assert result.arrays["generated"].tolist() == WRITTEN
    assert result.arrays["label_names"].tolist() == list(NAMES[:3])
    assert result.arrays["generated_labels"][4].tolist() == pytest.approx(
        [-1, np.nan, -1], nan_ok=True
    )
    assert result.protocol["labels_without_rules"] == ["Hernia"]
    assert result.protocol["trained_without_references_to_priors"] is True


def test_reports_are_written_as_lines_of_json(result, request_of):
    lines = (request_of().folder / "reports.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["generated"] for row in rows] == WRITTEN
    assert rows[3] == {
        "row": 3,
        "study_id": "s3",
        "patient_id": "p1",
        "generated": EFFUSION,
        "random_initialization": "effusion",
        "reference": NORMAL,
    }
    assert str(result.protocol["reports"]).endswith(
        "report-generation-set_small-test/reports.jsonl"
    )


def test_a_perfect_writer_scores_highest(case, request_of):
    metrics = evaluate(Writer(REFERENCES), case(REFERENCES), request_of()).metrics
    for name in ("clinical_f1", "clinical_f1_micro", "clinical_f1_vs_report", "bleu4", "rouge_l"):
        assert metrics[name] == pytest.approx(1.0)


def test_without_labels_only_reports_are_compared(study, studies_of, opened, request_of):
    studies = studies_of([study(i, [[i]], report=text) for i, text in enumerate(REFERENCES)])
    result = evaluate(Writer(WRITTEN), opened({"train": studies, "test": studies}), request_of())
    assert "clinical_f1" not in result.metrics
    assert result.metrics["clinical_f1_vs_report"] > 0.4


def test_studies_without_report_are_left_out(study, studies_of, opened, request_of):
    studies = studies_of(
        [study(i, [[i]], report=text) for i, text in enumerate([NORMAL, "", EDEMA])]
    )
    splits = {"train": studies, "test": studies}
    result = evaluate(Writer(["x", "y", "z"]), opened(splits), request_of())
    assert result.arrays["generated"].tolist() == ["x", "z"]
    empty = studies_of([study(0, [[0]])])
    with pytest.raises(UserError, match="no study with an image has a report"):
        evaluate(Writer(["x"]), opened({"train": studies, "test": empty}), request_of())
    with pytest.raises(UserError, match="no split 'train'"):
        evaluate(Writer(["x"]), opened({"test": studies}), request_of())


UNREADABLE = {
    "no common English word": [
        ["Sin derrame pleural.", "Derrame pleural derecho.", "Corazon normal."],
        # The rules would take a French or Spanish finding for an English one.
        ["Pas de pneumothorax. Silhouette normale.", "Infection droite.", "Poumons clairs."],
        ["Sin edema ni consolidación.", "Edema pulmonar.", "Silueta normal."],
    ],
    "read no finding": [["The lungs are clear.", "Normal chest.", "Stable chest."]],
}


@pytest.mark.parametrize(
    ("reason", "texts"), [(why, texts) for why, sets in UNREADABLE.items() for texts in sets]
)
def test_reports_in_which_the_rules_read_nothing_have_no_clinical_f1(
    study, studies_of, opened, request_of, capsys, reason, texts
):
    texts = texts * 2
    studies = studies_of(
        [study(i, [[i]], report=text, labels=[0, 1, 0, 0]) for i, text in enumerate(texts)],
        NAMES,
    )
    result = evaluate(Writer(texts), opened({"train": studies, "test": studies}), request_of())
    clinical = {name: value for name, value in result.metrics.items() if "clinical_f1" in name}
    assert {"clinical_f1", "clinical_f1_vs_report", "clinical_f1_vs_report/No Finding"} < set(
        clinical
    )
    assert "random_initialization/clinical_f1_vs_report_micro" in clinical
    assert "most_common_report/clinical_f1" in clinical
    assert np.isnan(list(clinical.values())).all()
    assert result.metrics["bleu2"] == 1.0
    assert "are undefined" in result.protocol["undefined"]
    assert reason in result.protocol["undefined"]
    assert result.protocol["undefined"] in capsys.readouterr().out
    print_result(result, "reports")
    row = next(r for r in capsys.readouterr().out.splitlines() if r.startswith("clinical_f1 "))
    assert row.split() == ["clinical_f1", "–", "–", "–", "–"]
    content = json.loads(result.write(request_of().output, "t", "d", "s").read_text())
    assert content["metrics"]["clinical_f1_vs_report"] is None


def test_without_a_finding_in_the_references_only_known_labels_count(case, request_of, capsys):
    result = evaluate(Writer([NORMAL] * 3), case([NORMAL] * 3), request_of())
    assert np.isnan(result.metrics["clinical_f1_vs_report"])
    assert np.isnan(result.metrics["clinical_f1_vs_report_micro"])


def test_references_without_words_are_left_out(study, studies_of, opened, request_of):
    studies = studies_of([study(i, [[i]], report=t) for i, t in enumerate([NORMAL, "...", EDEMA])])
    splits = {"train": studies, "test": studies}
    result = evaluate(Writer(["x", "y", "z"]), opened(splits), request_of())
    assert result.arrays["generated"].tolist() == ["x", "z"]


def test_most_common_report_ignores_case_and_spacing_and_prefers_the_first():
    assert most_common_report(["a b.", "C", "c!", "A  B"]) == ("a b.", 2)
