"""The TFDS builder `siim_pneumothorax`: radiographs with and without outlined pneumothorax."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig, option
from medclip_jax.data.builders.rows import Rejection, Row, RunLengthMask, Source, hash_split
from medclip_jax.data.builders.split_lists import find_split_lists, given_path, read_split_lists
from medclip_jax.data.table import TableRow, read_table
from medclip_jax.errors import UserError

_TABLES = ("stage_2_train.csv", "train-rle.csv")  # the first has the images of both stages
_NAME_TABLES = ("stage_1_train_images.csv", "stage_1_test_images.csv")
# DICOM files as the competition gave them, then the common conversions to PNG. Where an image is in
# two folders, the first counts.
_IMAGE_FOLDERS = (
    "dicom-images-train",
    "dicom-images-test",
    "train_images",
    "test_images",
    "png_images",
    "train",
    "test",
)
_NO_PNEUMOTHORAX = "-1"
# The lists of MRM and MaCo name some images twice, as if the rows of the table had been divided and
# not its images. The images that others report on stay, and are not trained on.
_SPLITS_BY_WEIGHT = ("test", "validation", "train")
_ORIGINAL_SHAPE = (1024, 1024)  # pixels of all images as the competition gave them


@dataclasses.dataclass(eq=False, kw_only=True)
class SiimConfig(RowConfig):
    """The options of `siim_pneumothorax`."""

    lists: str = dataclasses.field(
        default="",
        metadata=option(
            "folder with lists of the splits: train_list.txt, val_list.txt, test_list.txt (MRM, "
            "MaCo) or train.txt, val.txt, test.txt (BenchX); default: by a hash of the image"
        ),
    )


class Listed(NamedTuple):
    """An image's split, and all lists that name the image, the one that counts first."""

    split: str
    files: tuple[str, ...]


class Builder(RowBuilder):
    """One image is one study; its rows are the parts of one mask."""

    DESCRIPTION = """
    12,047 frontal radiographs of the SIIM-ACR Pneumothorax Segmentation challenge, with the label
    Pneumothorax and its mask. There is no official split with labels and no published patient: 70 %
    train, 15 % validation, 15 % test, by a hash of the image's id, unless lists are given. Images
    in none of the lists are left out; those in two of them, as the lists of MRM and MaCo have them,
    are only in test, or else in validation, and the attribute lists tells which. The images come
    from NIH ChestX-ray14, so that several may be of one patient, and a model that was trained on
    that set may have seen all of them.
    """
    LICENCE = (
        "rules of the Kaggle competition (competition, academic and other non-commercial use; "
        "no redistribution)"
    )
    HOMEPAGE = "https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation"
    CITATION = (
        "Filice et al., Crowdsourcing pneumothorax annotations using machine learning annotations "
        "on the NIH chest X-ray dataset, Journal of Digital Imaging 2020, "
        "https://doi.org/10.1007/s10278-019-00299-9"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    From https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation: the run lengths,
    stage_2_train.csv or train-rle.csv, and the images: dicom-images-train and dicom-images-test, as
    they unpack, or square PNG files in one of the folders {", ".join(_IMAGE_FOLDERS[2:])}. PNG
    files that are named anew (0_train_0_.png, which the lists of BenchX need) come with
    stage_1_train_images.csv and stage_1_test_images.csv, which must lie there too.
    """
    LABEL_NAMES = ("Pneumothorax",)
    PUBLISHED = {"studies": 12047, "images": 12047, "Pneumothorax": 2669}
    BUILDER_CONFIGS = [SiimConfig(name="default", description="Split by a hash of the image.")]
    builder_config: SiimConfig

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The images of the table of run lengths, one row for each."""
        root = Path(dl_manager.manual_dir)
        table = next((root / name for name in _TABLES if (root / name).is_file()), None)
        if table is None:
            raise UserError(f"{root}: no run lengths; {' or '.join(_TABLES)} is needed")
        image_ids, bad_names = _read_image_ids(root)
        files = _image_files(root, image_ids)
        images, rejected = _read_images(table)
        known = images.keys() | {rejection.path for rejection in rejected}
        lists = self._lists(root, image_ids)
        rows = [
            _row(image_id, files.get(image_id, ""), parts, lists)
            for image_id, parts in images.items()
            if lists is None or image_id in lists
        ]
        unknown = [
            Rejection(listed.files[0], image_id, f"no row of {table.name} names this image")
            for image_id, listed in (lists or {}).items()
            if image_id not in known
        ]
        orphans = [
            Rejection("", path, f"no row of {table.name} names this image")
            for image_id, path in files.items()
            # The competition's own test images have no public rows.
            if image_id not in known and "test" not in path
        ]
        return self.checked(root, [*rows, *rejected, *bad_names, *unknown, *orphans])

    def _lists(self, root: Path, image_ids: Mapping[str, str]) -> dict[str, Listed] | None:
        """The lists of the option by image id; None without the option."""
        if not self.builder_config.lists:
            return None
        lists = find_split_lists(given_path(root, self.builder_config.lists))
        files: dict[str, dict[str, str]] = {}
        for split in _SPLITS_BY_WEIGHT:
            for line in read_split_lists({split: lists[split]}):
                name = _image_name(line.name)
                files.setdefault(image_ids.get(name, name), {})[split] = lists[split].name
        return {name: Listed(next(iter(own)), tuple(own.values())) for name, own in files.items()}


def _image_name(path: str) -> str:
    # Names are full of dots, so only what is known to be a suffix may be cut off.
    return path.rpartition("/")[2].removesuffix(".png").removesuffix(".dcm")


def _read_image_ids(root: Path) -> tuple[dict[str, str], list[Rejection]]:
    """The image ids of files that are named anew, by the stem of the new name."""
    image_ids, rejected = {}, []
    for path in (root / name for name in _NAME_TABLES if (root / name).is_file()):
        for row in read_table(path, ["new_filename", "ImageId"], columns=[]).rows:
            name, image_id = row.cells["new_filename"], row.cells["ImageId"]
            if row.problem or not name or not image_id:
                reason = row.problem or "a name is missing"
                rejected.append(Rejection(f"{path.name}:{row.number}", name, reason))
            else:
                image_ids[name.removesuffix(".png")] = image_id
    return image_ids, rejected


def _image_files(root: Path, image_ids: Mapping[str, str]) -> dict[str, str]:
    """The image files by their image id, relative to `root`."""
    files = {}
    for folder in reversed(_IMAGE_FOLDERS):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".dcm", ".png"):
                files[image_ids.get(path.stem, path.stem)] = str(path.relative_to(root))
    if not files:
        raise UserError(
            f"{root}: no images (.dcm or .png) in any of the folders {', '.join(_IMAGE_FOLDERS)}"
        )
    return files


