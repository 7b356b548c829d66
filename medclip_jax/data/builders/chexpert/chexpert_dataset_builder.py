"""The TFDS builder `chexpert`: chest radiographs of Stanford Hospital, with reports where given."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import tensorflow_datasets as tfds

from medclip_jax.data.builders.chexpert import chexpert_plus, tables
from medclip_jax.data.builders.chexpert.class_lists import (
    CLASS_LISTS,
    IMAGES_PER_CLASS,
    Drawn,
    draw_class_lists,
    parse_class_lists,
)
from medclip_jax.data.builders.chexpert.image_paths import ImagePath
from medclip_jax.data.builders.chexpert.layout import (
    FOLDERS,
    Layout,
    find_layout,
    find_plus_layout,
    has_chexpert,
)
from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig, option
from medclip_jax.data.builders.rows import Rejection, Row, Source
from medclip_jax.data.chexpert_labels import (
    CHEXPERT_LABELS,
    POLICY_HELP,
    label_values,
    uncertain_values,
)
from medclip_jax.errors import UserError

_BLANK = {"absent": 0.0, "unknown": math.nan}
# Which of the labels are whose: the part of the report that CheXbert read, or "" for CheXpert's.
_LABELS = {
    "chexpert": "",
    "chexbert_findings": "findings",
    "chexbert_impression": "impression",
    "chexbert_report": "report",
}
_NO_LABELS = (
    "warning: CheXpert's labels are not among the files of CheXpert Plus, so all are unknown; "
    "--labels chexbert_impression takes CheXbert's"
)
_UNKNOWN = (math.nan,) * len(CHEXPERT_LABELS)


@dataclasses.dataclass(eq=False, kw_only=True)
class ChexpertConfig(RowConfig):
    """The options of `chexpert`."""

    uncertain: str = dataclasses.field(default="ignore", metadata=option(POLICY_HELP))
    blank: str = dataclasses.field(
        default="absent",
        metadata=option("what a label that the report does not mention means", list(_BLANK)),
    )
    labels: str = dataclasses.field(
        default="chexpert",
        metadata=option(
            "labels of the training studies: CheXpert's, or CheXbert's from CheXpert Plus",
            list(_LABELS),
        ),
    )
    class_lists: str = dataclasses.field(
        default="",
        metadata=option("lists to draw from the training images: 5x200, 8x200 or 5x200,8x200"),
    )
    seed: int = dataclasses.field(default=0, metadata=option("another seed draws other lists"))


class Builder(RowBuilder):
    """CheXpert, small or full, with the test set and CheXpert Plus where they are given."""

    DESCRIPTION = """
    223,414 chest radiographs of 187,641 studies of 64,540 patients to train on, labelled by a
    program from their reports; 200 studies to validate on, labelled by three radiologists; and,
    where given, 500 studies to test on, labelled by five. The patients of the three are different
    ones. Where CheXpert Plus is given, training and validation studies have their reports.
    Optional splits test_5x200 and test_8x200 have, for each of 5 and 8 classes, 200 frontal
    training images positive for this class alone (no other of the fourteen labels is 1 or -1),
    each a study of its own with the attributes class and path; their patients are left out of
    train. 5x200 is drawn from the patients that 8x200 leaves. Labels by CheXbert are for training
    studies only.
    """
    LICENCE = (
        "Stanford University Dataset Research Use Agreement: for research that is not commercial; "
        "no redistribution of images, reports or labels"
    )
    HOMEPAGE = "https://stanfordmlgroup.github.io/competitions/chexpert/"
    CITATION = (
        "Irvin et al., CheXpert: a large chest radiograph dataset with uncertainty labels and "
        "expert comparison, AAAI 2019, https://arxiv.org/abs/1901.07031; with reports, Chambon et "
        "al., CheXpert Plus, https://arxiv.org/abs/2405.19538"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    DIR has CheXpert-v1.0-small, whose smaller images do, or CheXpert-v1.0, unpacked, with
    train.csv, valid.csv, train/ and valid/; or the four folders of the full download,
    "CheXpert-v1.0 batch 1 (validate & csv)" to "CheXpert-v1.0 batch 4 (train 3)". For the test set
    add test/ to it, or add the folder CheXpert of CheXlocalize to DIR, and put groundtruth.csv from
    https://github.com/rajpurkarlab/cheXpert-test-set-labels into DIR. For reports put
    {chexpert_plus.TABLE} of CheXpert Plus into DIR, for its labels the folder
    chexbert_labels too; with the folder PNG or DICOM of CheXpert Plus, CheXpert itself may be
    missing, and with it its labels. All but groundtruth.csv is at
    https://aimi.stanford.edu/datasets after
    registration.
    """
    LABEL_NAMES = CHEXPERT_LABELS
    BUILDER_CONFIGS = [
        ChexpertConfig(name="default", description="Uncertain labels are unknown (U-Ignore)."),
        ChexpertConfig(name="zeros", description="U-Zeros.", uncertain="zeros"),
        ChexpertConfig(name="ones", description="U-Ones.", uncertain="ones"),
        ChexpertConfig(
            name="mixed", description="Ones or zeros by class, as GLoRIA has it.", uncertain="mixed"
        ),
        ChexpertConfig(
            name="class_lists",
            description="With test_5x200 and test_8x200, whose patients are not in train.",
            class_lists="5x200,8x200",
        ),
    ]
    builder_config: ChexpertConfig

    @property
    def published(self) -> Mapping[str, int]:
        """What is known of the set, without what the lists take from the training images."""
        counts = {"validation studies": 200, "validation images": 234}
        wanted = parse_class_lists(self.builder_config.class_lists)
        if not wanted:
            return {"train studies": 187641, "train images": 223414, **counts}
        sizes = {f"test_{name}": IMAGES_PER_CLASS * len(CLASS_LISTS[name]) for name in wanted}
        return {**counts, **{f"{split} images": size for split, size in sizes.items()}}

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The rows of train.csv, valid.csv and the test set's labels, with reports."""
        config, manual = self.builder_config, Path(dl_manager.manual_dir)
        parse_labels = functools.partial(
            label_values,
            uncertain=uncertain_values(config.uncertain),
            blank=_BLANK[config.blank],
        )
        section = _LABELS[config.labels]
        plus = _read_plus(manual, needed=bool(section))
        layout = self._plus_layout(manual, plus)
        notes: list[str] = []
        rows: list[Row | Rejection] = list(plus.rejected)
        if layout:
            rows += tables.plus_rows(plus, layout)
            notes += [] if section else [_NO_LABELS]
        else:
            rows += self._chexpert_rows(manual, plus, parse_labels)
        if section:
            path = manual / "chexbert_labels" / f"{section}_fixed.json"
            labels, rejected = chexpert_plus.read_chexbert(path, section, plus, parse_labels)
            rows = [*_with_training_labels(rows, labels), *rejected]
        if config.views != "none":  # the test set has no texts
            rows += tables.test_rows(manual, parse_labels)
        return self.checked(manual, rows)._replace(notes=notes)

    def _plus_layout(self, manual: Path, plus: chexpert_plus.ChexpertPlus) -> Layout | None:
        """Where the images of CheXpert Plus are, if CheXpert itself is not there; else None."""
        if not plus.images or has_chexpert(manual):
            return None
        layout = find_plus_layout(manual, [listed.image for listed in plus.images])
        if layout is None:
            if self.builder_config.views != "none":
                raise UserError(
                    f"{manual}: {chexpert_plus.TABLE} is there without images: put the folder PNG "
                    f"or DICOM of CheXpert Plus there, unpacked, or CheXpert ({FOLDERS[0]}), or "
                    "take the texts alone by --views none"
                )
            layout = Layout(Path("."))
        if self.builder_config.class_lists:
            raise UserError(
                f"{manual}: class lists are drawn by CheXpert's labels, which CheXpert Plus has "
                "not got; put CheXpert there too"
            )
        return layout

    def _chexpert_rows(
        self, manual: Path, plus: chexpert_plus.ChexpertPlus, parse_labels: tables.ParseLabels
    ) -> Iterator[Row | Rejection]:
        """The rows of train.csv and valid.csv, and the images of the class lists."""
        config = self.builder_config
        wanted = parse_class_lists(config.class_lists)
        layout = find_layout(manual)
        for name in ("train", "valid"):
            if config.views != "none":
                layout.check_images(manual, name)
            table = tables.read_images(manual / layout.tables / f"{name}.csv")
            found = tables.image_rows(table, name, layout, plus.studies, parse_labels)
            if wanted and name == "train":
                drawn = draw_class_lists(table.rows, wanted, config.seed)
                found = _with_class_lists(found, layout, drawn)
            yield from found


