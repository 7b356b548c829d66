"""The lists 5x200 and 8x200: what is drawn, and what is left to train on."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support import chexpert_tree as tree
from support.chexpert_tree import LABELS, MadeSet

from medclip_jax.data import datasets
from medclip_jax.data.build import build
from medclip_jax.data.builders.chexpert import class_lists
from medclip_jax.data.builders.chexpert.class_lists import CLASS_LISTS, draw_class_lists
from medclip_jax.data.table import TableRow
from medclip_jax.errors import UserError

CLASSES = sorted({label for labels in CLASS_LISTS.values() for label in labels})


def table_row(number: int, cells: Sequence[str], view: str = "view1_frontal") -> TableRow:
    return TableRow(
        number,
        {
            "Path": f"{tree.SMALL}/train/patient{number:05d}/study1/{view}.jpg",
            "Frontal/Lateral": "Lateral" if view.endswith("lateral") else "Frontal",
            **dict(zip(LABELS, cells, strict=True)),
        },
    )


def positive(label: str, **others: str) -> list[str]:
    """The cells of a row with one label, all others 0 or blank but for `others`."""
    cells = ["1.0" if name == label else "0.0" if i % 2 else "" for i, name in enumerate(LABELS)]
    for name, cell in others.items():
        cells[LABELS.index(name.replace("_", " "))] = cell
    return cells


def test_two_hundred_images_a_class() -> None:
    rows = [table_row(i, positive(CLASSES[i % len(CLASSES)])) for i in range(len(CLASSES) * 410)]
    drawn = draw_class_lists(rows, ["5x200", "8x200"], seed=0)
    assert len(drawn) == 13 * 200
    for name, labels in CLASS_LISTS.items():
        chosen = [choice.label for choice in drawn.values() if choice.class_list == name]
        assert {label: chosen.count(label) for label in labels} == dict.fromkeys(labels, 200)
    assert list(drawn) == list(draw_class_lists(rows[::-1], ["5x200", "8x200"], seed=0))


@pytest.mark.parametrize(
    "row",
    [
        table_row(9, positive("Edema", Lung_Opacity="1.0")),
        table_row(9, positive("Edema", Lung_Opacity="-1.0")),
        table_row(9, positive("Edema", Support_Devices="1.0")),
        table_row(9, positive("No Finding", Edema="-1.0", No_Finding="")),
        table_row(9, positive("Edema", Fracture="?")),
        table_row(9, positive("Edema"), "view2_lateral"),
        table_row(9, positive("Edema"))._replace(problem="1 more cells"),
        table_row(9, positive("Edema"), "nowhere"),
        table_row(9, positive("Lung Opacity")),
    ],
    ids=lambda row: f"{row.cells['Path'][-13:]} {row.problem}",
)
def test_images_that_are_no_example(row: TableRow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_lists, "IMAGES_PER_CLASS", 2)
    rows = [table_row(100 + i, positive(CLASSES[i % 9])) for i in range(36)]
    # Nothing is left over for a list, so the row would be drawn if it could.
    few = [other for other in rows if other.cells["Edema"] != "1.0"]
    few += [other for other in rows if other.cells["Edema"] == "1.0"][:3]
    with pytest.raises(UserError, match="5x200 needs 2 images of Edema alone; .* have 1"):
        draw_class_lists([*few, row], ["5x200"], seed=0)


def test_the_small_and_the_full_set_have_the_same_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_lists, "IMAGES_PER_CLASS", 2)
    rows = [table_row(i, positive(CLASSES[i % 9])) for i in range(90)]
    full = [
        row._replace(cells=row.cells | {"Path": row.cells["Path"].replace("-small", "")})
        for row in rows
    ]
    assert draw_class_lists(rows, ["8x200"], 0) == draw_class_lists(full, ["8x200"], 0)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeSet:
    """A set of which two images a class are drawn; every other study is no example."""
    monkeypatch.setattr(class_lists, "IMAGES_PER_CLASS", 2)
    studies = tree.make_studies(150, seed=3)
    for number, study in enumerate(study for study in studies if study.folder == "train"):
        label = CLASSES[number // 2 % len(CLASSES)]
        study.cells = positive(label)
        if number % 2:
            other = "Lung Lesion" if number % 4 == 1 else "Support Devices"
            study.cells[LABELS.index(other)] = "1.0" if number % 3 else "-1.0"
    return MadeSet.write(tmp_path, studies)


def drawn_keys(made: MadeSet, lists: str, seed: int = 0) -> dict[str, set[str]]:
    """The keys of each list's studies, from a set of its own."""
    made.data = made.data.with_name(f"{lists} {seed}")
    made.build(class_lists=lists, seed=seed)
    return {name: {s.key for s in made.open(f"test_{name}")} for name in lists.split(",")}


def test_the_sets_splits(listed: MadeSet) -> None:
    build("chexpert/class_lists", manual_dir=listed.manual, data_dir=listed.data)
    listed.name = "chexpert/class_lists"
    made_studies = {(study.patient, study.study): study for study in listed.studies}
    patients = {}
    for name, labels in CLASS_LISTS.items():
        drawn = listed.open(f"test_{name}")
        assert sorted(s.attributes["class"] for s in drawn) == sorted([*labels, *labels])
        assert len({study.key for study in drawn}) == 2 * len(labels)
        for study in drawn:
            study_id, view = study.study_id.split("/")
            made = made_studies[study.patient_id, study_id]
            [image] = [image for image in made.images if image.view == view]
            assert not image.is_lateral
            assert study.views == [tree.true_view(made, image)]
            assert study.attributes["path"] == f"{made.path(image)}.jpg"
            assert study.report == (made.report if made.in_plus else "")
            label = LABELS.index(study.attributes["class"])
            assert list(study.labels) == [float(i == label) for i in range(14)]
            assert made.cells == positive(LABELS[label])
        patients[name] = {study.patient_id for study in drawn}
    assert not patients["5x200"] & patients["8x200"]
    out = patients["5x200"] | patients["8x200"]
    left = [s for s in listed.studies if s.folder == "train" and s.patient not in out]
    assert {s.key for s in listed.open("train")} == {f"{s.patient}\t{s.study}" for s in left}
    assert len(listed.open("validation")) == 15
    assert listed.rejected() == []


def test_a_list_is_the_same_with_and_without_the_other(listed: MadeSet) -> None:
    both = drawn_keys(listed, "5x200,8x200")
    for name in CLASS_LISTS:
        assert drawn_keys(listed, name) == {name: both[name]}
        splits = datasets.split_names(listed.name, listed.data)
        assert [split for split in splits if split.startswith("test_")] == [f"test_{name}"]


def test_another_seed_draws_other_images(listed: MadeSet) -> None:
    assert drawn_keys(listed, "8x200", seed=0) != drawn_keys(listed, "8x200", seed=1)


def test_lists_keep_chexperts_labels(listed: MadeSet) -> None:
    listed.build(class_lists="5x200", labels="chexbert_report")
    for study in listed.open("test_5x200"):
        assert study.labels[LABELS.index(study.attributes["class"])] == 1
        assert sum(study.labels) == 1


def test_too_few_images(tmp_path: Path) -> None:
    made = MadeSet.write(tmp_path, tree.make_studies(12, seed=0))
    with pytest.raises(UserError, match="8x200 needs 200 images of No Finding alone; .* have 0"):
        made.build(class_lists="8x200")
