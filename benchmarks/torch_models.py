"""The demo's architecture in plain PyTorch: torchvision's ResNet-18 and Hugging Face's BERT."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.input_pipeline import import_torchvision


class TwoTowers(nn.Module):
    """Cosine similarities `[images, texts]` of grey images and token ids."""

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
