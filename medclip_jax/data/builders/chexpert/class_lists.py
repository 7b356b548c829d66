"""The lists 5x200 (GLoRIA, ICCV 2021) and 8x200 (ConVIRT, arXiv 2010.00747) of training images.

Each has, for each class, 200 frontal images that are positive for this class alone. An image is
that if CheXpert's labeler gave 1 to this one of the fourteen labels, and 0 or nothing to all
others: where another is uncertain (-1) the image is no example. GLoRIA's own program and ConVIRT's
published list have it so. Neither can be drawn again, having no seed, so results on these lists
compare with others on the same lists only.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from medclip_jax.data.builders.chexpert.image_paths import ImagePath, parse_image_path
from medclip_jax.data.chexpert_labels import CHEXPERT_LABELS, label_values, uncertain_values
from medclip_jax.data.table import TableRow
from medclip_jax.errors import UserError

# In the order in which they are drawn: of Pneumonia there are hardly 300 images in all.
CLASS_LISTS = {
    "8x200": (
        "No Finding",
        "Cardiomegaly",
        "Edema",
        "Pneumonia",
        "Atelectasis",
        "Pneumothorax",
        "Pleural Effusion",
        "Fracture",
    ),
    "5x200": ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"),
}
IMAGES_PER_CLASS = 200


class Drawn(NamedTuple):
    """The list that an image is drawn for, and the class that it stands for there."""

    class_list: str
    label: str


def parse_class_lists(names: str) -> tuple[str, ...]:
    """The lists that an option names: "", "5x200", "8x200" or "5x200,8x200".

    Raises:
        UserError: there is no such list.
    """
    wanted = tuple(name.strip() for name in names.split(",") if name.strip())
    for name in wanted:
        if name not in CLASS_LISTS:
            raise UserError(f"no list is called {name!r}; there are: {', '.join(CLASS_LISTS)}")
    return wanted


def draw_class_lists(
    rows: Iterable[TableRow], wanted: Sequence[str], seed: int
) -> dict[ImagePath, Drawn]:
    """The images of the wanted lists.

    The images with the smallest hashes of seed and path are taken, so that neither the order of
    the rows nor the size of the images matters. 5x200 is drawn from the patients that 8x200 leaves,
    also where 8x200 is not wanted: a list is the same with and without the other, and no patient
    is in both.

    Args:
        rows: those of CheXpert's train.csv.
        wanted: names from `CLASS_LISTS`.
        seed: another seed gives other lists.

    Raises:
        UserError: a wanted list has a class with too few images.
    """
    pools = _exclusive_images(rows)
    drawn: dict[ImagePath, Drawn] = {}
    patients: set[str] = set()
    for name, labels in CLASS_LISTS.items():
        chosen = {label: _draw(pools[label], patients, seed) for label in labels}
        patients = {image.study.patient for images in chosen.values() for image in images}
        if name not in wanted:
            continue
        for label, images in chosen.items():
            if len(images) < IMAGES_PER_CLASS:
                raise UserError(
                    f"{name} needs {IMAGES_PER_CLASS} images of {label} alone; the training images "
                    f"have {len(images)}"
                )
            drawn.update({image: Drawn(name, label) for image in images})
    return drawn


def _exclusive_images(rows: Iterable[TableRow]) -> dict[str, list[ImagePath]]:
    """The frontal images with exactly one positive label and no uncertain one, by that label."""
    unknown = uncertain_values("ignore")
    pools: dict[str, list[ImagePath]] = {label: [] for label in CHEXPERT_LABELS}
    for row in rows:
        path = parse_image_path(row.cells["Path"])
        values = label_values(row.cells, unknown, blank=0.0)
        if row.problem or path is None or isinstance(values, str):
            continue
        # An uncertain label is NaN, and so is then the sum.
        if row.cells["Frontal/Lateral"] == "Frontal" and sum(values) == 1:
            pools[CHEXPERT_LABELS[values.index(1)]].append(path)
    return pools


def _draw(pool: Sequence[ImagePath], excluded: set[str], seed: int) -> list[ImagePath]:
    """As many images of a pool as a list needs, none of them of an excluded patient."""

    def order(image: ImagePath) -> bytes:
        return hashlib.sha256(f"{seed} {image.study}/{image.view}".encode()).digest()

    left = {image for image in pool if image.study.patient not in excluded}
    return sorted(left, key=order)[:IMAGES_PER_CLASS]
