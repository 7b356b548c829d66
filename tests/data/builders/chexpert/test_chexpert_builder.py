"""The `chexpert` builder on made-up trees in the set's own layout."""

import csv
import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import chexpert_tree as tree
from support.builder_case import BuilderCase
from support.chexpert_tree import SMALL, MadeSet, true_study
from support.source_tree import assert_prepared

from medclip_jax.data import reports
from medclip_jax.data.build import build
from medclip_jax.data.builders.chexpert import chexpert_dataset_builder
from medclip_jax.errors import UserError


class TestChexpert(BuilderCase):
    __test__ = True
    DATASET_CLASS = chexpert_dataset_builder.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["default"]  # the others are built below
    SPLITS = {"train": 10, "validation": 1, "test": 1}

    @classmethod
    def write_source(cls, folder: Path) -> None:
        tree.write_tree(folder, 12, seed=1)


@pytest.fixture
def made(tmp_path: Path) -> MadeSet:
    return MadeSet.write(tmp_path, tree.make_studies(30, seed=0))


def test_five_hundred_studies(tmp_path: Path) -> None:
    (tmp_path / "manual").mkdir()
    truth = tree.write_tree(tmp_path / "manual", 500, seed=0)
    summary = build("chexpert", manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")
    assert_prepared("chexpert/default", tmp_path / "data", truth)
    assert "studies: train 400, validation 50, test 50" in summary
    assert "train studies: 400 found, 187,241 fewer than the 187,641 published" in summary
    assert "rejected" not in summary


@pytest.mark.parametrize("top", ["CheXpert-v1.0", "."])
def test_the_full_set_and_the_folder_itself(tmp_path: Path, top: str) -> None:
    (tmp_path / "manual").mkdir()
    truth = tree.write_tree(tmp_path / "manual", 12, seed=0, top=top)
    build("chexpert", manual_dir=tmp_path / "manual", data_dir=tmp_path / "data")
    assert_prepared("chexpert/default", tmp_path / "data", truth)


def test_frontal_images_from_the_side_stay_frontal(made: MadeSet) -> None:
    listed = [i.ap_pa for s in made.studies if s.folder == "train" for i in s.images]
    made.build(views="frontal")
    kept = [view for study in made.open("train") for view in study.views]
    assert len(kept) == len([ap_pa for ap_pa in listed if ap_pa])
    assert kept.count("FRONTAL") == listed.count("LL") > 0


def test_without_test_set_and_reports(made: MadeSet) -> None:
    (made.manual / "groundtruth.csv").unlink()
    shutil.rmtree(made.manual / SMALL / "test")
    (made.manual / tree.PLUS_TABLE).unlink()
    made.build()
    kept = [study for study in made.studies if study.folder != "test"]
    truth = [true_study(study, with_plus=False) for study in kept]
    assert_prepared("chexpert/default", made.data, truth)


def test_the_test_set_of_chexlocalize(made: MadeSet) -> None:
    (made.manual / "groundtruth.csv").unlink()
    (made.manual / "CheXpert").mkdir()
    shutil.move(made.manual / SMALL / "test", made.manual / "CheXpert" / "test")
    rows = [
        {"Path": f"{study.path(image)}.jpg", **dict(zip(tree.LABELS, study.cells, strict=True))}
        for study in made.studies
        if study.folder == "test"
        for image in study.images
    ]
    columns = ["Path", *reversed(tree.LABELS)]
    tree.write_csv(made.manual / "CheXpert" / "test_labels.csv", columns, rows)
    made.build()
    assert_prepared("chexpert/default", made.data, [true_study(s) for s in made.studies])


@pytest.mark.parametrize(("name", "value"), [("zeros", 0.0), ("ones", 1.0)])
def test_the_configs_of_uncertain_labels(made: MadeSet, name: str, value: float) -> None:
    build(f"chexpert/{name}", manual_dir=made.manual, data_dir=made.data)
    truth = [true_study(study, uncertain=value) for study in made.studies]
    assert_prepared(f"chexpert/{name}", made.data, truth)


def test_the_config_mixed(made: MadeSet) -> None:
    build("chexpert/mixed", manual_dir=made.manual, data_dir=made.data)
    ones, zeros = {"Atelectasis", "Edema", "Pleural Effusion"}, {"Cardiomegaly", "Consolidation"}
    mixed = [1.0 if n in ones else 0.0 if n in zeros else math.nan for n in tree.LABELS]
    truth = []
    for study in made.studies:
        true = true_study(study)
        labels = [
            value if cell == "-1.0" else label
            for cell, value, label in zip(study.cells, mixed, true.labels, strict=True)
        ]
        truth.append(dataclasses.replace(true, labels=labels))
    assert_prepared("chexpert/mixed", made.data, truth)


def test_labels_that_are_not_mentioned_may_be_unknown(made: MadeSet) -> None:
    made.build(blank="unknown")
    truth = [true_study(study, blank=math.nan) for study in made.studies]
    assert_prepared("chexpert/made", made.data, truth)


@pytest.mark.parametrize("section", ["findings", "impression", "report"])
def test_labels_by_chexbert(made: MadeSet, section: str) -> None:
    made.build(labels=f"chexbert_{section}")
    truth = [true_study(study, labels=section) for study in made.studies]
    assert_prepared("chexpert/made", made.data, truth)


def test_an_empty_section_is_not_no_finding(made: MadeSet) -> None:
    made.build(labels="chexbert_findings")
    empty = [
        study
        for study in made.studies
        if study.folder == "train" and not (study.in_plus and study.sections.get("findings"))
    ]
    found = {(s.patient_id, s.study_id): s for s in made.open("train")}
    assert empty
    assert all(math.isnan(found[s.patient, s.study].labels[0]) for s in empty)


def test_views(made: MadeSet) -> None:
    made.build(views="lateral")
    assert {view for study in made.open("train") for view in study.views} <= {
        "LATERAL",
        "LL",
    }


def test_texts_alone(made: MadeSet) -> None:
    shutil.rmtree(made.manual / SMALL / "train")
    made.build(views="none")
    assert {study.report for study in made.open("train")} == {
        study.report for study in made.studies if study.folder == "train" and study.in_plus
    }


def test_reports_have_the_sections_of_the_table(made: MadeSet) -> None:
    made.build()
    found = {(s.patient_id, s.study_id): s for s in made.open("train")}
    written = [s for s in made.studies if s.folder == "train" and s.in_plus and s.sections]
    assert written
    for study in written:
        for name in ("findings", "impression"):
            text = reports.select_sections(found[study.patient, study.study].report, [name])
            expected = study.sections.get(name, "")
            assert text.split() == expected.split()


def test_nothing_of_who_signed(made: MadeSet) -> None:
    made.build()
    texts = [study.report for study in made.open("train")]
    assert any(texts)
    assert not any("Doe" in text or "9959089" in text for text in texts)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\n".join(",".join(reversed(row.split(","))) for row in text.split("\n")),
        lambda text: "\n".join(f"{row},x" if row else "" for row in text.split("\n")),
    ],
    ids=["byte order mark", "CRLF", "columns reordered", "another column"],
)
@pytest.mark.parametrize("name", [f"{SMALL}/train.csv", f"{SMALL}/valid.csv", "groundtruth.csv"])
def test_tables_by_other_programs(made: MadeSet, name: str, edit: Callable[[str], str]) -> None:
    path = made.manual / name
    path.write_bytes(edit(path.read_text()).encode())
    made.build()
    assert_prepared("chexpert/default", made.data, [true_study(s) for s in made.studies])
    assert made.rejected() == []


