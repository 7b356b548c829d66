"""The TFDS builder `nih_chestxray14`: frontal radiographs of the NIH, labels found in reports."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from medclip_jax.data.builders.nih_chestxray14.ages import age_in_years
from medclip_jax.data.builders.nih_chestxray14.finding_tables import (
    BOX_TABLE,
    LABELS,
    finding_values,
    patient_of,
    read_boxes,
    read_findings,
    row_problem,
)
from medclip_jax.data.builders.nih_chestxray14.image_files import find_images
from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig, option
from medclip_jax.data.builders.rows import PixelBox, Rejection, Row, Source, hash_split
from medclip_jax.data.builders.split_lists import (
    ListedImage,
    find_split_lists,
    given_path,
    read_split_lists,
)
from medclip_jax.data.table import TableRow

_OFFICIAL = {"train": "train_val_list.txt", "test": "test_list.txt"}
_COUNTS = {
    "patients": 30805,
    "images": 112120,
    "images PA": 67310,
    "images AP": 44810,
    "No Finding": 60361,
    "Infiltration": 19894,
    "Effusion": 13317,
    "Atelectasis": 11559,
    "Nodule": 6331,
    "Mass": 5782,
    "Pneumothorax": 5302,
    "Consolidation": 4667,
    "Pleural_Thickening": 3385,
    "Cardiomegaly": 2776,
    "Emphysema": 2516,
    "Edema": 2303,
    "Fibrosis": 1686,
    "Pneumonia": 1431,
    "Hernia": 227,
}
_SPLIT_COUNTS = {
    "default": {"test images": 25596},
    "mrm": {"train images": 78468, "validation images": 11219, "test images": 22433},
}


@dataclasses.dataclass(eq=False, kw_only=True)
class NihChestXray14Config(RowConfig):
    """The options of `nih_chestxray14`."""

    lists: str = dataclasses.field(
        default="",
        metadata=option(
            "folder with train_list.txt, val_list.txt and test_list.txt (or train.txt, val.txt, "
            "test.txt), image first on each line; default: the official lists"
        ),
    )


class Builder(RowBuilder):
    """One image is one study, since the set does not say which belong together."""

    DESCRIPTION = """
    112,120 frontal radiographs of 30,805 patients with 14 findings (or "No Finding") that a program
    found in the reports, which are not published, and boxes on 880 of them. The config default has
    the official test list; validation is a tenth of the patients of train_val_list.txt, by a hash
    of the patient. The config mrm has the lists that REFERS, MRM, MaCo and BenchX report on
    (78,468, 11,219 and 22,433 images). Numbers of the two do not compare. Ages over 120 are errors
    and left out.
    """
    LICENCE = (
        "NIH: unrestricted use; link to the download site, acknowledge the NIH Clinical Center as "
        "the data provider and cite the paper"
    )
    HOMEPAGE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    CITATION = (
        "Wang et al., ChestX-ray8: Hospital-scale chest X-ray database and benchmarks on "
        "weakly-supervised classification and localization of common thorax diseases, CVPR 2017, "
        "https://arxiv.org/abs/1705.02315"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    From {HOMEPAGE}: Data_Entry_2017_v2020.csv (or Data_Entry_2017.csv), train_val_list.txt,
    test_list.txt, BBox_List_2017.csv (without it there are no boxes), and the images as the
    archives images_001.tar.gz to images_012.tar.gz, as the folder images, or as the folders
    images_001/images to images_012/images that Kaggle has. For the config mrm also a folder mrm
    with train_list.txt, val_list.txt and test_list.txt from
    https://github.com/RL4M/MRM-pytorch/tree/main/DatasetsSplits/NIH_ChestX-ray
    """
    LABEL_NAMES = LABELS
    BUILDER_CONFIGS = [
        NihChestXray14Config(name="default", description="The official test list."),
        NihChestXray14Config(
            name="mrm", description="The lists of REFERS, MRM, MaCo and BenchX.", lists="mrm"
        ),
    ]
    builder_config: NihChestXray14Config

    @property
    def published(self) -> Mapping[str, int]:
        """The authors' totals; of lists that are not published, nothing is known."""
        if self.builder_config.lists and self.builder_config.name != "mrm":
            return {}
        return _COUNTS | _SPLIT_COUNTS["mrm" if self.builder_config.lists else "default"]

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """A row for each image of the table that the lists name."""
        manual_dir = Path(dl_manager.manual_dir)
        table_path, table = read_findings(manual_dir)
        in_table = {row.cells["Image Index"] for row in table.rows}
        listed = read_split_lists(self._lists(manual_dir))
        boxes, bad_boxes = read_boxes(manual_dir / BOX_TABLE, in_table)
        images = find_images(manual_dir, Path(dl_manager.download_dir) / "nih_chestxray14")
        splits, bad_lines = self._splits(listed, in_table, table_path.name)
        rows = self._rows(table.rows, splits, boxes, images.paths)
        return self.checked(images.root, [*rows, *bad_lines, *bad_boxes])

    def _lists(self, manual_dir: Path) -> dict[str, Path]:
        if self.builder_config.lists:
            return find_split_lists(given_path(manual_dir, self.builder_config.lists))
        return {split: manual_dir / name for split, name in _OFFICIAL.items()}

    def _splits(
        self, listed: Sequence[ListedImage], in_table: Collection[str], table_name: str
    ) -> tuple[dict[str, str], list[Rejection]]:
        """The split of each image, and the lines that cannot be used."""
        first: dict[str, ListedImage] = {}
        rejected = []
        for line in listed:
            name = PurePosixPath(line.name).name
            if name not in in_table:
                rejected.append(Rejection(line.where, name, f"{table_name} has no such image"))
            elif first.setdefault(name, line) is not line:
                reason = f"the image is listed already, in {first[name].where}"
                rejected.append(Rejection(line.where, name, reason))
        splits = {name: line.split for name, line in first.items()}
        if not self.builder_config.lists:
            for name, split in splits.items():
                patient = patient_of(name)
                if split == "train" and patient:
                    splits[name] = hash_split(patient, validation=0.1)
        return splits, rejected

    def _rows(
        self,
        table: Sequence[TableRow],
        splits: Mapping[str, str],
        boxes: Mapping[str, Sequence[PixelBox]],
        paths: Mapping[str, str],
    ) -> Iterator[Row | Rejection]:
        for row in table:
            cells = row.cells
            name = cells["Image Index"]
            if name not in splits and self.builder_config.lists:
                continue  # such lists say what the set is; the official ones have every image
            problem = row_problem(cells)
            if not problem and name not in splits:
                problem = f"in neither {_OFFICIAL['train']} nor {_OFFICIAL['test']}"
            if problem:
                yield Rejection(row.number, name, problem)
                continue
            yield Row(
                number=row.number,
                split=splits[name],
                patient_id=cells["Patient ID"],
                study_id=PurePosixPath(name).stem,
                image_path=paths.get(name, f"images/{name}"),
                view=cells["View Position"],
                labels=finding_values(cells["Finding Labels"]),
                boxes=tuple(boxes.get(name, ())),
                attributes=_attributes(cells),
            )


def _attributes(cells: Mapping[str, str]) -> dict[str, str]:
    return {
        "age": age_in_years(cells.get("Patient Age", "")),
        "sex": cells.get("Patient Gender", "") or cells.get("Patient Sex", ""),
        "follow_up": cells["Follow-up #"],
    }
