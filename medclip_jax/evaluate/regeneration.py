"""The `regeneration` task: what a model makes of what is hidden of an image, or of a report.

Patches of every image are hidden, for each scale and ratio by masks from a fixed seed, and the
errors of the regenerated pixels stand beside those of two baselines on the same masks. A model that
fills gaps of reports is asked for those too (`masked_words`). A model may have either part.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from medclip_jax.errors import UserError
from medclip_jax.evaluate.encode import MaskedEncoder, Studies, StudyTable, read_table
from medclip_jax.evaluate.join import join
from medclip_jax.evaluate.masked_words import evaluate_words
from medclip_jax.evaluate.regenerated_pixels import PatchMasks, evaluate_pixels
from medclip_jax.evaluate.regeneration_picture import draw_picture
from medclip_jax.evaluate.request import Request
from medclip_jax.evaluate.result import EvaluationResult, figures_go_on
from medclip_jax.finite import NotFiniteError


def evaluate(
    encoder: MaskedEncoder, open_studies: Callable[[str], Studies], request: Request
) -> EvaluationResult:
    """Regenerates pixels, words or both, whatever the model can, and draws some of the images.

    Raises:
        UserError: the model can do neither, the set has not what it takes, or a scale or a ratio
            does not fit the patches of the model.
    """
    studies = open_studies(request.split)
    table = read_table(studies, tuple(encoder.config.data.sections))
    refusals = _refusals(encoder, studies, table)
    parts: list[EvaluationResult] = []
    notes: dict[str, Any] = {"left_out": refusals}
    if "pixels" not in refusals:
        with_report = "report" not in refusals
        masks = PatchMasks.draw(encoder.patch_grid, len(table.image_study), request)
        parts.append(evaluate_pixels(encoder, studies, table, masks, with_report, request))
        notes["picture"] = request.folder / "regenerated.png"
        with figures_go_on(notes["picture"]):
            draw_picture(notes["picture"], encoder, studies, table, masks, with_report)
    if "words" not in refusals:
        parts.append(evaluate_words(encoder, studies, table, request))
        notes["words"] = parts[-1].protocol
    if not parts:
        raise UserError(f"{refusals['pixels']}; {refusals['words']}")
    return join(parts, notes)


def _refusals(encoder: MaskedEncoder, studies: Studies, table: StudyTable) -> dict[str, str]:
    """Of "pixels", "report" and "words" those that the model or the set lacks, and why."""
    image = studies.read(table.rows[:1].tolist())[0].images[:1]
    texts = [text for text in table.texts if text][:1]
    if not texts:
        refusals = dict.fromkeys(("report", "words"), "no study of the split has a text")
        return refusals | _refusal("pixels", lambda: _regenerate_one(encoder, image, None))
    return (
        _refusal("pixels", lambda: _regenerate_one(encoder, image, None))
        | _refusal("report", lambda: _regenerate_one(encoder, image, texts))
        | _refusal("words", lambda: _fill_one(encoder, texts))
    )


def _refusal(name: str, attempt: Callable[[], Any]) -> dict[str, str]:
    try:
        attempt()
    except NotFiniteError:
        raise
    except UserError as error:
        return {name: str(error)}
    return {}


def _regenerate_one(
    encoder: MaskedEncoder, image: Sequence[bytes], texts: Sequence[str] | None
) -> None:
    rows, columns = encoder.patch_grid
    encoder.regenerate(image, np.arange(rows * columns)[None] == 0, texts)


def _fill_one(encoder: MaskedEncoder, texts: Sequence[str]) -> None:
    length = encoder.config.text_encoder.max_length
    token_ids, token_mask = encoder.tokenizer.encode_batch(texts, length)
    encoder.fill_masks(token_ids, token_mask, token_mask, None)
