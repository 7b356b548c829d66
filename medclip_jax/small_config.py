"""What the `:demo` and `:small` variants of the configs share; all values are our default."""

from ml_collections import ConfigDict

from medclip_jax.errors import UserError

VARIANTS = ("demo", "small")


def check_variant(file: str, variant: str, *others: str) -> None:
    """Raises a UserError unless the variant is "", one that every file has, or one of `others`."""
    variants = (*VARIANTS, *others)
    if variant not in ("", *variants):
        there = f"{', '.join(variants[:-1])} and {variants[-1]}"
        raise UserError(f"{file} has no variant {variant!r}; there are {there}")


def shrink(config: ConfigDict, variant: str) -> None:
    """Makes a small model from scratch on two CPU cores of a config.

    "demo" is for the synthetic set, "small" for some hundred real pairs.
    """
    config.optimizer.frozen = ()
    config.compute_dtype = "float32"
    config.image_encoder.name = "resnet18"
    config.image_encoder.width = 16
    if config.text_encoder.name != "none":
        config.text_encoder.update(
            hidden_size=128, num_layers=2, num_heads=4, intermediate_size=256, pooling="mean"
        )
    config.projection.size = 128
    config.tokenizer.vocab_size = 1024
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 50
    config.optimizer.learning_rate = 1e-3
    config.data.image_size = 128
    config.data.validation_examples = 512
    config.batch_size = 64
    config.log_every = 20
    # The papers' ranges are made for many thousand steps; some hundred do not reach past them.
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


def only_shift(config: ConfigDict, size: int) -> None:
    """Makes views of `size` pixels of which nothing but the place differs from the image.

    In some hundred steps the fusion made more of images that were not turned, dimmed or blurred.
    ConVIRT, which keeps all of these, was a little better with them.
    """
    config.data.image_size = config.augmentation.crop_size = size
    config.augmentation.update(
        crop_area=(1.0, 1.0),
        rotation_degrees=0.0,
        translation=0.06,
        scale=(1.0, 1.0),
        brightness=(1.0, 1.0),
        contrast=(1.0, 1.0),
        blur_sigma=(0.0, 0.0),
    )
