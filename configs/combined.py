"""All in one step: contrastive, matching, masked and captioning objectives on shared encodings.

    medclip-jax pretrain --config configs/combined.py --workdir runs/combined

No paper trains this set; each part is that of a published system, and all values are our default
but those that a comment gives a source for.
"""

from ml_collections import ConfigDict

from medclip_jax.config import base_config
from medclip_jax.small_config import check_variant, only_shift, shrink


def get_config(variant: str = "") -> ConfigDict:
    """The full size, or a variant: "", "demo" or "small"."""
    check_variant("combined.py", variant)
    config = base_config()
    config.objectives.contrastive.weight = 1.0
    config.objectives.matching.weight = 1.0
    config.objectives.matching.negatives = "hard"  # ALBEF, arXiv 2107.07651
    config.objectives.masked_language.weight = 1.0
    config.objectives.masked_vision.weight = 1.0
    config.objectives.masked_vision.ratios = (0.5,)  # one ratio: only visible patches are encoded
    config.objectives.captioning.weight = 0.5

    config.image_encoder.name = "vit_base"
    config.text_encoder.update(name="bert", num_layers=6)  # ALBEF: half of BERT-base ...
    config.fusion.update(
        num_layers=6, hidden_size=768, num_heads=12
    )  # ... and six layers of fusion
    config.projection.kind = "linear"
    config.projection.size = 256  # ALBEF
    config.caption_decoder.update(
        hidden_size=768, num_layers=1, num_heads=12, intermediate_size=3072
    )

    config.num_steps = 100_000
    config.batch_size = 256
    config.optimizer.learning_rate = 1e-4  # ALBEF
    config.optimizer.weight_decay = 0.02  # ALBEF
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 2000
    config.compute_dtype = "bfloat16"
    config.log_every = 50
    config.evaluate_every = 5000
    config.checkpoint_every = 1000

    config.data.dataset = "mimic_cxr"
    config.data.text = "report"
    config.data.image_size = 256
    config.data.validation_examples = 5000
    config.tokenizer.vocab_size = 30522
    if variant:
        _shrink(config, variant)
    return config


def _shrink(config: ConfigDict, variant: str) -> None:
    shrink(config, variant)
    config.image_encoder.update(
        name="vit", hidden_size=128, num_layers=4, num_heads=4, patch_size=16
    )
    config.fusion.update(num_layers=2, hidden_size=128, num_heads=4)
    config.matching_head.hidden_size = 128
    config.caption_decoder.update(hidden_size=128, num_heads=4, intermediate_size=256)
    if variant == "demo":
        config.data.sections = ("impression",)
        config.text_encoder.max_length = 32
        only_shift(config, 80)
        config.num_steps = 600
