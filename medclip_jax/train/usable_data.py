"""Whether the data gives every objective something to learn or to measure, found out at the start.

A loss over nothing is 0 and finite: a run without a single whole pair, or with one text for all
images, would end as if it had learned. The studies are gone through only until all that is needed
was seen, which in sound data is at the second.
"""

import dataclasses
import itertools

from ml_collections import ConfigDict

from medclip_jax import objectives
from medclip_jax.data import pipeline
from medclip_jax.data.reports import normalize_sentence
from medclip_jax.data.tokenizer import Tokenizer
from medclip_jax.errors import UserError


def views_per_study(config: ConfigDict) -> int:
    """Rows of a batch that show one study: several if an objective compares views."""
    multi_view = config.objectives.multi_view_contrastive
    return multi_view.views if multi_view.weight else 1


def check_training_data(config: ConfigDict, tokenizer: Tokenizer) -> None:
    """Raises a UserError where an active objective has nothing to learn from the training data."""
    found = nothing_to_learn(config, pipeline.TRAIN, tokenizer, config.batch_size)
    for name, reason in found.items():
        raise UserError(
            f"config.objectives.{name} has nothing to learn: {reason}; give other data, or set its "
            "weight to 0"
        )


def nothing_to_learn(
    config: ConfigDict, split: str, tokenizer: Tokenizer, batch_size: int
) -> dict[str, str]:
    """The active objectives that have nothing to learn or to measure in a split, and why.

    Args:
        config: of the run.
        split: "train" or "validation".
        tokenizer: texts that it cannot tell apart are one.
        batch_size: rows that a batch shows.
    """
    seen = _Seen()
    names = list(objectives.active(config.objectives))
    for study in itertools.chain([None], pipeline.contents(config.data, split)):
        if study is not None:
            seen.add(study, tokenizer, config.text_encoder.max_length)
        if not any(_missing(name, seen, config) for name in names):
            break
    alone = batch_size // views_per_study(config) < 2
    missing = {name: _missing(name, seen, config) for name in names}
    for name in names:
        if alone and objectives.OBJECTIVES[name].count_fn is None:
            missing[name] = "a batch shows a single study, so there is nothing to compare it with"
    return {name: reason for name, reason in missing.items() if reason}


@dataclasses.dataclass
class _Seen:
    """What was met in the studies so far; of things that must differ, two are enough."""

    images: int = 0
    texts: int = 0
    pairs: int = 0
    sayings: set[str] = dataclasses.field(default_factory=set)
    tokens: set[bytes] = dataclasses.field(default_factory=set)
    labels_of_pairs: set[frozenset[str]] = dataclasses.field(default_factory=set)
    labels: set[frozenset[str]] = dataclasses.field(default_factory=set)
    labelled_images: int = 0
    labelled_texts: int = 0

    def add(self, study: pipeline.Content, tokenizer: Tokenizer, max_length: int) -> None:
        has_text = bool(study.texts)
        self.images += study.has_image
        self.texts += has_text
        if study.labels:
            self.labelled_images += study.has_image
            self.labelled_texts += has_text
            self.labels.add(study.labels)
        if not (study.has_image and has_text):
            return
        self.pairs += 1
        self.labels_of_pairs.add(study.labels)
        for text in study.texts:
            if len(self.sayings) < 2:
                self.sayings.add(normalize_sentence(text))
            if len(self.tokens) < 2:
                self.tokens.add(tokenizer.encode_batch([text], max_length)[0].tobytes())


def _missing(name: str, seen: _Seen, config: ConfigDict) -> str | None:
    """What an objective would need and has not seen."""
    if name == "masked_vision":
        return None if seen.images else "no study has an image"
    if name == "masked_language":
        return None if seen.texts else "no study has a text"
    if name == "soft_contrastive":
        return _missing_labels(seen)
    if not seen.pairs:
        return "no study has both an image and a text"
    if name == "captioning":
        return None
    if seen.pairs == 1:
        return "only one study has both an image and a text"
    if len(seen.sayings) < 2:
        return "all texts say the same"
    if len(seen.tokens) < 2:
        return "the tokenizer makes the same tokens of all texts"
    by_label = name == "matching" and config.objectives.matching.negatives == "label_aware"
    if by_label and len(seen.labels_of_pairs) < 2:
        return "all studies have the same labels"
    return None


def _missing_labels(seen: _Seen) -> str | None:
    for count, what in ((seen.labelled_images, "an image"), (seen.labelled_texts, "a text")):
        if not count:
            return f"no study with {what} has a label that is present"
    return None if len(seen.labels) > 1 else "all studies have the same labels"
