"""ConVIRT (Zhang et al., arXiv 2010.00747): InfoNCE between an image and a sentence of its report.

    medclip-jax pretrain --config configs/convirt.py --workdir runs/convirt

`:demo` is a small model for the synthetic set on two CPU cores; `:small` one for some hundred
real pairs. Values without a comment are the paper's (sections 3 and 4, appendix A).
"""

from ml_collections import ConfigDict

from medclip_jax.config import base_config
from medclip_jax.errors import UserError


def get_config(variant: str = "") -> ConfigDict:
    """The paper's values, or those of a variant: "", "demo" or "small"."""
    if variant not in ("", "demo", "small"):
        raise UserError(f"convirt.py has no variant {variant!r}; there are demo and small")
    config = base_config()
    config.num_steps = 1_000_000  # stops after 200 evaluations
    config.batch_size = 32
    config.evaluate_every = 5000
    config.checkpoint_every = 1000  # our default
    config.log_every = 50  # our default

    config.objectives.contrastive.image_to_text_weight = 0.75
    config.temperature.init = 0.1
    config.temperature.learnable = False
    config.projection.size = 512
    config.projection.kind = "nonlinear"

    config.image_encoder.name = "resnet50"
    config.text_encoder.name = "bert"  # BERT-base, from ClinicalBERT in the paper
    config.text_encoder.pooling = "max"
    config.text_encoder.max_length = 128  # our default

    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 1e-6
    config.optimizer.decoupled_weight_decay = False  # Adam with L2, as PyTorch's
    config.optimizer.frozen = (r"text_encoder/(embeddings|layer_[0-5])/",)
    config.schedule.name = "plateau"
    config.schedule.factor = 0.5
    config.schedule.patience = 5
    config.compute_dtype = "bfloat16"  # the paper: mixed precision

    config.data.dataset = "mimic_cxr"
    config.data.image_size = 256  # the longer side
    config.data.validation_examples = 5000
    config.tokenizer.vocab_size = 28996  # ClinicalBERT's
    return _small(config, variant) if variant else config


def _small(config: ConfigDict, variant: str) -> ConfigDict:
    """A small model from scratch on two CPU cores; all its values are our default."""
    config.optimizer.frozen = ()
    config.compute_dtype = "float32"
    config.image_encoder.name = "resnet18"
    config.image_encoder.width = 16
    config.text_encoder.update(
        hidden_size=128, num_layers=2, num_heads=4, intermediate_size=256, pooling="mean"
    )
    config.projection.size = 128
    config.tokenizer.vocab_size = 1024
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 50
    config.optimizer.learning_rate = 1e-3
    config.data.image_size = 128
    config.batch_size = 64
    config.log_every = 20
    # The paper's ranges are made for a million steps; some hundred do not reach past them.
    config.augmentation.update(
        crop_size=112,
        crop_area=(0.85, 1.0),
        rotation_degrees=8.0,
        translation=0.05,
        brightness=(0.8, 1.2),
        contrast=(0.8, 1.2),
        blur_sigma=(0.1, 0.5),
    )
    # Most sentences deny a finding and fit most images: whole reports teach more in few steps.
    config.data.text = "report"
    if variant == "demo":
        config.data.dataset = "synthetic_cxr/demo"
        config.text_encoder.max_length = 80
        config.num_steps = 800
        config.evaluate_every = config.checkpoint_every = 200
    else:
        config.data.dataset = "manifest/pairs"
        config.text_encoder.max_length = 128
        config.num_steps = 200  # some hundred pairs are soon learnt by heart
        config.evaluate_every = config.checkpoint_every = 25
    return config
