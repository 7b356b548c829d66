"""PyTorch references of the encoders."""

from support.torch_references import (  # noqa: F401
    randomize,
    timm,
    torchvision,
    transformers,
)
