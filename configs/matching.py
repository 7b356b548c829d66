"""Image-text matching (Liang et al., arXiv 2010.03060): does this report belong to this image?

    medclip-jax pretrain --config configs/matching.py --workdir runs/matching

The paper's abstract gives the task and its encoders, ResNet-18 and BERT; no code is public. What
it does not say is "our default", with the public source that it is taken from.
"""

from ml_collections import ConfigDict

from medclip_jax.config import base_config
from medclip_jax.small_config import check_variant, only_shift, shrink


def get_config(variant: str = "") -> ConfigDict:
    """The full size, or a variant: "", "demo" or "small"."""
    check_variant("matching.py", variant)
    config = base_config()
    config.objectives.contrastive.weight = 0.0
    config.objectives.matching.weight = 1.0
    # Our default, MedViLL's (data/dataset_origin.py): a report with the same labels is no negative.
    config.objectives.matching.negatives = "label_aware"
    # Our default: the binary loss that ConVIRT's paper compares with (appendix B): each encoding is
    # projected linearly, and a network with one hidden layer judges the pair.
    config.objectives.matching.kind = "binary"
    config.projection.kind = "linear"
    config.projection.size = 512
    config.matching_head.hidden_size = 512

    config.image_encoder.name = "resnet18"
    config.text_encoder.name = "bert"
    config.text_encoder.pooling = "max"  # our default, ConVIRT's
    config.text_encoder.max_length = 320  # our default, Liao et al.'s (mutual_info_img_txt)

    # Our default, Liao et al.'s: Adam with 5e-4 for the images, AdamW with 2e-5, decay 0.1 and a
    # warm-up of 10 % for BERT.
    config.num_steps = 200_000  # our default
    config.batch_size = 64  # our default
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 0.1
    config.optimizer.learning_rate_multipliers = ((r"^text_encoder/", 0.04),)
    config.optimizer.weight_decay_multipliers = ((r"^(?!text_encoder/)", 0.0),)
    config.schedule.name = "cosine"  # our default
    config.schedule.warmup_steps = 20_000
    config.compute_dtype = "bfloat16"  # our default
    config.log_every = 50
    config.evaluate_every = 5000
    config.checkpoint_every = 1000

    config.data.dataset = "mimic_cxr"  # our default: the paper's abstract names no set
    config.data.text = "report"
    config.data.image_size = 256
    config.data.validation_examples = 5000
    config.tokenizer.vocab_size = 28996  # ClinicalBERT's
    if variant:
        shrink(config, variant)
        config.projection.kind = "linear"
        config.optimizer.learning_rate_multipliers = ()
        config.optimizer.weight_decay_multipliers = ()
        config.optimizer.weight_decay = 0.0
        config.matching_head.hidden_size = 128
    if variant == "demo":
        only_shift(config, 112)
        config.num_steps = 1100
        config.evaluate_every = config.checkpoint_every = 220
    if variant == "small":
        config.objectives.matching.negatives = "random"  # the pairs have no labels
    return config
