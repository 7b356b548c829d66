"""The `report-generation` task: how like a radiologist's are the reports, and are they true?

Words are compared by BLEU, ROUGE-L, CIDEr and METEOR. What is clinically said is compared by the
findings that `finding_extractor` reads off a report: with the known labels of the set
(`clinical_f1`) and with what it reads off the reference (`clinical_f1_vs_report`). Both stand
beside the encoder's random initialisation, and beside the report that the training split has most
often, given to every study: what can be had without looking at the image.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medclip_jax.data.priors import mentions_prior
from medclip_jax.errors import UserError
from medclip_jax.evaluate.bootstrap import RANDOM, MetricFn
from medclip_jax.evaluate.clinical_f1 import ClinicalF1
from medclip_jax.evaluate.encode import (
    ImageTextEncoder,
    Studies,
    StudyTable,
    image_blocks,
    read_table,
    text_groups,
)
from medclip_jax.evaluate.english import are_english
from medclip_jax.evaluate.finding_extractor import PRESENT, extract_labels
from medclip_jax.evaluate.finding_lexicon import LABEL_NAMES, NO_FINDING
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, figures_go_on, summarize
from medclip_jax.evaluate.text_metrics import TextMetrics, tokenize

MOST_COMMON = "most_common_report/"
OVER_MOST_COMMON = "improvement_over_most_common_report/"
REFERENCE = "reference/"
PRIOR_MENTION_RATE = "prior_mention_rate"
VERSUS_REPORT = "clinical_f1_vs_report"
VERSUS_LABELS = "clinical_f1"


class ReferenceReading:
    """What the finding extractor reads off the references.

    References that are not English say nothing here, whatever the rules take for a finding.

    Attributes:
        are_english: whether they are English, as `are_english` tells it.
        names_findings: whether any reference states, denies or doubts a finding.
        states_findings: whether any reference states one.
        labels: 1 where a reference states one of `LABEL_NAMES`, else 0; all NaN if none states a
            finding. "No Finding" alone is none.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        found = extract_labels(texts)
        findings = np.delete(found, LABEL_NAMES.index(NO_FINDING), axis=1)
        self.are_english = are_english(texts)
        self.names_findings = self.are_english and not np.isnan(findings).all()
        self.states_findings = self.are_english and bool((findings == PRESENT).any())
        stated = (found == PRESENT).astype(np.float32)
        self.labels = stated if self.states_findings else np.full_like(stated, np.nan)

    @property
    def problem(self) -> str:
        """Why clinical F1 is undefined, or ""."""
        both = f"{VERSUS_LABELS} and {VERSUS_REPORT} are undefined"
        if not self.are_english:
            return (
                f"{both}: the rules are for English, and most reference reports hold no common"
                " English word"
            )
        if not self.names_findings:
            return f"{both}: the rules read no finding in any reference report"
        if not self.states_findings:
            return f"{VERSUS_REPORT} is undefined: no reference report states a finding"
        return ""


class ReportMetrics:
    """All figures of a list of generated reports, one for each study."""

    def __init__(
        self, generated: Sequence[str], table: StudyTable, label_names: Sequence[str]
    ) -> None:
        """Compares with the texts and the labels of the table.

        Args:
            generated: A report of each study.
            table: The studies with their references; its labels are those of `label_names`.
            label_names: Labels that the extractor has rules for; none leaves `clinical_f1` out.
        """
        self._text = TextMetrics(generated, table.texts)
        reading = ReferenceReading(table.texts)
        self._clinical = []
        if label_names:
            stated = extract_labels(generated, label_names) == PRESENT
            labels = table.labels if reading.names_findings else np.full_like(table.labels, np.nan)
            self._clinical.append(ClinicalF1(stated, labels, label_names, VERSUS_LABELS))
        stated = extract_labels(generated) == PRESENT
        self._clinical.append(ClinicalF1(stated, reading.labels, LABEL_NAMES, VERSUS_REPORT))
        self._mentions_prior = prior_mentions(generated)

    def __call__(self, weights: Float[np.ndarray, "rows"]) -> dict[str, float]:
        """The figures of clinical F1, of the words, and the share of reports that name a prior."""
        metrics: dict[str, float] = {}
        for clinical in self._clinical:
            metrics |= clinical(weights)
        rate = float(np.average(self._mentions_prior, weights=weights))
        return metrics | self._text(weights) | {PRIOR_MENTION_RATE: rate}


def prior_mentions(texts: Sequence[str]) -> Float[np.ndarray, "texts"]:
    """1 for each text that refers to an earlier study."""
    return np.array([mentions_prior(text) for text in texts], np.float64)


def most_common_report(texts: Sequence[str]) -> tuple[str, int]:
    """The text found most often, equal in words and numbers, and how often; of equals the first."""
    groups, first = text_groups(texts)
    counts = np.bincount(groups)
    most = int(np.argmax(counts))
    return texts[first[most]], int(counts[most])


@dataclasses.dataclass(frozen=True)
class Reports:
    """What is compared with the references.

    Attributes:
        generated: The encoder's reports.
        random: Those of its random initialisation.
        most_common: The one that the training split has most often.
    """

    generated: list[str]
    random: list[str]
    most_common: str


