"""Architectures in PyTorch, to compare with: the demo's, and any contrastive one from a config."""

import math
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional

from medclip_jax.convert.pytorch_files.medclip_torch import MedClip
from medclip_jax.convert.torch_names import architecture_of
from medclip_jax.models.factory import build_model
from medclip_jax.train.state import dummy_batch, init_variables


class TwoTowers(nn.Module):
    """torchvision's ResNet-18 and Hugging Face's BERT: similarities of grey images and texts."""

    def __init__(
        self,
        *,
        vocab_size: int,
        length: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        size: int = 512,
    ) -> None:
        """Builds both encoders, each with a projection of one hidden layer."""
        super().__init__()
        from benchmarks.input_pipeline import import_torchvision

        models = import_torchvision("models")
        from transformers import BertConfig, BertModel

        self.image_encoder = models.resnet18()
        self.image_encoder.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        self.image_encoder.fc = nn.Identity()
        self.image_encoder.to(memory_format=torch.channels_last)
        config = BertConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=intermediate_size,
            max_position_embeddings=length,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.text_encoder = BertModel(config, add_pooling_layer=False)
        self.image_projection, self.text_projection = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, size))
            for width in (512, hidden_size)
        )

    def forward(self, image: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Similarities of float32 images `[B, 1, H, W]` and token ids `[B, L]`."""
        tokens = self.text_encoder(token_ids).last_hidden_state
        image_embeddings = self.image_projection(self.image_encoder(image))
        text_embeddings = self.text_projection(tokens[:, 0])
        return functional.normalize(image_embeddings) @ functional.normalize(text_embeddings).T


class Contrastive(nn.Module):
    """The loss of a contrastive config, whose model is that of an export."""

    def __init__(self, config: ConfigDict, vocab_size: int) -> None:
        """Builds the model with PyTorch's initial weights; those that are frozen stay so."""
        super().__init__()
        ours = build_model(config, vocab_size)
        example = dummy_batch(config.augmentation.crop_size, config.text_encoder.max_length)
        shapes = jax.eval_shape(lambda: init_variables(ours, 0, example))
        described: Any = types.SimpleNamespace(model=ours, variables=shapes)
        self.model = MedClip(architecture_of(described))
        self.image_to_text_weight = config.objectives.contrastive.image_to_text_weight
        self.mixed_precision = config.compute_dtype == "bfloat16"
        if config.temperature.learnable:
            nn.init.constant_(self.model.log_temperature, math.log(config.temperature.init))
        for name, parameter in self.model.named_parameters():
            path = name.replace(".", "/")
            frozen = any(re.search(pattern, path) for pattern in config.optimizer.frozen)
            parameter.requires_grad_(not frozen)

    def forward(
        self, pixels: torch.Tensor, token_ids: torch.Tensor, token_mask: torch.Tensor
    ) -> torch.Tensor:
        """InfoNCE of normalised images `[B, 1, H, W]`, token ids and their mask `[B, L]`."""
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.mixed_precision):
            image = self.model.encode_image(pixels)["image_embeddings"]
            text = self.model.encode_text(token_ids, token_mask)["text_embeddings"]
        logits = image.float() @ text.float().T / self.model.temperature()
        labels = torch.arange(len(logits), device=logits.device)
        of_images = functional.cross_entropy(logits, labels)
        of_texts = functional.cross_entropy(logits.T, labels)
        weight = self.image_to_text_weight
        return weight * of_images + (1 - weight) * of_texts


def make_train_step(
    config: ConfigDict, vocab_size: int, batch: Mapping[str, torch.Tensor], compiled: bool
) -> Callable[[], torch.Tensor]:
    """A function that takes one step on the batch and returns the loss, still on the device.

    As PyTorch's guides to speed have it: bfloat16 by autocast, channels last for convolutional
    networks, TF32 for what is left in float32, a fused optimiser, `torch.compile`.

    Args:
        config: of a run whose one objective is the contrastive one.
        vocab_size: number of the tokenizer's tokens.
        batch: `pixels` float32 `[B, 1, H, W]`, `token_ids` `[B, L]` and `token_mask` `[B, L]`, on
            the device that trains.
        compiled: whether to use `torch.compile`.
    """
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    module: Any = Contrastive(config, vocab_size).to(batch["pixels"].device)
    inputs = dict(batch)
    if config.image_encoder.name.startswith("resnet"):
        module.to(memory_format=torch.channels_last)
        inputs["pixels"] = inputs["pixels"].contiguous(memory_format=torch.channels_last)
    options = config.optimizer
    adam = torch.optim.AdamW if options.decoupled_weight_decay else torch.optim.Adam
    optimizer = adam(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        options.learning_rate,
        (options.b1, options.b2),
        options.eps,
        options.weight_decay,
        fused=True,
    )
    loss_fn = torch.compile(module) if compiled else module

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(**inputs)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def wait(device: torch.device) -> None:
    """Waits for what the device still computes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
