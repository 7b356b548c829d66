"""A made-up tree in the layout of COVIDx: two lists and the folders train and test."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from support.source_tree import TrueStudy, write_image

LISTS = {
    "v9a": ("train_COVIDx9A.txt", "test_COVIDx9A.txt"),
    "v9b": ("train_COVIDx9B.txt", "test_COVIDx9B.txt"),
    "v4": ("train_COVIDx4.txt", "test_COVIDx4.txt"),
    "cxr3a": ("train_COVIDx_CXR-3A.txt", "test_COVIDx_CXR-3A.txt"),
    "cxr3b": ("train_COVIDx_CXR-3B.txt", "test_COVIDx_CXR-3B.txt"),
}
CLASSES = ("normal", "pneumonia", "COVID-19")


@dataclasses.dataclass(frozen=True)
class _Patient:
    """A patient of a source, and how that source names the files."""

    number: int
    source: str

    @property
    def id(self) -> str:
        n = self.number
        # As each collection writes them; cohen's and fig1's numbers are the same on purpose.
        return {
            "cohen": f"{n}",
            "fig1": f"{n}",
            "sirm": f"COVID_{n}",
            "actmed": f"ANON{n}",
            "ricord": f"419639-{n:06}",
            "stonybrook": f"A{n:06}",
            "rsna": f"{n:08x}-5c88-4b2a-9a3d-000000000000",
            "blank": f"COVID 19 {n}",
        }[self.source]

    def file(self, image: int) -> str:
        n = self.number
        return {
            "cohen": f"{n:06}-day{image}" + (".JPG", ".jpeg", ".png", ".PNG")[image % 4],
            "fig1": f"COVID-{n:05}{'abcd'[image % 4]}.jpg",
            "sirm": f"COVID({n}{image}).png",
            "actmed": f"CR.1.2.840.113564.192168196.{n}{image}.1203801020003.png",
            "ricord": f"MIDRC-RICORD-1C-{self.id}-08.{n}-{image}.png",
            "stonybrook": f"{self.id}-01-13-1901-NA-CHEST_AP_PORT-0{image}-1.000000-AP-1-1.jpg",
            "rsna": f"{self.id}{'' if image == 0 else f'_{image}'}.png",
            "blank": f"COVID 19 {n} ({image}).png",
        }[self.source]


def write_tree(folder: Path, num_studies: int, seed: int, lists: str = "v9a") -> list[TrueStudy]:
    """Writes the lists of a version with `num_studies` lines and their images.

    The sources' spelling, files and columns are those of the published lists: version 9 has both
    "rsna" and "rnsa", lines of RSNA in test_COVIDx4.txt have no source.
    """
    rng = np.random.default_rng(seed)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    truth: list[TrueStudy] = []
    number = 0
    while len(truth) < num_studies:
        number += 1
        part = "test" if number % 5 == 0 else "train"
        for source in _sources(rng):
            patient = _Patient(number, source)
            for image in range(int(rng.integers(1, 4))):
                if len(truth) < num_studies:
                    label = "COVID-19" if source != "rsna" else ("normal", "pneumonia")[number % 2]
                    if source == "cohen" and image == 1:
                        label = "pneumonia"  # the same patient in two classes
                    study, line = _image(patient, image, label, part, lists, int(rng.integers(256)))
                    write_image(folder / part / study.study_id, study.levels[0], 24, 32)
                    lines[part].append(line)
                    truth.append(study)
    for part, name in zip(("train", "test"), LISTS[lists], strict=True):
        (folder / name).write_text("".join(f"{line}\n" for line in lines[part]))
    return truth


def _sources(rng: np.random.Generator) -> list[str]:
    """The sources that have a patient of this number."""
    others = ["sirm", "actmed", "ricord", "stonybrook", "rsna", "rsna", "blank"]
    return ["cohen", "fig1"] if rng.random() < 0.3 else [others[int(rng.integers(len(others)))]]


def _image(
    patient: _Patient, image: int, label: str, part: str, lists: str, level: int
) -> tuple[TrueStudy, str]:
    file, source = patient.file(image), patient.source
    binary = lists in ("v9b", "cxr3b")
    spelled = {True: "positive", False: "negative"}[label == "COVID-19"] if binary else label
    cells = [patient.id, file, spelled]
    if lists == "v4" and part == "test" and source == "rsna":
        source = ""
    if source:
        # Version 9 misspells the images of RSNA that it added.
        misspelt = source == "rsna" and part == "train" and patient.number % 3 and lists != "v4"
        cells.append("rnsa" if misspelt else source)
    labels = [label == "COVID-19"] if binary else [label == name for name in CLASSES]
    study = TrueStudy(
        split=true_split(patient.id) if part == "train" else "test",
        patient_id=f"{source}/{patient.id}" if source else patient.id,
        study_id=file,
        levels=[level],
        views=[""],
        labels=[float(value) for value in labels],
        attributes={"source": source} if source else {},
    )
    return study, " ".join(cells)


def true_split(patient: str) -> str:
    """Where a patient of the training list goes."""
    drawn = int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 2**32
    return "validation" if drawn < 0.1 else "train"
