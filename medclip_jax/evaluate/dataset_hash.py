"""What tells the data that figures were made on from all other."""

import hashlib

import numpy as np

from medclip_jax.evaluate.encode import Studies, every_study


def hash_studies(studies: Studies) -> str:
    """The SHA-256 of all studies of a split in order: ids, images as stored, report and labels.

    Not of the prepared set's files, which differ from build to build of the same data, and not of
    ids alone, since images may be prepared otherwise and reports read otherwise.
    """
    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "little"))  # tells ("ab", "c") from ("a", "bc")
        digest.update(part)

    for name in studies.label_names:
        add(name.encode())
    for study in every_study(studies):
        for text in (study.study_id, study.patient_id, study.report):
            add(text.encode())
        add(np.asarray(study.labels, "<f4").tobytes())
        add(len(study.images).to_bytes(8, "little"))
        for image in study.images:
            add(image)
    return digest.hexdigest()
