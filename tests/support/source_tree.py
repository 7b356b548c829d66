"""Made-up sets in the layout of real ones: images that tell who they are, and the truth on them."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from medclip_jax.data import datasets, images
from medclip_jax.data.studies import Study


@dataclasses.dataclass(frozen=True)
class TrueStudy:
    """What the builder should make of a study.

    Attributes:
        levels: the grey level of each image, as `write_image` was given it.
        labels: 1, 0 or NaN.
        boxes: (image, label, ymin, xmin, ymax, xmax), fractions of the image's sides.
        mask_shares: (image, label, share of the image's pixels).
    """

    split: str
    patient_id: str
    study_id: str
    levels: Sequence[int]
    views: Sequence[str]
    report: str = ""
    labels: Sequence[float] = ()
    boxes: Sequence[tuple[int, int, float, float, float, float]] = ()
    mask_shares: Sequence[tuple[int, int, float]] = ()
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def grey_image(level: int, height: int, width: int) -> np.ndarray:
    """An image whose mean, up to a level, is `level`; a stripe keeps it from being blank."""
    pixels = np.full((height, width), level, np.uint8)
    pixels[-(height // 8) :] += 3
    return pixels


def write_image(path: Path, level: int, height: int = 64, width: int = 80) -> None:
    """An image with black and white bars on the left and right, and `level` between them.

    The bars keep the level where a decoder stretches the values. The suffix says the format: .jpg,
    .png or .dcm.
    """
    pixels = np.full((height, width), level, np.uint8)
    pixels[:, : width // 8] = 0
    pixels[:, -(width // 8) :] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dcm":
        _write_dicom(path, pixels)
    else:
        assert cv2.imwrite(str(path), pixels)


def read_level(encoded: bytes) -> int:
    """The level that an image was written with; a few grey levels off after JPEG."""
    pixels = images.decode_gray(encoded)
    height, width = pixels.shape
    return round(float(np.median(pixels[height // 4 : -height // 4, width // 4 : -width // 4])))


def read_back(name: str, data_dir: Path) -> list[tuple[str, Study]]:
    """The studies of a prepared set, each with its split."""
    return [
        (split, study)
        for split in datasets.split_names(name, data_dir)
        for study in datasets.open_split(name, split, data_dir)
    ]


def read_rejected(name: str, data_dir: Path) -> list[dict[str, str]]:
    """The rows of a set's `rejected.csv`; `name` with its config."""
    with (data_dir / name / "rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_prepared(name: str, data_dir: Path, truth: Sequence[TrueStudy]) -> None:
    """Fails unless the prepared set holds exactly these studies, field by field."""
    found = {
        (split, study.patient_id, study.study_id): study
        for split, study in read_back(name, data_dir)
    }
    expected = {(study.split, study.patient_id, study.study_id): study for study in truth}
    assert found.keys() == expected.keys()
    for key, study in expected.items():
        _assert_equal(found[key], study)


def _assert_equal(found: Study, true: TrueStudy) -> None:
    where = f"study {true.study_id}"
    np.testing.assert_allclose(
        [read_level(image) for image in found.images], true.levels, atol=3, err_msg=where
    )
    assert list(found.views) == list(true.views), where
    assert found.report == true.report, where
    np.testing.assert_array_equal(found.labels, np.array(true.labels, np.float32), where)
    assert [(b.image, b.label) for b in found.boxes] == [b[:2] for b in true.boxes], where
    np.testing.assert_allclose(
        [b.box for b in found.boxes], [b[2:] for b in true.boxes], atol=1e-6, err_msg=where
    )
    assert [(m.image, m.label) for m in found.masks] == [m[:2] for m in true.mask_shares], where
    shares = [float(np.mean(images.decode_gray(mask.png) > 127)) for mask in found.masks]
    np.testing.assert_allclose(shares, [m[2] for m in true.mask_shares], atol=0.01, err_msg=where)
    assert dict(found.attributes) == dict(true.attributes), where


def _write_dicom(path: Path, pixels: np.ndarray) -> None:
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.PatientName = "Not^ForTheSet"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit = 7
    header.PixelRepresentation = 0
    header.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, header, enforce_file_format=True)
