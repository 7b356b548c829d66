"""CheXpert's tables: train.csv and valid.csv, and the labels of the test set."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from medclip_jax.data.builders.chexpert.chexpert_plus import PlusStudy
from medclip_jax.data.builders.chexpert.image_paths import (
    ImagePath,
    parse_image_path,
    parse_study_path,
)
from medclip_jax.data.builders.rows import Rejection, Row
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS
from medclip_jax.data.table import Table, TableRow, read_table
from medclip_jax.errors import UserError

ParseLabels = Callable[[Mapping[str, str]], tuple[float, ...] | str]
_FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0", ".")
_TEST_FOLDERS = ("CheXpert", *_FOLDERS)  # "CheXpert" is CheXlocalize's
_TEST_LABELS = ("groundtruth.csv", "test_labels.csv")
_IMAGE_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS)


def find_folder(manual: Path) -> str:
    """The folder in `manual` that has CheXpert's train.csv.

    Raises:
        UserError: none has.
    """
    for name in _FOLDERS:
        if (manual / name / "train.csv").is_file():
            return name
    raise UserError(
        f"{manual}: neither {_FOLDERS[0]}/train.csv nor {_FOLDERS[1]}/train.csv is there; put "
        "CheXpert there, unpacked"
    )


def read_images(path: Path) -> Table:
    """Reads train.csv or valid.csv, which have a row for each image.

    Raises:
        UserError: the file is missing or lacks a column.
    """
    return read_table(path, _IMAGE_COLUMNS, columns=())


def image_rows(
    table: Table,
    folder: Path,
    split: str,
    plus: Mapping[tuple[str, str], PlusStudy],
    parse_labels: ParseLabels,
) -> Iterator[Row | Rejection]:
    """The rows of train.csv or valid.csv.

    Args:
        table: what `read_images` gave.
        folder: where the images are, relative to the set's root: CheXpert-v1.0/train.
        split: what these images are for.
        plus: the reports, by patient and study.
        parse_labels: makes labels of the cells of a row, or says what is wrong with them.
    """
    for row in table.rows:
        number, path = f"{folder.name}.csv:{row.number}", row.cells["Path"]
        image = parse_image_path(path)
        labels = parse_labels(row.cells)
        if row.problem:
            yield Rejection(number, path, row.problem)
        elif image is None or image.study.folder != folder.name:
            yield Rejection(number, path, f"no path of an image in {folder.name}")
        elif isinstance(labels, str):
            yield Rejection(number, path, labels)
        else:
            study = plus.get(image.study.key)
            yield _row(number, image, folder.parent, split, labels)._replace(
                view=row.cells["AP/PA"].upper() or image.projection,
                text=study.report if study else "",
                attributes=_attributes(row) | (study.attributes if study else {}),
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
        raise UserError(f"{found[0]}: no folder test with images in {manual / _FOLDERS[0]}")
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
        yield _row(number, image, folder, "test", labels)
    elif study is not None and study.folder == "test":
        files = sorted((manual / folder / str(study)).glob("view*"))
        images = [parse_image_path(f"{study}/{file.name}") for file in files]
        if not any(images):
            yield Rejection(number, path, "the study has no images")
        yield from (_row(number, image, folder, "test", labels) for image in images if image)
    else:
        yield Rejection(number, path, "no path of a study or an image in test")


def _row(number: str, image: ImagePath, folder: Path, split: str, labels: tuple[float, ...]) -> Row:
    return Row(
        number=number,
        split=split,
        patient_id=image.study.patient,
        study_id=image.study.study,
        image_path=str(folder / str(image)),
        view=image.projection,
        labels=labels,
    )


def _attributes(row: TableRow) -> dict[str, str]:
    # There are no children in the set: an age of 0 is none.
    age, sex = row.cells["Age"], row.cells["Sex"]
    return {"age": age if age != "0" else "", "sex": sex if sex != "Unknown" else ""}
