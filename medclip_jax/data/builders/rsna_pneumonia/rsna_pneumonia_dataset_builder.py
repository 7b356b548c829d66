"""The TFDS builder `rsna_pneumonia`: radiographs of the RSNA's challenge of 2018, with boxes."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import tensorflow_datasets as tfds

from medclip_jax.data.builders.archives import unpack
from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig, option
from medclip_jax.data.builders.rows import Rejection, Row, Source
from medclip_jax.data.builders.rsna_pneumonia.headers import Header, read_headers
from medclip_jax.data.builders.rsna_pneumonia.label_tables import (
    BOX_TABLE,
    LABELS,
    read_labelled_images,
)
from medclip_jax.data.builders.rsna_pneumonia.listed_images import (
    TEST_FOLDER,
    TRAIN_FOLDER,
    RsnaImage,
    all_images,
    listed_images,
    unfair_reasons,
    with_nih_images,
    with_split,
)
from medclip_jax.data.builders.rsna_pneumonia.nih_images import NihTraining, read_nih_mapping
from medclip_jax.data.builders.split_lists import (
    find_split_lists,
    given_path,
    read_split_lists,
)
from medclip_jax.errors import UserError

_ARCHIVE = "rsna-pneumonia-detection-challenge.zip"
_MAPPING_URL = (
    "https://s3.amazonaws.com/east1.public.rsna.org/AI/2018/"
    "pneumonia-challenge-dataset-mappings_2018.json"
)
_PUBLISHED = {
    "default": {
        "images": 26684,
        "Pneumonia": 6012,
        "Normal": 8851,
        "No Lung Opacity / Not Normal": 11821,
        "images PA": 14511,
        "images AP": 12173,
    },
    "mrm": {
        "train images": 25184,
        "validation images": 1500,
        "test images": 3000,
        "Pneumonia": 5789 + 223 + 1094,
    },
    "benchx": {"train images": 18678, "validation images": 4003, "test images": 4003},
}


@dataclasses.dataclass(eq=False, kw_only=True)
class RsnaPneumoniaConfig(RowConfig):
    """The options of `rsna_pneumonia`."""

    lists: str = dataclasses.field(
        default="",
        metadata=option(
            "folder with train_list.txt, val_list.txt and test_list.txt (or train.txt, val.txt, "
            "test.txt): on each line an image, and its label where it is one of the test images"
        ),
    )
    nih_mapping: str = dataclasses.field(
        default="",
        metadata=option(
            "pneumonia-challenge-dataset-mappings_2018.json: patients are NIH's and in one "
            "split only, for which lists lose validation and test images"
        ),
    )
    nih_lists: str = dataclasses.field(
        default="",
        metadata=option(
            "NIH's train_val_list.txt: images of its patients are left out of validation and test, "
            "since a model pretrained on it has seen them; needs --nih-mapping"
        ),
    )


class Builder(RowBuilder):
    """One image is one study; the challenge's patientId names an image, several a patient."""

    DESCRIPTION = """
    26,684 frontal radiographs (the training set of stage 2) out of NIH ChestX-ray14, with boxes
    around opacities that radiologists take for pneumonia, and the classes "Normal" and "No Lung
    Opacity / Not Normal" of the rest. The config default splits them into 70 % train, 15 %
    validation and 15 % test by a hash of the patient; the configs mrm and benchx have published
    lists. None of these test sets compares with another. The challenge's ids name images: only with
    nih_mapping are patients known, and disjoint between splits; to that end published lists lose
    the validation and test images whose patient is in train, and the validation images whose
    patient is in test. With nih_lists, validation and test lose all images of patients in NIH's
    training list. What is left out so is in rejected.csv and does not count as an error. Views,
    ages (over 120 left out) and sexes are from the DICOM headers.
    """
    LICENCE = (
        "RSNA: research, education and other use, also commercial; acknowledge the RSNA and the "
        "NIH Clinical Center and cite the paper. Kaggle's copy is under the competition's rules"
    )
    HOMEPAGE = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"
    CITATION = (
        "Shih et al., Augmenting the National Institutes of Health chest radiograph dataset with "
        "expert annotations of possible pneumonia, Radiology: Artificial Intelligence 2019, "
        "https://doi.org/10.1148/ryai.2019180041"
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    From {HOMEPAGE}/data: {_ARCHIVE}, or what it holds: stage_2_train_labels.csv,
    stage_2_detailed_class_info.csv, and the folder {TRAIN_FOLDER}. For the config mrm also
    the folder {TEST_FOLDER}, and a folder mrm with train_list.txt, val_list.txt and test_list.txt
    from https://github.com/RL4M/MRM-pytorch/tree/main/DatasetsSplits/RSNA_Pneumonia; for the config
    benchx a folder benchx with train.txt, val.txt and test.txt from
    https://github.com/yangzhou12/BenchX/tree/main/preprocess/datasets/RSNA; for --nih-mapping
    {_MAPPING_URL}
    """
    LABEL_NAMES = LABELS
    BUILDER_CONFIGS = [
        RsnaPneumoniaConfig(name="default", description="70/15/15 % by a hash of the patient."),
        RsnaPneumoniaConfig(
            name="mrm",
            description="The lists of MRM and MaCo, in ConVIRT's sizes; stage 2's test images.",
            lists="mrm",
        ),
        RsnaPneumoniaConfig(
            name="benchx", description="BenchX's stratified lists, 70/15/15 %.", lists="benchx"
        ),
    ]
    builder_config: RsnaPneumoniaConfig

    @property
    def published(self) -> Mapping[str, int]:
        """The authors' totals; nothing is known of other lists or of what is left by NIH's."""
        if self.builder_config.nih_lists:
            return {}
        if not self.builder_config.lists:
            return _PUBLISHED["default"]
        return _PUBLISHED.get(self.builder_config.name, {})

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """A row for each image of the training table, or of the lists."""
        config, manual_dir = self.builder_config, Path(dl_manager.manual_dir)
        if config.nih_lists and not config.nih_mapping:
            raise UserError("nih_lists needs nih_mapping, which says what NIH's images are")
        root = _root(manual_dir, Path(dl_manager.download_dir) / "rsna_pneumonia")
        labelled, rejected = read_labelled_images(root)
        found: Iterable[RsnaImage | Rejection] = all_images(labelled)
        if config.lists:
            lists = find_split_lists(given_path(manual_dir, config.lists))
            found = listed_images(read_split_lists(lists), labelled)
        if config.nih_mapping:
            mapping = read_nih_mapping(given_path(manual_dir, config.nih_mapping))
            found = with_nih_images(found, mapping)
        found = list(found)
        rejected += [image for image in found if isinstance(image, Rejection)]
        images = [with_split(image) for image in found if isinstance(image, RsnaImage)]
        seen = NihTraining(given_path(manual_dir, config.nih_lists)) if config.nih_lists else None
        reasons = unfair_reasons(images, seen)
        unfair = [
            Rejection(image.number, image.path, reason)
            for image, reason in zip(images, reasons, strict=True)
            if reason
        ]
        fair = [image for image, reason in zip(images, reasons, strict=True) if not reason]
        headers = read_headers(root / image.path for image in fair)
        source = self.checked(root, [*map(_row, fair, headers), *rejected])
        return source._replace(left_out=unfair)


def _root(manual_dir: Path, unpack_into: Path) -> Path:
    """The folder with the tables and images, unpacked if only Kaggle's archive is there."""
    archive = manual_dir / _ARCHIVE
    unpacked = (manual_dir / BOX_TABLE).exists() or not archive.exists()
    return manual_dir if unpacked else unpack(archive, unpack_into)


def _row(image: RsnaImage, header: Header) -> Row:
    return Row(
        number=image.number,
        split=image.split,
        patient_id=image.patient_id,
        study_id=image.image_id,
        image_path=image.path,
        view=header.view,
        labels=image.labels,
        boxes=image.boxes,
        attributes={"age": header.age, "sex": header.sex, "nih_image": image.nih_image},
    )