def _read_images(path: Path) -> tuple[dict[str, list[TableRow]], list[Rejection]]:
    """The rows of each image, and the rows that cannot be used.

    An image of which a row cannot be used is left out: what is left is not its mask.
    """
    images: dict[str, list[TableRow]] = {}
    rejected, unusable = [], set()
    for row in read_table(path, ["ImageId", "EncodedPixels"], columns=[]).rows:
        image_id, runs = row.cells["ImageId"], row.cells["EncodedPixels"]
        earlier = images.setdefault(image_id, [])
        if runs and runs in (part.cells["EncodedPixels"] for part in earlier):
            rejected.append(Rejection(row.number, image_id, "the same as an earlier row"))
        elif problem := row.problem or _problem(image_id, runs, earlier):
            rejected.append(Rejection(row.number, image_id, problem))
            unusable.add(image_id)
        else:
            earlier.append(row)
    return {name: rows for name, rows in images.items() if name not in unusable}, rejected


def _problem(image_id: str, runs: str, earlier: Sequence[TableRow]) -> str:
    if not image_id:
        return "no ImageId"
    if not runs:
        return f"no EncodedPixels; an image without pneumothorax has {_NO_PNEUMOTHORAX}"
    if earlier and _NO_PNEUMOTHORAX in (runs, earlier[0].cells["EncodedPixels"]):
        return f"{_NO_PNEUMOTHORAX} and a mask for the same image"
    return ""


def _split(image_id: str, lists: Mapping[str, Listed] | None) -> str:
    if lists is not None:
        return lists[image_id].split
    return hash_split(image_id, validation=0.15, test=0.15)


def _row(
    image_id: str, path: str, parts: Sequence[TableRow], lists: Mapping[str, Listed] | None
) -> Row:
    """The image's row; `path` is "" if it has no file."""
    runs = [row.cells["EncodedPixels"] for row in parts]
    row = Row(
        number=parts[0].number,
        split=_split(image_id, lists),
        patient_id=image_id,
        study_id=image_id,
        image_path=path or f"{image_id}.dcm",
        view="FRONTAL",
        labels=(0.0,),
        attributes={} if lists is None else {"lists": "|".join(lists[image_id].files)},
    )
    if runs == [_NO_PNEUMOTHORAX]:
        return row
    return row._replace(labels=(1.0,), masks=(RunLengthMask(0, tuple(runs), _ORIGINAL_SHAPE),))
