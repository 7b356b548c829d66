"""CheXpert's tables: train.csv and valid.csv, and the labels of the test set."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from medclip_jax.data.builders.chexpert.chexpert_plus import ChexpertPlus, PlusStudy
from medclip_jax.data.builders.chexpert.image_paths import (
    ImagePath,
    parse_image_path,
    parse_study_path,
)
from medclip_jax.data.builders.chexpert.layout import FOLDERS, Layout
from medclip_jax.data.builders.rows import Rejection, Row
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS
from medclip_jax.data.table import Table, TableRow, read_table
from medclip_jax.errors import UserError

_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
ParseLabels = Callable[[Mapping[str, str]], tuple[float, ...] | str]
_TEST_FOLDERS = ("CheXpert", *FOLDERS)  # "CheXpert" is CheXlocalize's
_TEST_LABELS = ("groundtruth.csv", "test_labels.csv")
_IMAGE_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS)


def read_images(path: Path) -> Table:
    """Reads train.csv or valid.csv, which have a row for each image.

    Raises:
        UserError: the file is missing or lacks a column.
    """
    return read_table(path, _IMAGE_COLUMNS, columns=())


def image_rows(
    table: Table,
    name: str,
    layout: Layout,
    plus: Mapping[tuple[str, str], PlusStudy],
    parse_labels: ParseLabels,
) -> Iterator[Row | Rejection]:
    """The rows of train.csv or valid.csv.

    Args:
        table: what `read_images` gave.
        name: "train" or "valid".
        layout: where the images are.
        plus: the reports, by patient and study.
        parse_labels: makes labels of the cells of a row, or says what is wrong with them.
    """
    for row in table.rows:
        number, path = f"{name}.csv:{row.number}", row.cells["Path"]
        image = parse_image_path(path)
        labels = parse_labels(row.cells)
        if row.problem:
            yield Rejection(number, path, row.problem)
        elif image is None or image.study.folder != name:
            yield Rejection(number, path, f"no path of an image in {name}")
        elif isinstance(labels, str):
            yield Rejection(number, path, labels)
        else:
            study = plus.get(image.study.key)
            yield _row(number, image, layout, labels)._replace(
                view=_view(image, row.cells["AP/PA"]),
                text=study.report if study else "",
                attributes=_attributes(row.cells["Age"], row.cells["Sex"])
                | (study.attributes if study else {}),
            )


def plus_rows(plus: ChexpertPlus, layout: Layout) -> Iterator[Row]:
    """The images that CheXpert Plus lists, with reports and without labels.

    Args:
        plus: what `read_plus` gave.
        layout: where the images are.
    """
    unknown = (math.nan,) * len(CHEXPERT_LABELS)
    for listed in plus.images:
        study = plus.studies[listed.image.study.key]
        yield _row(listed.number, listed.image, layout, unknown)._replace(
            view=_view(listed.image, listed.ap_pa),
            text=study.report,
            attributes=_attributes(listed.age, listed.sex) | study.attributes,
        )


def test_rows(manual: Path, parse_labels: ParseLabels) -> Iterator[Row | Rejection]:
    """The rows of the test set, of which there are none where it is not given.

    Its labels are groundtruth.csv, with a row for each study, or CheXlocalize's test_labels.csv,
    with a row for each image.

    Raises:
        UserError: there are images without labels or labels without images.
    """
    folders = [Path(name) for name in _TEST_FOLDERS if (manual / name / "test").is_dir()]
    tables = [manual / name / table for table in _TEST_LABELS for name in _TEST_FOLDERS]
    found = [table for table in tables if table.is_file()]
    if not folders and not found:
        return
    if not found:
        raise UserError(
            f"{manual / folders[0] / 'test'}: no labels for these images; put groundtruth.csv "
            f"into {manual}"
        )
    if not folders:
        raise UserError(f"{found[0]}: no folder test with images in {manual / FOLDERS[0]}")
    table = read_table(found[0], CHEXPERT_LABELS, columns=("Study", "Path"))
    if not {"Study", "Path"} & set(table.columns):
        raise UserError(f"{found[0]}: no column Study or Path")
    for row in table.rows:
        yield from _test_study(
            row, f"{found[0].name}:{row.number}", manual, folders[0], parse_labels
        )


def _test_study(
    row: TableRow, number: str, manual: Path, folder: Path, parse_labels: ParseLabels
) -> Iterator[Row | Rejection]:
    """The images of a row that names a study or one image."""
    path = row.cells.get("Study") or row.cells.get("Path", "")
    study, image = parse_study_path(path), parse_image_path(path)
    labels = parse_labels(row.cells)
    if row.problem:
        yield Rejection(number, path, row.problem)
    elif isinstance(labels, str):
        yield Rejection(number, path, labels)
    elif image is not None and image.study.folder == "test":
        yield _row(number, image, Layout(folder), labels)
    elif study is not None and study.folder == "test":
        files = sorted((manual / folder / str(study)).glob("view*"))
        images = [parse_image_path(f"{study}/{file.name}") for file in files]
        if not any(images):
            yield Rejection(number, path, "the study has no images")
        yield from (_row(number, image, Layout(folder), labels) for image in images if image)
    else:
        yield Rejection(number, path, "no path of a study or an image in test")


def _row(number: str, image: ImagePath, layout: Layout, labels: tuple[float, ...]) -> Row:
    return Row(
        number=number,
        split=_SPLITS[image.study.folder],
        patient_id=image.study.patient,
        study_id=image.study.study,
        image_path=layout.image_path(image),
        view=image.projection,
        labels=labels,
    )


def _view(image: ImagePath, ap_pa: str) -> str:
    # 17 frontal images have LL or RL in this column, which elsewhere are lateral views.
    return ap_pa.upper() if ap_pa.upper() in ("AP", "PA") else image.projection


def _attributes(age: str, sex: str) -> dict[str, str]:
    # There are no children in the set: an age of 0 is none.
    years = age.removesuffix(".0")
    return {"age": years if years != "0" else "", "sex": sex if sex != "Unknown" else ""}