def test_the_readers_swapped_columns(made: MadeSet) -> None:
    path = made.manual / "groundtruth.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0])
    opacity, lesion = columns.index("Lung Opacity"), columns.index("Lung Lesion")
    columns[opacity], columns[lesion] = columns[lesion], columns[opacity]
    tree.write_csv(path, columns, rows)
    made.build()
    assert_prepared("chexpert/default", made.data, [true_study(s) for s in made.studies])


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("Path", "", "no path of an image in train"),
        ("Path", f"{SMALL}/valid/patient00001/study1/view1_frontal.jpg", "no path of an image"),
        ("Path", "../../train/patient00001/study1/view1_frontal.jpg", "no path of an image"),
        ("Path", "../train/patient00001/study1/view1_frontal.jpg/../x", "no path of an image"),
        ("Path", f"{SMALL}/train/patient00001/view1_frontal.jpg", "no path of an image"),
        ("Path", f"{SMALL}/train/patient00001/study9/view1_frontal.jpg", "no such file"),
        ("Edema", "2", "label Edema is '2'"),
        ("Edema", "yes", "label Edema is 'yes'"),
    ],
)
def test_bad_rows_are_rejected(made: MadeSet, column: str, value: str, reason: str) -> None:
    made.edit(f"{SMALL}/train.csv", lambda rows: rows[1].__setitem__(column, value))
    made.build()
    [[row, _, found]] = made.rejected()
    assert row == "train.csv:3"
    assert reason in found


