"""Mixed data (Wang et al., arXiv 2103.16022): one transformer over patches and tokens.

    medclip-jax pretrain --config configs/mixed.py --workdir runs/mixed

Masked language and multi-scale masked vision modelling on paired, image-only and text-only data,
and matching on the pairs. The paper's abstract gives no sizes and no code is public: what is taken
from elsewhere names its source, the rest is our default.
"""

from ml_collections import ConfigDict

from medclip_jax.config import base_config
from medclip_jax.small_config import check_variant, only_shift, shrink


def get_config(variant: str = "") -> ConfigDict:
    """The full size, or a variant: "", "demo" or "small"."""
    check_variant("mixed.py", variant)
    config = base_config()
    config.objectives.contrastive.weight = 0.0
    config.objectives.matching.weight = 1.0  # as BiomedCLIP's paper describes the system
    config.objectives.masked_language.weight = 1.0
    config.objectives.masked_language.rates = (0.15,)  # BERT, MedViLL, M3AE
    config.objectives.masked_vision.weight = 1.0
    config.objectives.masked_vision.scales = (1, 2, 4)
    config.objectives.masked_vision.ratios = (0.25, 0.5, 0.75)

    # The encoders are embeddings only: the fusion is the one transformer, ViT-B in size.
    config.image_encoder.update(name="patches", hidden_size=768, patch_size=16)
    config.text_encoder.update(name="bert", num_layers=0, hidden_size=768, max_length=256)
    config.fusion.update(
        shared=True, num_layers=12, hidden_size=768, num_heads=12, dropout_rate=0.1
    )

    config.num_steps = 100_000  # M3AE
    config.batch_size = 256  # M3AE
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.01  # MedViLL, M3AE
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 10_000  # M3AE: 10 %
    config.compute_dtype = "bfloat16"
    config.log_every = 50
    config.evaluate_every = 5000
    config.checkpoint_every = 1000

    # Paired, image-only and text-only at 2 : 1 : 1.
    config.data.mixture = (
        ("mimic_cxr", 2.0),
        ("nih_chestxray14", 1.0, "image"),
        ("openi", 1.0, "text"),
    )
    config.data.text = "report"
    config.data.image_size = 256
    config.data.validation_examples = 5000
    config.tokenizer.vocab_size = 30522  # BERT
    if variant:
        _shrink(config, variant)
    return config


def _shrink(config: ConfigDict, variant: str) -> None:
    shrink(config, variant)
    # A linear embedding of patches learns nothing of findings in some hundred steps: like
    # MedViLL's, the patches come from a convolutional network.
    config.image_encoder.update(name="resnet18", output_stride=16)
    config.text_encoder.update(num_layers=0, dropout_rate=0.0)
    config.fusion.update(shared=False, num_layers=2, hidden_size=128, num_heads=4, dropout_rate=0.0)
    # Words alone fill most gaps, and the fusion soon looks at nothing else, unless the image says
    # something from the start: in place of matching, InfoNCE aligns what is to be fused, as in
    # ALBEF (arXiv 2107.07651).
    config.objectives.matching.weight = 0.0
    config.temperature.update(init=0.15, learnable=False)
    # Where every word is masked, only the image can tell; texts alone are filled without one.
    config.objectives.masked_language.update(rates=(0.5, 1.0), image_rate=1.0)
    config.objectives.masked_vision.scales = (1, 2)
    config.optimizer.weight_decay = 0.0
    if variant == "demo":
        config.objectives.contrastive.weight = 1.0
        config.objectives.masked_vision.weight = 0.2
        config.optimizer.learning_rate = 2e-3
        config.data.sections = ("impression",)
        config.text_encoder.max_length = 32
        only_shift(config, 80)
        config.num_steps = 800
        config.evaluate_every = config.checkpoint_every = 400
        name = "synthetic_cxr/demo"
        config.data.mixture = ((name, 8.0), (name, 1.0, "image"), (name, 1.0, "text"))
    else:
        # So few pairs are soon learnt by heart, while regenerating goes on to improve.
        config.objectives.contrastive.weight = 0.2
        config.num_steps = 600
        config.evaluate_every = config.checkpoint_every = 50
        config.text_encoder.max_length = 64
        config.data.image_size, config.augmentation.crop_size = 92, 80
        config.data.mixture = (
            ("manifest/pairs", 2.0),
            ("manifest/nih", 1.0, "image"),
            ("manifest/openi_reports", 1.0, "text"),
        )
