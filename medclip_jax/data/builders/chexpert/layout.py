"""Where CheXpert's tables and images lie, in each form in which the set is handed out.

- CheXpert-v1.0-small and CheXpert-v1.0 have train.csv, valid.csv, train/ and valid/.
- The full download of Stanford AIMI, chexpertchestxrays-u20210408, has the same in four folders:
  `CheXpert-v1.0 batch 1 (validate & csv)` with the tables and valid/, and
  `CheXpert-v1.0 batch 2 (train 1)` to `… batch 4 (train 3)`, each with folders of patients. The
  tables name CheXpert-v1.0/train/patient00001/… all the same.
- CheXpert Plus has its images in PNG/ or DICOM/, where train/ and valid/ are.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medclip_jax.data.builders.chexpert.image_paths import ImagePath
from medclip_jax.errors import UserError

FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0", ".")
_DOWNLOAD = "chexpertchestxrays-*"
_BATCH = "CheXpert-v1.0* batch *"
_TRAINING_BATCHES = ("2 (train 1)", "3 (train 2)", "4 (train 3)")
# Programs that unpack an archive often make a folder of its name around what is in it.
_IN_BATCH = ("", "{name}", "CheXpert-v1.0")
_PLUS_FOLDERS = ("PNG/PNG", "PNG", "DICOM/DICOM", "DICOM", ".")
_PLUS_SUFFIXES = (".png", ".jpg", ".dcm")
_NUM_TRIED = 1000  # images to look for


class Layout(NamedTuple):
    """Where files are, relative to the folder that the user names.

    Attributes:
        tables: the folder of train.csv and valid.csv; images are beside them unless said below.
        batches: the folder around a training patient's, by patient, of the download in batches.
        missing: the folders of training images that the download in batches lacks, or "".
        suffix: what the images' files end with, where it is not what the tables say.
    """

    tables: Path
    batches: Mapping[str, Path] = {}
    missing: str = ""
    suffix: str = ""

    def image_path(self, image: ImagePath) -> str:
        """Where an image is."""
        if self.suffix:
            image = image._replace(suffix=self.suffix)
        study = image.study
        if study.folder == "train" and self.batches:
            # A patient of no batch is in one that is missing.
            missing = Path(self.missing) if self.missing else next(iter(self.batches.values()))
            folder = self.batches.get(study.patient, missing)
            return str(folder / study.patient / study.study / f"{image.view}{image.suffix}")
        return str(self.tables / str(image))

    def check_images(self, manual: Path, folder: str) -> None:
        """Raises `UserError` if the folder of images, "train" or "valid", is not there."""
        if folder == "train" and self.batches:
            return
        if folder == "train" and self.missing:
            raise UserError(f"{manual}: the training images are missing: put {self.missing} there")
        if not (manual / self.tables / folder).is_dir():
            path = manual / self.tables / folder
            raise UserError(f"{path}: the folder with the images is missing")


def find_layout(manual: Path) -> Layout:
    """The layout of CheXpert in `manual`.

    Raises:
        UserError: no train.csv is there.
    """
    if layout := _find(manual):
        return layout
    packed = sorted(path.name for top in _tops(manual) for path in (manual / top).glob("CheX*.zip"))
    unpack = f" ({', '.join(packed)})" if packed else ""
    raise UserError(
        f"{manual}: neither {FOLDERS[0]}/train.csv nor {FOLDERS[1]}/train.csv is there, nor the "
        f"folders 'CheXpert-v1.0 batch 1 (validate & csv)' …; put CheXpert there, unpacked{unpack}"
    )


def has_chexpert(manual: Path) -> bool:
    """Whether CheXpert's training table or images are in `manual`, rather than CheXpert Plus."""
    folders = (manual / name / "train" for name in FOLDERS[:2])
    return _find(manual) is not None or any(folder.is_dir() for folder in folders)


def find_plus_layout(manual: Path, images: Sequence[ImagePath]) -> Layout | None:
    """The layout of the images of CheXpert Plus in `manual`; None if they are not there.

    Args:
        manual: the folder that the user names.
        images: those that CheXpert Plus lists.
    """
    tried = images[:: len(images) // _NUM_TRIED + 1]
    for name in _PLUS_FOLDERS:
        if not any((manual / name / part).is_dir() for part in ("train", "valid")):
            continue
        for suffix in _PLUS_SUFFIXES:
            layout = Layout(Path(name), suffix=suffix)
            if any((manual / layout.image_path(image)).is_file() for image in tried):
                return layout
    return None


def _find(manual: Path) -> Layout | None:
    for top in _tops(manual):
        for name in FOLDERS:
            if (manual / top / name / "train.csv").is_file():
                return Layout(top / name)
        batches = [path for path in sorted((manual / top).glob(_BATCH)) if path.is_dir()]
        for folder in (part for batch in batches for part in _parts(batch)):
            if (folder / "train.csv").is_file():
                patients = _patients(manual, batches)
                return Layout(
                    folder.relative_to(manual), patients, _missing(top, batches, patients)
                )
    return None


def _tops(manual: Path) -> list[Path]:
    downloads = (path for path in sorted(manual.glob(_DOWNLOAD)) if path.is_dir())
    return [Path("."), *(path.relative_to(manual) for path in downloads)]


def _parts(batch: Path) -> list[Path]:
    return [batch / part.format(name=batch.name) for part in _IN_BATCH]


def _patients(manual: Path, batches: Iterable[Path]) -> dict[str, Path]:
    """The folder around each training patient's, relative to `manual`."""
    return {
        patient.name: folder.relative_to(manual)
        for batch in batches
        for part in _parts(batch)
        for folder in (part, part / "train")
        for patient in folder.glob("patient*")
    }


def _missing(top: Path, batches: Sequence[Path], patients: Mapping[str, Path]) -> str:
    """The folders of training images in which no patient is, joined by "or"."""
    release = batches[0].name.partition(" batch ")[0]
    found = " ".join({str(folder) for folder in patients.values()})
    names = [f"batch {name}" for name in _TRAINING_BATCHES]
    missing = [name for name in names if name.partition(" (")[0] not in found]
    return str(top / f"{release} {' or '.join(missing)}") if missing else ""