def test_an_image_listed_twice_counts_once(made: MadeSet) -> None:
    made.edit(f"{SMALL}/train.csv", lambda rows: rows.append(rows[0]))
    made.build()
    [[_, _, reason]] = made.rejected()
    assert "listed already, in row train.csv:2" in reason
    assert_prepared("chexpert/default", made.data, [true_study(s) for s in made.studies])


def test_a_table_cut_short(made: MadeSet) -> None:
    path = made.manual / SMALL / "train.csv"
    text = path.read_text()
    path.write_text(text[: text.rindex("/view")])
    made.build()
    [[_, _, reason]] = made.rejected()
    assert "fewer cells" in reason


def test_a_row_with_too_many_cells(made: MadeSet) -> None:
    path = made.manual / SMALL / "train.csv"
    header, row, rest = path.read_text().split("\n", 2)
    path.write_text(f"{header}\n{row},,1.0\n{rest}")
    made.build()
    [[_, _, reason]] = made.rejected()
    assert "more cells" in reason


def test_missing_and_damaged_images(made: MadeSet) -> None:
    with (made.manual / SMALL / "train.csv").open() as file:
        first, second = [row["Path"] for row in list(csv.DictReader(file))[:2]]
    (made.manual / first).unlink()
    (made.manual / second).write_bytes(b"\xff\xd8\xff no image")
    made.build()
    assert [row[:2] for row in made.rejected()] == [["train.csv:2", first], ["train.csv:3", second]]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("Study", "", "no path of a study"),
        ("Study", "CheXpert-v1.0/train/patient00001/study1", "no path of a study"),
        ("Study", "CheXpert-v1.0/test/../patient00001/study1", "no path of a study"),
        ("Study", "CheXpert-v1.0/test/patient99999/study1", "the study has no images"),
        ("Fracture", "?", "label Fracture is '?'"),
    ],
)
def test_bad_rows_of_the_test_set(made: MadeSet, column: str, value: str, reason: str) -> None:
    made.edit("groundtruth.csv", lambda rows: rows[0].__setitem__(column, value))
    made.build()
    [[row, _, found]] = made.rejected()
    assert row == "groundtruth.csv:2"
    assert reason in found


def test_bad_rows_of_chexpert_plus(made: MadeSet) -> None:
    made.edit(tree.PLUS_TABLE, lambda rows: rows[-1].__setitem__("path_to_image", "a/b.jpg"))
    no_labels = {"path_to_image": "train/patient00001/study1/view1_frontal.jpg"}
    lines = ["no JSON", "[1]", json.dumps(no_labels)]
    path = made.manual / "chexbert_labels" / "report_fixed.json"
    text = path.read_text()
    wrong = re.sub(r'"Edema": [^,]*', '"Edema": 7', text.split("\n")[0])
    path.write_text("\n".join([*lines, wrong, text]))
    made.build(labels="chexbert_report")
    reasons = {row: reason for row, _, reason in made.rejected()}
    assert len(reasons) == 5
    assert sum("not an object" in reason for reason in reasons.values()) == 3
    assert "label Edema is '7" in reasons["report_fixed.json:4"]
    assert "none of CheXpert's" in next(v for k, v in reasons.items() if tree.PLUS_TABLE in k)
    truth = [true_study(study, labels="report") for study in made.studies]
    assert_prepared("chexpert/made", made.data, truth)


