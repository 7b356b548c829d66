"""What is asked of an evaluation task: the split and the task's options."""

import dataclasses
from pathlib import Path

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

    @property
    def kind(self) -> str:
        """The task, with the score if it is not that of the embeddings: what files are named by."""
        return self.task if self.score == "embeddings" else f"{self.task}-{self.score}"

    @property
    def folder(self) -> Path:
        """Where lists, figures and pictures beside the JSON go."""
        return self.output / f"{self.kind}-{self.dataset.replace('/', '_')}-{self.split}"
