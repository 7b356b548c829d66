"""A picture of some images: original, masked, regenerated, and what the baselines make of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from medclip_jax.evaluate.encode import MaskedEncoder, Studies, StudyTable
from medclip_jax.evaluate.regenerated_pixels import BASELINES, PatchMasks
from medclip_jax.evaluate.regeneration_errors import ERRORS, masked_errors

IMAGES_PER_SCALE = 2
_INK, _FAINT, _HIDDEN = "#20242a", "#7a818b", (0.85, 0.87, 0.90)


@dataclasses.dataclass(frozen=True)
class Row:
    """One image: what was hidden of it, and of each method what it made of it.

    Attributes:
        name: The scale and ratio.
        view: The image as the model sees it.
        is_masked: Its hidden pixels.
        made: The regenerated image by the method's title.
    """

    name: str
    view: Float[np.ndarray, "size size"]
    is_masked: Bool[np.ndarray, "size size"]
    made: dict[str, Float[np.ndarray, "size size"]]


def draw_picture(
    path: Path,
    encoder: MaskedEncoder,
    studies: Studies,
    table: StudyTable,
    masks: PatchMasks,
    with_report: bool,
) -> None:
    """Writes a PNG with `IMAGES_PER_SCALE` images for each scale, at its middle ratio.

    The images are spread evenly over the table, so that they do not depend on how they turn out.
    """
    conditions = _middle_conditions(masks)
    count = IMAGES_PER_SCALE * len(conditions)
    images = np.linspace(0, len(table.image_study) - 1, count).round().astype(int)
    rows = [
        _make_row(encoder, studies, table, masks, with_report, condition, image)
        for condition, image in zip(np.repeat(conditions, IMAGES_PER_SCALE), images, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"font.size": 8, "text.color": _INK}):
        _draw(rows).savefig(path, dpi=160, facecolor="white")


def _middle_conditions(masks: PatchMasks) -> list[int]:
    scales = dict.fromkeys(scale for scale, _ in masks.conditions)
    ratios = sorted({ratio for _, ratio in masks.conditions})
    middle = ratios[len(ratios) // 2]
    return [masks.conditions.index((scale, middle)) for scale in scales]


def _make_row(
    encoder: MaskedEncoder,
    studies: Studies,
    table: StudyTable,
    masks: PatchMasks,
    with_report: bool,
    condition: int,
    image: int,
) -> Row:
    study = table.image_study[image]
    stored = studies.read([int(table.rows[study])])[0].images[table.image_number[image]]
    mask = masks.masks[condition, image][None]
    view = encoder.view([stored])
    is_masked = masks.pixels(mask, view.shape[1])
    made = {"without report": encoder.regenerate([stored], mask, None)}
    if with_report:
        made["with report"] = encoder.regenerate([stored], mask, [table.texts[study]])
    for name, fill in BASELINES.items():
        made[name.replace("_", " ")] = fill(view, is_masked)
    scale, ratio = masks.conditions[condition]
    name = f"blocks of {scale} × {scale} patches\n{ratio:.0%} masked"
    return Row(name, view[0], is_masked[0], {title: pixels[0] for title, pixels in made.items()})


def _draw(rows: Sequence[Row]) -> Figure:
    titles = ["original", "masked", *rows[0].made]
    figure = Figure(figsize=(1.5 * len(titles) + 0.5, 1.68 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        line[0].set_ylabel(row.name, color=_FAINT)
        hidden = np.where(row.is_masked[..., None], _HIDDEN, row.view[..., None])
        for panel, pixels in zip(line, [row.view, hidden, *row.made.values()], strict=True):
            panel.imshow(np.clip(pixels, 0, 1), cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        for panel, pixels in zip(line[2:], row.made.values(), strict=True):
            panel.set_xlabel(_psnr(row, pixels), color=_FAINT, labelpad=2)
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title)
    return figure


def _psnr(row: Row, pixels: Float[np.ndarray, "size size"]) -> str:
    errors = masked_errors(row.view[None], pixels[None], row.is_masked[None])[0]
    return f"{errors[ERRORS.index('psnr')]:.1f} dB"
