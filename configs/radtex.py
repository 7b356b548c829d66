"""RadTex (Quigley et al., arXiv 2208.03218): write the report of an image, in both directions.

    medclip-jax pretrain --config configs/radtex.py --workdir runs/radtex

A convolutional encoder and a transformer decoder are trained together; the encoder is what is
wanted. The paper's abstract says no more and no code is public: "VirTex" marks what is taken from
its template (Desai & Johnson, arXiv 2006.06666, configs/_base_bicaptioning_R_50_L1_H1024.yaml),
"our default" what is neither.
"""

from ml_collections import ConfigDict

from medclip_jax.config import base_config
from medclip_jax.small_config import check_variant, only_shift, shrink


def get_config(variant: str = "") -> ConfigDict:
    """The full size, or a variant: "", "demo" or "small"."""
    check_variant("radtex.py", variant)
    config = base_config()
    config.objectives.contrastive.weight = 0.0
    config.objectives.captioning.weight = 1.0
    config.objectives.captioning.backward = True

    config.image_encoder.name = "resnet50"  # VirTex
    config.text_encoder.name = "none"  # reports are written, not read
    config.text_encoder.max_length = 128  # our default; 100 in REFERS, a fork for radiographs
    config.caption_decoder.update(  # VirTex
        hidden_size=1024, num_layers=1, num_heads=16, intermediate_size=4096, dropout_rate=0.1
    )
    config.tokenizer.vocab_size = 10_000  # VirTex, but WordPiece

    # VirTex trains 500,000 steps of 256 by SGD with Lookahead; our default is AdamW.
    config.num_steps = 500_000
    config.batch_size = 256
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 10.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 10_000
    config.compute_dtype = "bfloat16"  # VirTex: mixed precision
    config.log_every = 50
    config.evaluate_every = 5000
    config.checkpoint_every = 1000

    config.data.dataset = "mimic_cxr"  # our default: the abstract names no set
    config.data.text = "report"
    # The group's later paper (arXiv 2310.19635) finds that reports without priors teach more.
    config.data.remove_priors = True
    config.data.image_size = 256
    config.data.validation_examples = 5000
    if variant:
        shrink(config, variant)
        config.optimizer.clip_norm = 1.0
        config.optimizer.learning_rate = 2e-3
        config.caption_decoder.update(
            hidden_size=128, num_heads=4, intermediate_size=256, dropout_rate=0.0
        )
    if variant == "demo":
        # The impression states every finding in one order: less to learn of language.
        config.data.sections = ("impression",)
        config.text_encoder.max_length = 40
        only_shift(config, 112)
        config.num_steps = 1000
        config.evaluate_every = config.checkpoint_every = 250
    return config
