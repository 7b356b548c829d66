"""What is asked of an evaluation task: the split and the task's options."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Request:
    """A split to evaluate on, and how.

    Attributes:
        dataset: `NAME` or `NAME/CONFIG` of a prepared set.
        split: Its split.
        data_dir: Where prepared sets lie; None is $TFDS_DATA_DIR, else TFDS's default.
        labels: Labels to evaluate (zero-shot, linear-probe); none named is all.
        prompts: JSON file of zero-shot prompts instead of the defaults.
        queries: CSVs of class queries (retrieval): `Variable,Text` or `Variable,Path`.
        image_root: Folder that `Path` of the queries is relative to; None is each CSV's own.
        num_resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap and of the random initialisation.
    """

    dataset: str
    split: str = "test"
    data_dir: Path | None = None
    labels: tuple[str, ...] = ()
    prompts: Path | None = None
    queries: tuple[Path, ...] = ()
    image_root: Path | None = None
    num_resamples: int = 1000
    seed: int = 0
