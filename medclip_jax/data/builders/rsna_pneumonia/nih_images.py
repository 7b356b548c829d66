"""Which image of NIH ChestX-ray14 each image of the challenge is, and what that rules out."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medclip_jax.data.builders.nih_chestxray14.finding_tables import patient_of
from medclip_jax.data.builders.split_lists import read_split_lists
from medclip_jax.data.table import read_table
from medclip_jax.errors import UserError

_KEYS = ("subset_img_id", "img_id")


def read_nih_mapping(path: Path) -> dict[str, str]:
    """The challenge's id to NIH's image name, "00000001_000.png".

    Args:
        path: `pneumonia-challenge-dataset-mappings_2018.json` as RSNA distributes it, an array of
            objects, or a table with its columns subset_img_id and img_id.

    Raises:
        UserError: the file cannot be read, has no such fields, or contradicts itself.
    """
    if path.suffix.lower() == ".json":
        entries: Iterable[Mapping[str, Any]] = _read_json(path)
    else:
        entries = (row.cells for row in read_table(path, _KEYS, ()).rows)
    mapping: dict[str, str] = {}
    for entry in entries:
        image_id, name = (str(entry[key]) for key in _KEYS)
        if patient_of(name) is None:
            raise UserError(f"{path}: {image_id} is {name!r}, not like 00000001_000.png")
        if mapping.setdefault(image_id, name) != name:
            raise UserError(f"{path}: {image_id} is {mapping[image_id]} and {name}")
    return mapping


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON, or cut short ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: not an array of objects with {' and '.join(_KEYS)}")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not all(key in entry for key in _KEYS):
            raise UserError(f"{path}: entry {number} has no {' and '.join(_KEYS)}")
    return entries


class NihTraining:
    """The images and patients that a model pretrained on a list of NIH's images has seen."""

    def __init__(self, path: Path) -> None:
        """Reads `train_val_list.txt`, or another list with an image on each line.

        Raises:
            UserError: the list cannot be read, or a line names no image of NIH's.
        """
        self._list = path.name
        self._images, self._patients = set(), set()
        for line in read_split_lists({"train": path}):
            name = Path(line.name).name
            patient = patient_of(name)
            if patient is None:
                raise UserError(f"{path}: {line.where} is {name!r}, not like 00000001_000.png")
            self._images.add(name)
            self._patients.add(patient)

    def reason(self, nih_image: str) -> str:
        """Why an image is no fair test of such a model, or ""."""
        if nih_image in self._images:
            return f"in NIH's training list ({self._list}, {nih_image})"
        if patient_of(nih_image) in self._patients:
            return f"its patient is in NIH's training list ({self._list}, {nih_image})"
        return ""