def test_the_first_labels_of_a_study_count(made: MadeSet) -> None:
    path = made.manual / "chexbert_labels" / "report_fixed.json"
    text = path.read_text()
    path.write_text(text + text.replace("0.0", "1.0").replace("null", "1.0"))
    made.build(labels="chexbert_report")
    truth = [true_study(study, labels="report") for study in made.studies]
    assert_prepared("chexpert/made", made.data, truth)


def test_the_first_report_of_a_study_counts(made: MadeSet) -> None:
    def anonymize_otherwise(rows: list[dict[str, str]]) -> None:
        seen = set()
        for row in rows:
            study = row["path_to_image"].rsplit("/", 1)[0]
            if study in seen:
                row["section_impression"] = "OTHER NAMES"
            seen.add(study)

    made.edit(tree.PLUS_TABLE, anonymize_otherwise)
    made.build()
    assert_prepared("chexpert/default", made.data, [true_study(s) for s in made.studies])


def remove(name: str) -> Callable[[Path], None]:
    return lambda manual: (manual / name).unlink()


def remove_column(name: str, column: str) -> Callable[[Path], None]:
    def edit(manual: Path) -> None:
        path = manual / name
        path.write_text(path.read_text().replace(column, "Other", 1))

    return edit


def in_training_too(manual: Path) -> None:
    path = manual / SMALL / "valid.csv"
    shutil.copytree(manual / SMALL / "train/patient00001", manual / SMALL / "valid/patient00001")
    path.write_text(path.read_text().replace("patient64541", "patient00001"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(f"{SMALL}/train.csv"), "neither CheXpert-v1.0-small/train.csv nor"),
        (remove(f"{SMALL}/valid.csv"), r"valid\.csv: cannot be read"),
        (remove("groundtruth.csv"), r"test: no labels for these images; put groundtruth\.csv"),
        (remove(tree.PLUS_TABLE), "missing; labels by CheXbert"),
        (remove("chexbert_labels/report_fixed.json"), r"report_fixed\.json: cannot be read"),
        (remove_column(f"{SMALL}/train.csv", "Edema"), r"train\.csv: no column Edema"),
        (remove_column(f"{SMALL}/train.csv", "AP/PA"), r"train\.csv: no column AP/PA"),
        (remove_column("groundtruth.csv", "Edema"), r"groundtruth\.csv: no column Edema"),
        (remove_column("groundtruth.csv", "Study"), r"groundtruth\.csv: no column Study or Path"),
        (remove_column(tree.PLUS_TABLE, "path_to_image"), "no column path_to_image"),
        (lambda m: shutil.rmtree(m / SMALL / "train"), "train: the folder with the images"),
        (lambda m: shutil.rmtree(m / SMALL / "test"), "groundtruth.csv: no folder test"),
        (lambda m: (m / SMALL / "train.csv").write_bytes(b""), r"train\.csv"),
        (lambda m: (m / SMALL / "train.csv").write_bytes(b"\0"), "not UTF-8"),
        (in_training_too, "patient 'patient00001' is in train and validation"),
    ],
)
def test_what_cannot_be_built(made: MadeSet, damage: Callable[[Path], None], message: str) -> None:
    damage(made.manual)
    with pytest.raises(UserError, match=message) as error:
        made.build(labels="chexbert_report")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("uncertain", "no"), ("blank", "no"), ("labels", "no"), ("class_lists", "6x200")],
)
def test_unknown_values_of_options(made: MadeSet, name: str, value: str) -> None:
    with pytest.raises(UserError, match=value):
        made.build(**{name: value})
