"""What is asked of an evaluation task: the split and the task's options."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

# What an option that is a word, or words, may be.
CHOICES = {
    "score": ("embeddings", "matching", "captioning"),
    "schedule": ("plateau", "cosine"),
    "modes": ("linear", "finetune"),
    "method": ("greedy", "beam", "nucleus"),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A split to evaluate on, and how.

    Attributes:
        dataset: `NAME` or `NAME/CONFIG` of a prepared set.
        task: Name of the task.
        split: Its split.
        data_dir: Where prepared sets lie; None is $TFDS_DATA_DIR, else TFDS's default.
        labels: Labels to evaluate (zero-shot, linear-probe); none named is all.
        prompts: JSON file of zero-shot prompts instead of the defaults.
        queries: CSVs of class queries (retrieval): `Variable,Text` or `Variable,Path`.
        candidates: CSV of candidate images of class retrieval, in CheXpert's columns.
        image_root: Folder that `Path` of queries and candidates is relative to; None is each CSV's
            own.
        score: What ranks pairs (retrieval): "embeddings", "matching" or "captioning".
        fractions: Label budgets (linear-probe, finetune, label-efficiency): a share of the training
            studies up to 1, a number of studies above.
        num_seeds: Draws of the label subsets.
        compare: Other checkpoints to draw beside this one (label-efficiency).
        max_epochs: Passes over the images at most (finetune, label-efficiency).
        learning_rate: Of all layers (finetune, label-efficiency).
        schedule: Of that rate: "plateau" or "cosine" (finetune, label-efficiency).
        modes: "linear" and "finetune" (label-efficiency).
        method: "greedy", "beam" or "nucleus" (report-generation).
        scales: Sides of the masked blocks in patches (regeneration).
        ratios: Shares of the patches to mask (regeneration).
        output: Folder for the figures' JSON, and for lists and pictures below it.
        num_resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap, of the random initialisation and of every draw.
        batch_size: Rows of a batch: of the encoders, of fine-tuning, of writing reports.
        tag: What the names of the files end with; the default protocol needs none.
    """

    dataset: str
    task: str = ""
    split: str = "test"
    data_dir: Path | None = None
    labels: tuple[str, ...] = ()
    prompts: Path | None = None
    queries: tuple[Path, ...] = ()
    candidates: Path | None = None
    image_root: Path | None = None
    score: str = "embeddings"
    fractions: tuple[float, ...] = ()
    num_seeds: int = 3
    compare: tuple[Path, ...] = ()
    modes: tuple[str, ...] = ("linear",)
    max_epochs: int = 30
    learning_rate: float = 1e-4
    schedule: str = "plateau"
    method: str = "greedy"
    scales: tuple[int, ...] = (1, 2, 4)
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75)
    output: Path = Path("evaluations")
    num_resamples: int = 1000
    seed: int = 0
    batch_size: int = 64
    tag: str = ""

    @property
    def kind(self) -> str:
        """The task, with the score if it is not that of the embeddings: what files are named by."""
        return self.task if self.score == "embeddings" else f"{self.task}-{self.score}"

    @property
    def name(self) -> str:
        """What the files are called: `TASK-DATASET-SPLIT`, and the tag if there is one."""
        return result_name(self.kind, self.dataset, self.split, self.tag)

    @property
    def folder(self) -> Path:
        """Where lists, figures and pictures beside the JSON go."""
        return self.output / self.name

    @property
    def differences(self) -> dict[str, Any]:
        """The options that make another protocol than the default, with their values.

        Of a file that is its content, so that another file of the same name is another protocol.
        """
        fields = dataclasses.fields(self)
        names = [field.name for field in fields if field.name not in self._not_of_the_protocol]
        default = Request(self.dataset)
        values = {name: getattr(self, name) for name in names}
        return {
            name: _identity(value)
            for name, value in values.items()
            if value != getattr(default, name)
        }

    @property
    def _not_of_the_protocol(self) -> tuple[str, ...]:
        named = ("dataset", "task", "split", "data_dir", "output", "tag", "score")
        return named if self.task in _BY_BATCH_SIZE else (*named, "batch_size")

    def tagged(self) -> "Request":
        """The request with a tag of eight digits from its differences, if it has them and none."""
        differences = self.differences
        if self.tag or not differences:
            return self
        text = json.dumps(differences, sort_keys=True)
        return dataclasses.replace(self, tag=hashlib.sha256(text.encode()).hexdigest()[:8])


# The tasks of which the size of the batches is part of what is done; others only go faster by it.
_BY_BATCH_SIZE = ("finetune", "label-efficiency", "report-generation")


def result_name(kind: str, dataset: str, split: str, tag: str = "") -> str:
    """The name of the files of a result, without their endings."""
    name = f"{kind}-{dataset.replace('/', '_')}-{split}"
    return f"{name}-{tag}" if tag else name


def _identity(value: Any) -> Any:
    """What is the same for equal options, in JSON's types; of a file the hash of its content."""
    if isinstance(value, tuple):
        return [_identity(item) for item in value]
    if isinstance(value, Path):
        if value.is_file():
            return f"sha256:{hashlib.sha256(value.read_bytes()).hexdigest()}"
        return os.path.abspath(value)
    return value
