"""The TFDS builder `vindr_cxr`: chest radiographs of two hospitals in Hanoi, with boxes."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow_datasets as tfds

from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig, option
from medclip_jax.data.builders.rows import PixelBox, Rejection, Row, Source, hash_split
from medclip_jax.data.builders.vindr_cxr.consensus import consensus_labels, merge_boxes
from medclip_jax.data.builders.vindr_cxr.readings import (
    KAGGLE_LABELS,
    NO_FINDING,
    PHYSIONET_LABELS,
    Reading,
    Readings,
)
from medclip_jax.errors import UserError

_NUM_READERS = 3  # of each training image
_DICOM = (".dicom", ".dcm")
# Where a folder has an image twice, the first of these counts.
_SUFFIXES = (*_DICOM, ".png", ".jpg", ".jpeg")


@dataclasses.dataclass(eq=False, kw_only=True)
class VinDrConfig(RowConfig):
    """The options of `vindr_cxr`."""

    release: str = dataclasses.field(
        default="physionet",
        metadata=option(
            "physionet: 28 labels and a test split; kaggle: 15 labels of the training images",
            ["physionet", "kaggle"],
        ),
    )
    consensus: str = dataclasses.field(
        default="majority",
        metadata=option(
            "how many of a training image's three readers make a label: two, one or all of them",
            ["majority", "any", "all"],
        ),
    )


class Builder(RowBuilder):
    """One image is one study; which images are of one patient is not published."""

    DESCRIPTION = """
    18,000 postero-anterior radiographs. Each of the 15,000 training images was read by three
    radiologists on their own, each of the 3,000 test images by five together. A label is what the
    readers agree on (option consensus); under "any", No finding still needs all of them. Boxes are
    those of the labels that the consensus has; boxes of different readers on one label that overlap
    (intersection over union of 0.5 or more) are one box, with the mean of their corners. Validation
    is 10 % of the training images, by a hash of the image's id; patients are not known. Kaggle's
    release has no public labels for its test images, so it has no test split.
    """
    LICENCE = (
        "PhysioNet Credentialed Health Data License 1.5.0 (no sharing of the data with others); "
        "from Kaggle, the rules of the VinBigData competition (non-commercial)"
    )
    HOMEPAGE = "https://physionet.org/content/vindr-cxr/1.0.0/"
    CITATION = (
        "Nguyen et al., VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations, "
        "Scientific Data 2022, https://doi.org/10.1038/s41597-022-01498-w"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    From https://physionet.org/content/vindr-cxr/1.0.0/ (credentialed access): the folders train and
    test with the .dicom files and the folder annotations with image_labels_train.csv,
    image_labels_test.csv, annotations_train.csv and annotations_test.csv. With --release kaggle,
    from https://www.kaggle.com/c/vinbigdata-chest-xray-abnormalities-detection: the folder train
    and train.csv. The images may also be .png or .jpg files of any size; boxes are in pixels of the
    DICOM images, so their sizes must then be in train_meta.csv and test_meta.csv (columns image_id,
    dim0 for the height, dim1 for the width), or in columns width and height of Kaggle's train.csv.
    """
    LABEL_NAMES = PHYSIONET_LABELS
    BUILDER_CONFIGS = [
        VinDrConfig(name="default", description="PhysioNet, labels by two of three readers."),
        VinDrConfig(name="any_reader", description="Labels by any reader.", consensus="any"),
        VinDrConfig(name="all_readers", description="Labels by all readers.", consensus="all"),
        VinDrConfig(name="kaggle", description="Kaggle's 15 labels.", release="kaggle"),
    ]
    builder_config: VinDrConfig

    @property
    def label_names(self) -> tuple[str, ...]:
        """The release's own names."""
        return KAGGLE_LABELS if self.builder_config.release == "kaggle" else PHYSIONET_LABELS

    @property
    def published(self) -> Mapping[str, int]:
        """The images that the paper counts in its abstract."""
        if self.builder_config.release == "kaggle":
            return {"studies": 15000, "images": 15000}
        return {"studies": 18000, "images": 18000, "test images": 3000}

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The rows of the release's tables, one for each image."""
        root = Path(dl_manager.manual_dir)
        parts = ("train",) if self.builder_config.release == "kaggle" else ("train", "test")
        return self.checked(root, [row for part in parts for row in self._rows(root, part)])

    def _rows(self, root: Path, part: str) -> Iterator[Row | Rejection]:
        readings = self._readings(root, part)
        images = _image_files(root, part)
        converted = {
            name for name in readings.usable if not images.get(name, _DICOM[0]).endswith(_DICOM)
        }
        if converted and not readings.shapes:
            raise UserError(
                f"{root}: the images in {part} are no DICOM files, so {part}_meta.csv is needed "
                "with the sizes that the boxes count in (columns image_id, dim0, dim1)"
            )
        yield from readings.rejected
        for image_id, reading in readings.usable.items():
            row = self._row(part, image_id, reading)._replace(
                image_path=images.get(image_id, f"{part}/{image_id}.dicom")
            )
            if part == "train" and len(reading.votes) != _NUM_READERS:
                reason = f"{len(reading.votes)} readers; a training image has {_NUM_READERS}"
                yield Rejection(row.number, row.image_path, reason)
            elif image_id not in converted:
                yield row
            elif image_id in readings.shapes:
                shape = readings.shapes[image_id]
                yield row._replace(boxes=tuple(b._replace(image_shape=shape) for b in row.boxes))
            else:
                reason = f"no row of {part}_meta.csv tells the size of the original image"
                yield Rejection(row.number, row.image_path, reason)
        for image_id in sorted(images.keys() - readings.named):
            yield Rejection("", images[image_id], "no row of the tables names this image")

    def _readings(self, root: Path, part: str) -> Readings:
        readings = Readings()
        if self.builder_config.release == "kaggle":
            readings.add_kaggle_table(root / "train.csv")
        else:
            tables, has_readers = root / "annotations", part == "train"
            readings.add_label_table(tables / f"image_labels_{part}.csv", has_readers=has_readers)
            readings.add_box_table(tables / f"annotations_{part}.csv", has_readers=has_readers)
        if (shapes := root / f"{part}_meta.csv").exists():
            readings.add_shape_table(shapes)
        return readings

    def _row(self, part: str, image_id: str, reading: Reading) -> Row:
        names = self.label_names
        votes = list(reading.votes.values())
        labels = consensus_labels(
            votes, len(names), self.builder_config.consensus, names.index(NO_FINDING)
        )
        boxes = merge_boxes([box for box in reading.boxes if labels[box.label]])
        counts = {name: sum(i in given for given in votes) for i, name in enumerate(names)}
        return Row(
            number=reading.number,
            split="test" if part == "test" else hash_split(image_id, validation=0.1),
            patient_id=image_id,
            study_id=image_id,
            view="PA",
            labels=labels,
            boxes=tuple(PixelBox(label, box) for label, box in boxes),
            attributes={
                "readers": "|".join(sorted(filter(None, reading.votes))),
                "votes": "|".join(f"{name}={n}" for name, n in counts.items() if n)
                * (part == "train"),
            },
        )


def _image_files(root: Path, part: str) -> dict[str, str]:
    """The images in the folder `part` by their id, relative to `root`."""
    folder = root / part
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it must hold the images")
    files = [path for path in folder.iterdir() if path.suffix in _SUFFIXES]
    if not files:
        raise UserError(f"{folder}: no images (files {', '.join(_SUFFIXES)})")
    files.sort(key=lambda path: (_SUFFIXES.index(path.suffix), path.name), reverse=True)
    return {path.stem: f"{part}/{path.name}" for path in files}