def _read_plus(manual: Path, needed: bool) -> chexpert_plus.ChexpertPlus:
    path = manual / chexpert_plus.TABLE
    if path.is_file():
        return chexpert_plus.read_plus(path)
    if needed:
        raise UserError(f"{path}: missing; labels by CheXbert are of no use without the reports")
    return chexpert_plus.ChexpertPlus({}, [], [])


def _with_class_lists(
    rows: Iterable[Row | Rejection], layout: Layout, drawn: Mapping[ImagePath, Drawn]
) -> Iterator[Row | Rejection]:
    """Each drawn image as a study of its own, and no other image of the same patients."""
    by_path = {layout.image_path(image): (image, choice) for image, choice in drawn.items()}
    patients = {image.study.patient for image in drawn}
    for row in rows:
        if isinstance(row, Rejection) or row.patient_id not in patients:
            yield row
        elif row.image_path in by_path:
            image, choice = by_path[row.image_path]
            yield row._replace(
                split=f"test_{choice.class_list}",
                study_id=f"{image.study.study}/{image.view}",
                attributes={**row.attributes, "class": choice.label, "path": str(image)},
            )


def _with_training_labels(
    rows: Iterable[Row | Rejection], labels: Mapping[tuple[str, str], tuple[float, ...]]
) -> Iterator[Row | Rejection]:
    """Other labels for the training studies: those of the other splits are the reference."""
    for row in rows:
        if isinstance(row, Row) and row.split == "train":
            row = row._replace(labels=labels.get((row.patient_id, row.study_id), _UNKNOWN))
        yield row
