"""The tables of VinDr-CXR: what each reader says of each image, from PhysioNet or from Kaggle."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from medclip_jax.data.builders.rows import Rejection
from medclip_jax.data.builders.vindr_cxr.consensus import Corners, ReaderBox
from medclip_jax.data.table import Table, read_table
from medclip_jax.errors import UserError

NO_FINDING = "No finding"
# The labels as the columns of image_labels_*.csv have them: 22 that have boxes, 6 of the image.
PHYSIONET_LOCAL_LABELS = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
)
PHYSIONET_LABELS = (
    *PHYSIONET_LOCAL_LABELS,
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other diseases",
    NO_FINDING,
)
# In the order of Kaggle's class_id.
KAGGLE_LABELS = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    NO_FINDING,
)
# The one column whose name differs between the training and the test table.
_OTHER_DISEASES = ("Other diseases", "Other disease")
_CORNERS = ("y_min", "x_min", "y_max", "x_max")


@dataclasses.dataclass
class Reading:
    """What the readers say of one image.

    Attributes:
        number: the first row on it, "image_labels_train.csv:2".
        votes: the positions of the labels that each reader gave.
        boxes: in pixels of the original image.
    """

    number: str
    votes: dict[str, set[int]] = dataclasses.field(default_factory=dict)
    boxes: list[ReaderBox] = dataclasses.field(default_factory=list)


class Readings:
    """What the tables say of all images.

    Attributes:
        rejected: the rows that cannot be used.
        shapes: (height, width) of original images, where a table tells it.
    """

    def __init__(self) -> None:
        self.rejected: list[Rejection] = []
        self.shapes: dict[str, tuple[int, int]] = {}
        self._images: dict[str, Reading] = {}
        self._unusable: set[str] = set()

    @property
    def usable(self) -> dict[str, Reading]:
        """The images, without those of which a row cannot be used: the rest of what their readers
        say is not what they say.
        """
        return {name: r for name, r in self._images.items() if name not in self._unusable}

    @property
    def named(self) -> set[str]:
        """All images that a row names."""
        return {*self._images, *self._unusable}

    def add_label_table(self, path: Path, *, has_readers: bool) -> None:
        """Reads image_labels_*.csv: a row for each image and reader, with a 0 or 1 a label."""
        key = ["image_id", "rad_id"] if has_readers else ["image_id"]
        labels = [name for name in PHYSIONET_LABELS if name not in _OTHER_DISEASES]
        table = read_table(path, [*key, *labels], columns=_OTHER_DISEASES)
        other = next((name for name in _OTHER_DISEASES if name in table.columns), None)
        if other is None:
            raise UserError(f"{path}: no column {_OTHER_DISEASES[0]}")
        columns = [other if name in _OTHER_DISEASES else name for name in PHYSIONET_LABELS]

        def add(number: str, cells: Mapping[str, str]) -> None:
            reader = _reader(cells) if has_readers else ""
            given = {i for i, name in enumerate(columns) if _is_marked(name, cells[name])}
            reading = self._images.setdefault(cells["image_id"], Reading(number))
            if reader in reading.votes:
                raise UserError(f"reader {reader or 'consensus'} has a row for this image already")
            reading.votes[reader] = given

        self._add_rows(path, table, add)

    def add_box_table(self, path: Path, *, has_readers: bool) -> None:
        """Reads annotations_*.csv, after the label table: a row for each box.

        Images without any have a row "No finding" without corners.
        """
        key = ["image_id", "rad_id"] if has_readers else ["image_id"]
        table = read_table(path, [*key, "class_name", *_CORNERS])

        def add(number: str, cells: Mapping[str, str]) -> None:
            del number
            label = _label(cells, PHYSIONET_LABELS)
            reader = _reader(cells) if has_readers else ""
            reading = self._images.get(cells["image_id"])
            if reading is None or reader not in reading.votes:
                raise UserError("the table of image labels has no row for this image and reader")
            if label < len(PHYSIONET_LOCAL_LABELS):
                reading.boxes.append(ReaderBox(reader, label, _corners(cells)))

        self._add_rows(path, table, add)

    def add_kaggle_table(self, path: Path) -> None:
        """Reads Kaggle's train.csv: a row for each box, or for a reader's "No finding"."""
        required = ["image_id", "class_name", "rad_id", *_CORNERS]
        table = read_table(path, required, columns=["width", "height"])
        has_shapes = {"width", "height"} <= {*table.columns}

        def add(number: str, cells: Mapping[str, str]) -> None:
            label, reader = _label(cells, KAGGLE_LABELS), _reader(cells)
            reading = self._images.setdefault(cells["image_id"], Reading(number))
            reading.votes.setdefault(reader, set()).add(label)
            if KAGGLE_LABELS[label] != NO_FINDING:
                reading.boxes.append(ReaderBox(reader, label, _corners(cells)))
            if has_shapes:
                self.shapes[cells["image_id"]] = _shape(cells["height"], cells["width"])

        self._add_rows(path, table, add)

    def add_shape_table(self, path: Path) -> None:
        """Reads train_meta.csv or test_meta.csv: the height and width of the DICOM images."""
        table = read_table(path, ["image_id", "dim0", "dim1"])

        def add(number: str, cells: Mapping[str, str]) -> None:
            del number
            self.shapes[cells["image_id"]] = _shape(cells["dim0"], cells["dim1"])

        self._add_rows(path, table, add)

    def _add_rows(
        self, path: Path, table: Table, add: Callable[[str, Mapping[str, str]], None]
    ) -> None:
        for row in table.rows:
            number, image_id = f"{path.name}:{row.number}", row.cells["image_id"]
            try:
                if row.problem or not image_id:
                    raise UserError(row.problem or "no image_id")
                add(number, row.cells)
            except UserError as error:
                self.rejected.append(Rejection(number, image_id, str(error)))
                self._unusable.add(image_id)


def _reader(cells: Mapping[str, str]) -> str:
    if not cells["rad_id"]:
        raise UserError("no rad_id")
    return cells["rad_id"]


def _is_marked(name: str, cell: str) -> bool:
    number = _number(name, cell)
    if number not in (0, 1):
        raise UserError(f"label {name} is {cell!r}; it must be 0 or 1")
    return number == 1


def _label(cells: Mapping[str, str], names: tuple[str, ...]) -> int:
    name = cells["class_name"]
    if name not in names:
        raise UserError(f"unknown class_name {name!r}")
    return names.index(name)


def _corners(cells: Mapping[str, str]) -> Corners:
    ymin, xmin, ymax, xmax = (_number(name, cells[name]) for name in _CORNERS)
    if not (ymin < ymax and xmin < xmax):
        raise UserError("the box is empty")
    return ymin, xmin, ymax, xmax


def _shape(height: str, width: str) -> tuple[int, int]:
    shape = int(_number("height", height)), int(_number("width", width))
    if min(shape) < 1:
        raise UserError(f"an image of {width} x {height} pixels")
    return shape


def _number(name: str, cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{name} is {cell!r}; it must be a number")
    return number
