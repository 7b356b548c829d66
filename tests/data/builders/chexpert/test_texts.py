"""What is read from free text: CheXpert's paths, and the sections of CheXpert Plus's reports."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.chexpert_tree import PLUS_COLUMNS, PLUS_TABLE, write_csv

from medclip_jax.data import reports
from medclip_jax.data.builders.chexpert.chexpert_plus import read_plus
from medclip_jax.data.builders.chexpert.image_paths import parse_image_path, parse_study_path

NUMBERS = st.integers(0, 10**6)


@given(
    top=st.sampled_from(["", "CheXpert-v1.0/", "CheXpert-v1.0-small/"]),
    folder=st.sampled_from(["train", "valid", "test"]),
    patient=NUMBERS,
    study=NUMBERS,
    view=NUMBERS,
    projection=st.sampled_from(["frontal", "lateral"]),
    suffix=st.sampled_from([".jpg", ".png"]),
)
def test_paths(
    top: str, folder: str, patient: int, study: int, view: int, projection: str, suffix: str
) -> None:
    study_path = f"{folder}/patient{patient:05d}/study{study}"
    path = f"{study_path}/view{view}_{projection}{suffix}"
    image = parse_image_path(top + path)
    assert image is not None
    assert (str(image), image.projection) == (path, projection.upper())
    assert image.study.key == (f"patient{patient:05d}", f"study{study}")
    assert parse_study_path(top + study_path) == image.study


@given(st.text() | st.from_regex(r"(\.\./)?train/patient\d+/study\d+(/view1_frontal\.jpg)?"))
def test_a_path_stays_in_its_folder(path: str) -> None:
    for parsed in (parse_image_path(path), parse_study_path(path)):
        if parsed is not None:
            assert ".." not in Path(str(parsed)).parts
            assert path.endswith(str(parsed))


LINES = st.from_regex(r"([A-Z]{2,9}: )?[a-z0-9 .]{0,30}", fullmatch=True)


@given(findings=st.lists(LINES), impression=st.lists(LINES))
def test_sections_come_back(findings: list[str], impression: list[str]) -> None:
    texts = {"findings": "\n".join(findings), "impression": "\n".join(impression)}
    row = {"path_to_image": "train/patient1/study1/view1_frontal.jpg", "section_history": "Cough."}
    row |= {f"section_{name}": text for name, text in texts.items()}
    with tempfile.TemporaryDirectory() as folder:
        write_csv(Path(folder) / PLUS_TABLE, PLUS_COLUMNS, [row])
        [study] = read_plus(Path(folder) / PLUS_TABLE).studies.values()
    for name, text in texts.items():
        assert (name in study.sections) == bool(text.strip())
        if text.strip():
            assert reports.select_sections(study.report, [name]).split() == text.split()
