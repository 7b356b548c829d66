"""The finding extractor on the reports of the Indiana collection, against their MeSH terms."""

import tarfile

import numpy as np
import pytest
from support.real_data import real

from medclip_jax.data.builders.openi.mesh_labels import mesh_labels
from medclip_jax.data.builders.openi.report_xml import parse_report
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS
from medclip_jax.data.reports import select_sections
from medclip_jax.evaluate.english import are_english
from medclip_jax.evaluate.finding_extractor import PRESENT, extract_labels

# Precision and recall, as docs/evaluation.md gives them.
FIGURES = {
    "Pleural Effusion": (1.00, 0.85),
    "Cardiomegaly": (0.99, 0.87),
    "Atelectasis": (0.98, 0.82),
    "Edema": (0.97, 0.65),
    "Lung Opacity": (0.82, 0.89),
    "Pneumonia": (0.74, 0.76),
    "Lung Lesion": (0.68, 0.98),
}


@pytest.fixture(scope="module")
def reports():
    with tarfile.open(real("openi") / "NLMCXR_reports.tgz") as files:
        return [
            parse_report(files.extractfile(member).read())
            for member in files
            if member.name.endswith(".xml")
        ]


def test_precision_and_recall_are_those_of_the_documentation(reports):
    assert len(reports) == 3955
    terms = np.array([mesh_labels(report.mesh) for report in reports])
    terms = terms[:, [CHEXPERT_LABELS.index(name) for name in FIGURES]]
    known = ~np.isnan(terms[:, 0])
    texts = [select_sections(report.text) for report in reports]
    stated = extract_labels(texts, list(FIGURES))[known] == PRESENT
    true = terms[known] == 1
    both = (stated & true).sum(0)
    found = np.stack([both / stated.sum(0), both / true.sum(0)], axis=1)
    np.testing.assert_allclose(found, list(FIGURES.values()), rtol=0, atol=0.006)


@pytest.mark.parametrize("section", ["findings", "impression"])
def test_each_section_of_real_reports_is_english(reports, section):
    texts = [report.sections[section] for report in reports if section in report.sections]
    assert are_english(texts)