def evaluate(
    encoder: ImageTextEncoder, open_studies: Callable[[str], Studies], request: Request
) -> EvaluationResult:
    """Writes a report for the first image of every study that has a report.

    The reports go to `reports.jsonl` in the task's folder as well.

    Raises:
        UserError: the run trained no captioning, the set has no train split, or a split has no
            study with an image and a report.
    """
    sections = tuple(encoder.config.data.sections)
    training_texts = _with_text(read_table(open_studies("train"), sections)).texts
    most_common, times = most_common_report(training_texts)
    studies = open_studies(request.split)
    table = _with_text(read_table(studies, sections))
    both = [encoder, encoder.randomly_initialized(request.seed)]
    generated, random_generated = _generate(both, studies, table, request)
    reports = Reports(generated, random_generated, most_common)
    path = request.folder / "reports.jsonl"
    with figures_go_on(path):
        _write_reports(path, table, reports)
    names = [name for name in studies.label_names if name in LABEL_NAMES]
    notes = {
        "sections": sections,
        "trained_without_references_to_priors": encoder.config.data.remove_priors,
        "labels_without_rules": [name for name in studies.label_names if name not in names],
        "most_common_report": {"text": most_common, "times": times, "of": len(training_texts)},
        "reports": path,
    }
    if problem := ReferenceReading(table.texts).problem:
        print(problem)
        notes["undefined"] = problem
    columns = [studies.label_names.index(name) for name in names]
    return _score(table.with_labels(columns), names, reports, request, notes)


def _score(
    table: StudyTable,
    label_names: Sequence[str],
    reports: Reports,
    request: Request,
    notes: Mapping[str, Any],
) -> EvaluationResult:
    headline = [VERSUS_REPORT, "bleu4", "cider"]
    if label_names:
        headline.insert(0, VERSUS_LABELS)
    metrics, intervals, bootstrap = summarize(
        _with_baselines(reports, table, label_names, headline),
        {RANDOM: ReportMetrics(reports.random, table, label_names)},
        {},
        table.patient_ids,
        headline,
        num_resamples=request.num_resamples,
        seed=request.seed,
    )
    return EvaluationResult(
        metrics=metrics,
        confidence_intervals=intervals,
        num_examples=len(table.study_ids),
        num_patients=table.num_patients,
        protocol=_PROTOCOL | dict(notes) | bootstrap,
        arrays=table.arrays()
        | {
            "generated": np.array(reports.generated, np.str_),
            "random_generated": np.array(reports.random, np.str_),
            "references": np.array(table.texts, np.str_),
            "label_names": np.array(label_names, np.str_),
            "labels": table.labels,
            "generated_labels": extract_labels(reports.generated, label_names),
            "reference_labels": extract_labels(table.texts, label_names),
        },
    )


_PROTOCOL = {
    "images": "the first image of each study",
    "references": "the report's sections as they are, references to earlier studies included; "
    "studies without them are left out",
    "words": "runs of letters, digits and underscores in lower case, without punctuation",
    "text_metrics": {
        "bleu": "corpus BLEU without smoothing (NLTK's n-gram matches)",
        "rouge_l": "mean F1 of the longest common subsequence (rouge-score)",
        "cider": "mean CIDEr-D x 10, document frequencies of the references (own implementation)",
        "meteor": "mean METEOR by exact words and stems, without synonyms (NLTK)",
    },
    "clinical_f1": "a finding counts as stated if the rules of finding_extractor find it present; "
    "uncertain, denied and unmentioned count as not stated; macro over the labels that occur, "
    "micro over all; undefined where the references state no finding or are not "
    "English",
}


def _with_text(table: StudyTable) -> StudyTable:
    table = table.subset(np.array([bool(tokenize(text)) for text in table.texts]))
    if not table.texts:
        raise UserError("no study with an image has a report; evaluate another --dataset")
    return table


def _generate(
    encoders: Sequence[ImageTextEncoder], studies: Studies, table: StudyTable, request: Request
) -> list[list[str]]:
    """The reports of each encoder, for the first image of every study."""
    generated: list[list[str]] = [[] for _ in encoders]
    for where, images in image_blocks(studies, table, "reports"):
        first = [
            image for image, n in zip(images, table.image_number[where], strict=True) if n == 0
        ]
        for encoder, reports in zip(encoders, generated, strict=True):
            reports += encoder.generate_reports(first, method=request.method, seed=request.seed)
    return generated


def _with_baselines(
    reports: Reports, table: StudyTable, label_names: Sequence[str], headline: Sequence[str]
) -> MetricFn:
    """The figures with those of the most common report, and the references' rate of priors."""
    generated = ReportMetrics(reports.generated, table, label_names)
    common = ReportMetrics([reports.most_common] * len(table.texts), table, label_names)
    reference_mentions_prior = prior_mentions(table.texts)

    def metrics(weights: Float[np.ndarray, "rows"]) -> Mapping[str, float]:
        ours, theirs = generated(weights), common(weights)
        rate = float(np.average(reference_mentions_prior, weights=weights))
        return (
            ours
            | {REFERENCE + PRIOR_MENTION_RATE: rate}
            | {MOST_COMMON + name: value for name, value in theirs.items() if "/" not in name}
            | {OVER_MOST_COMMON + name: ours[name] - theirs[name] for name in headline}
        )

    return metrics


def _write_reports(path: Path, table: StudyTable, reports: Reports) -> None:
    """Writes a line of JSON a study, atomically."""
    columns = {
        "row": table.rows.tolist(),
        "study_id": table.study_ids,
        "patient_id": table.patient_ids,
        "generated": reports.generated,
        "random_initialization": reports.random,
        "reference": table.texts,
    }
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(temporary, path)
