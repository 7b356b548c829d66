"""What a prepared set holds, as text to read: counts, lengths of texts, labels, rejected rows."""

import collections
import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from etils import epath
from jaxtyping import Int

from medclip_jax.data import build, datasets, reports
from medclip_jax.data.studies import Study
from medclip_jax.data.study_checks import StudyChecks
from medclip_jax.errors import UserError

_TFDS_CATALOG = "https://www.tensorflow.org/datasets/catalog/"  # TFDS's answer where there is none
_MAX_LABELS = 40  # lists of keywords hold hundreds, most of them used once


@dataclasses.dataclass
class SplitCounts:
    """What was counted in a split.

    Attributes:
        silent: studies whose report has neither findings nor impression.
        words: the number of words of each report; `sentences` likewise, of findings and impression.
        labels: int `[num_labels, 3]`, the studies where each is present, absent and unknown.
    """

    studies: int
    patients: int
    images: int
    without_image: int
    without_text: int
    silent: int
    words: list[int]
    sentences: list[int]
    views: collections.Counter[str]
    labels: Int[np.ndarray, "num_labels 3"]


def describe(name: str, data_dir: str | Path | None = None) -> str:
    """A description of a set; a prepared one is read whole, with a progress bar on a terminal.

    Raises:
        UserError: the set is not prepared, and is none of `build.BUILDERS`.
    """
    try:
        builder = datasets.open_builder(name, data_dir)
    except UserError as error:
        return _unprepared(name, data_dir, error)
    splits = [datasets.open_split(name, split, data_dir) for split in builder.info.splits]
    checks = StudyChecks()
    counts = {}
    for split in splits:
        studies = tqdm.tqdm(split, f"Reading {split.split}", disable=None, leave=False)
        watched = checks.watch(split.split, studies)
        counts[split.split] = count_split(watched, len(split.label_names))
    parts = [
        f"{name}, version {builder.version}, in {builder.data_dir}",
        _about(builder.info),
        _published(builder.info.metadata),
        "\n".join([*builder.info.metadata.get("notes", []), *checks.lines()]),
        _table(["", *counts], _count_rows(list(counts.values()))),
        _label_table(counts, splits[0].label_names),
        _rejected(epath.Path(builder.data_dir).parent / "rejected.csv"),
    ]
    return "\n\n".join(part for part in parts if part)


def _unprepared(name: str, data_dir: str | Path | None, error: UserError) -> str:
    """What is known of one of our sets before it is there."""
    set_name, _, config = name.partition("/")
    if set_name not in build.BUILDERS:
        raise error
    cls = build.builder_class(set_name)
    if config and config not in cls.builder_configs:
        raise error
    builder = cls(config=config or None, data_dir=datasets.default_data_dir(data_dir))
    options = build.options_parser(set_name).format_help().strip()
    return "\n\n".join(part for part in (_about(builder.info), options, f"{error}") if part)


def count_split(studies: Iterable[Study], num_labels: int) -> SplitCounts:
    """Counts what the studies hold."""
    patients: set[str] = set()
    counts = SplitCounts(
        studies=0,
        patients=0,
        images=0,
        without_image=0,
        without_text=0,
        silent=0,
        words=[],
        sentences=[],
        views=collections.Counter(),
        labels=np.zeros((num_labels, 3), int),
    )
    for study in studies:
        patients.add(study.patient_id)
        counts.studies += 1
        counts.images += len(study.images)
        counts.without_image += not study.images
        counts.views.update(view or "unknown" for view in study.views)
        if study.report:
            counts.words.append(len(study.report.split()))
            counts.sentences.append(len(reports.report_sentences(study.report)))
            counts.silent += not counts.sentences[-1]
        else:
            counts.without_text += 1
        counts.labels += np.stack(
            [study.labels == 1, study.labels == 0, np.isnan(study.labels)], axis=-1
        )
    counts.patients = len(patients)
    return counts


def _about(info: tfds.core.DatasetInfo) -> str:
    """What is known of the set besides its contents, a line each; what is not known is left out."""
    options = info.metadata.get("options", {})
    lines = {
        "Licence": info.metadata["licence"],
        "Citation": info.citation,
        "Home page": "" if info.homepage.startswith(_TFDS_CATALOG) else info.homepage,
        "How to obtain": info.metadata.get("how_to_obtain"),
        "Options": ", ".join(f"{name}={value}" for name, value in options.items() if value != ""),
    }
    about = [f"{name}: {text}" for name, text in lines.items() if text]
    return "\n".join([info.description.strip(), *about]).strip()


def _published(metadata: Mapping[str, Any]) -> str:
    """What the source's tables list beside what its authors published."""
    listed, published = metadata.get("listed", {}), metadata.get("published", {})
    if not published:
        return ""
    rows = [[what, f"{listed.get(what, 0):,}", f"{total:,}"] for what, total in published.items()]
    return _table(["in the source", "found", "published"], rows)


def _count_rows(counts: Sequence[SplitCounts]) -> list[list[str]]:
    views = sorted(set().union(*(c.views for c in counts)), key=lambda v: -counts[0].views[v])
    return [
        ["patients", *(str(c.patients) for c in counts)],
        ["studies", *(str(c.studies) for c in counts)],
        ["  without image", *(str(c.without_image) for c in counts)],
        ["  without text", *(str(c.without_text) for c in counts)],
        ["  whose text gives nothing", *(str(c.silent) for c in counts)],
        ["images", *(str(c.images) for c in counts)],
        *([f"  view {view}", *(str(c.views[view]) for c in counts)] for view in views),
        ["words a report (5 %, median, 95 %)", *(_quantiles(c.words) for c in counts)],
        ["sentences in findings and impression", *(_quantiles(c.sentences) for c in counts)],
    ]


def _label_table(counts: dict[str, SplitCounts], label_names: Sequence[str]) -> str:
    if not label_names:
        return "No labels."
    present = np.sum([c.labels[:, 0] for c in counts.values()], axis=0)
    shown = np.argsort(-present, kind="stable")[:_MAX_LABELS]
    rows = [
        [label_names[index], *(" / ".join(map(str, c.labels[index])) for c in counts.values())]
        for index in shown
    ]
    table = _table(["label: present / absent / unknown", *counts], rows)
    hidden = len(label_names) - len(shown)
    return f"{table}\n… and {hidden} labels that are present less often" if hidden else table


def _rejected(path: epath.Path) -> str:
    if not path.exists():
        return ""
    rows = csv.DictReader(io.StringIO(path.read_text(), newline=""))
    reasons = collections.Counter(row["reason"] for row in rows)
    lines = [f"  {number}  {reason}" for reason, number in reasons.most_common()]
    return "\n".join([f"Rejected rows: {reasons.total()} ({path})", *lines])


def _quantiles(values: Sequence[int]) -> str:
    return ", ".join(f"{q:.0f}" for q in np.quantile(values, (0.05, 0.5, 0.95))) if values else "-"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two blanks apart: the first to the left, the others to the right."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in table
    )
