"""ConVIRT (Zhang et al., arXiv 2010.00747): InfoNCE between an image and a sentence of its report.

    medclip-jax pretrain --config configs/convirt.py --workdir runs/convirt \
      --config.image_encoder.init=resnet50.pth \
      --config.text_encoder.init=emilyalsentzer/Bio_ClinicalBERT

`:large` has the same model and data in batches for a pod or a cluster; `:demo` is a small model for
the synthetic set on two CPU cores; `:small` one for some hundred real pairs. Values without a
comment are the paper's (sections 3 and 4, appendix A).
"""

import math

from ml_collections import ConfigDict

from medclip_jax.config import base_config
from medclip_jax.small_config import check_variant, shrink


def get_config(variant: str = "") -> ConfigDict:
    """The paper's values, or those of a variant: "", "large", "demo" or "small"."""
    check_variant("convirt.py", variant, "large")
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
    if variant == "large":
        _enlarge(config)
    elif variant:
        shrink(config, variant)
    return config


def _enlarge(config: ConfigDict) -> None:
    """Batches of 16,384 for hundreds of accelerators; all values are our default.

    In batches of another size give a rate and numbers of steps by the same rules.
    """
    config.batch_size = 16_384
    # As many epochs of MIMIC-CXR's training studies as the paper's 1,000,000 steps of 32.
    epochs, num_studies = 144, 222_758
    config.num_steps = round(epochs * num_studies / config.batch_size)
    config.evaluate_every = 100
    config.checkpoint_every = 50
    config.log_every = 10
    # CLIP's ResNet-50 (arXiv 2103.00020, appendix F): AdamW at 5e-4 for batches of 32,768, decay
    # 0.2. Adam's rate goes with the square root of the batch (Malladi et al., arXiv 2205.10287).
    config.optimizer.learning_rate = 5e-4 * math.sqrt(config.batch_size / 32_768)
    config.optimizer.weight_decay = 0.2
    config.optimizer.decoupled_weight_decay = True
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = config.num_steps // 10
    config.objectives.contrastive.tile_size = 1024
