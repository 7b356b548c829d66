"""The encoders and the fusion of medclip_jax in PyTorch, and the layers that they share.

Modules have the names of the Flax modules, and their arguments those of the Flax modules' sizes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention; `dropout_rate` is of its weights."""

    def __init__(self, size: int, num_heads: int, dropout_rate: float, key_bias: bool = True):
        super().__init__()
        self.num_heads, self.dropout_rate = num_heads, dropout_rate
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=key_bias)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """From `x` [N, L, C] to those of `context` [N, K, C] where `mask` [N, 1, 1 or L, K] is."""

        def split(vectors: Tensor) -> Tensor:
            return vectors.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        query, key, value = (
            split(self.query(x)),
            split(self.key(context)),
            split(self.value(context)),
        )
        dropout_rate = self.dropout_rate if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, mask, dropout_rate)
        return self.output(attended.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, size: int, hidden_size: int):
        super().__init__()
        self.hidden = nn.Linear(size, hidden_size)
        self.output = nn.Linear(hidden_size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Of the last axis."""
        return self.output(F.gelu(self.hidden(x)))


class PostNormLayer(nn.Module):
    """A layer of BERT."""

    def __init__(
        self, size: int, num_heads: int, hidden_size: int, epsilon: float, dropout_rate: float
    ):
        super().__init__()
        self.attention = Attention(size, num_heads, dropout_rate)
        self.attention_norm = nn.LayerNorm(size, epsilon)
        self.mlp = Mlp(size, hidden_size)
        self.mlp_norm = nn.LayerNorm(size, epsilon)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Of tokens [N, L, C], none of which attends to those where `mask` [N, 1, 1, L] is not."""
        x = self.attention_norm(x + self.dropout(self.attention(x, x, mask)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class PreNormLayer(PostNormLayer):
    """A layer of a vision transformer."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """As that of `PostNormLayer`."""
        y = self.attention_norm(x)
        x = x + self.dropout(self.attention(y, y, mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def add_layers(parent: nn.Module, name: str, number: int, make: Callable[[], nn.Module]) -> None:
    """Gives `parent` the children `name_0`, `name_1`, ..."""
    for index in range(number):
        parent.add_module(f"{name}_{index}", make())


def layers(parent: nn.Module, name: str) -> list[nn.Module]:
    """The children that `add_layers` gave."""
    return [child for key, child in parent.named_children() if key.startswith(f"{name}_")]


def pool(tokens: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """[N, L, C] to [N, C]: the first token, or the "mean" or "max" of those where `mask` is."""
    if pooling == "cls":
        return tokens[:, 0]
    if mask is None:
        return tokens.amax(1) if pooling == "max" else tokens.mean(1)
    hidden = ~mask[:, :, None]
    if pooling == "max":
        maximum = tokens.masked_fill(hidden, -torch.inf).amax(1)
        return maximum.masked_fill(hidden.all(1), 0.0)
    return tokens.masked_fill(hidden, 0.0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def vector(size: int) -> nn.Parameter:
    """A vector that is added to tokens or stands among them."""
    return nn.Parameter(torch.zeros(1, 1, size))


class BatchNorm(nn.BatchNorm2d):
    """Normalises by the batch, and remembers its statistics, only if `train`."""

    def forward(self, x: Tensor, train: bool) -> Tensor:  # type: ignore[override]
        """Of [N, C, H, W]."""
        if train:
            return super().forward(x)
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)


class ResidualBlock(nn.Module):
    """torchvision's: in a bottleneck the stride is on the 3x3 convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int, bottleneck: bool):
        super().__init__()
        self.features = 4 * channels if bottleneck else channels
        # (kernel size, output channels, stride) of each convolution.
        layout = [(3, channels, stride), (3, channels, 1)]
        if bottleneck:
            layout = [(1, channels, 1), (3, channels, stride), (1, self.features, 1)]
        self.depth, last = len(layout), in_channels
        for number, (size, width, step) in enumerate(layout, start=1):
            convolution = nn.Conv2d(last, width, size, step, size // 2, bias=False)
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"norm{number}", BatchNorm(width))
            last = width
        self.is_projected = stride != 1 or in_channels != self.features
        if self.is_projected:
            self.shortcut_conv = nn.Conv2d(in_channels, self.features, 1, stride, bias=False)
            self.shortcut_norm = BatchNorm(self.features)

    def forward(self, x: Tensor, train: bool) -> Tensor:
        """Of [N, C, H, W]."""
        y = x
        for number in range(1, self.depth + 1):
            y = self.get_submodule(f"conv{number}")(y)
            y = self.get_submodule(f"norm{number}")(y, train)
            y = F.relu(y) if number < self.depth else y
        if self.is_projected:
            x = self.shortcut_norm(self.shortcut_conv(x), train)
        return F.relu(x + y)


class ResNet(nn.Module):
    """A residual network; an output stride of 16 leaves out the stride of the last stage."""

    def __init__(
        self,
        channels: int,
        blocks: list[int],
        bottleneck: bool,
        width: int,
        output_stride: int,
        pooling: str,
    ):
        super().__init__()
        self.pooling, self.size = pooling, width
        self.stem_conv = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        self.stem_norm = BatchNorm(width)
        for stage, num_blocks in enumerate(blocks):
            stride = 2 if stage > 0 and 2 ** (stage + 2) <= output_stride else 1
            for index in range(num_blocks):
                step = stride if index == 0 else 1
                block = ResidualBlock(self.size, width * 2**stage, step, bottleneck)
                self.add_module(f"stage{stage + 1}_block{index}", block)
                self.size = block.features

    def forward(self, images: Tensor, patch_is_masked: Tensor | None) -> tuple[Tensor, Tensor]:
        """The features [N, C] and the grid [N, cells, C]; masked cells are shown as zero."""
        train = self.training
        if patch_is_masked is not None:
            # The running statistics stay those of whole images.
            images, train = hide_patches(images, patch_is_masked), False
        x = F.relu(self.stem_norm(self.stem_conv(images), train))
        x = F.max_pool2d(x, 3, 2, 1)
        for name, block in self.named_children():
            if name.startswith("stage"):
                x = block(x, train)
        grid = x.flatten(2).transpose(1, 2)
        return pool(grid, None, self.pooling), grid


def hide_patches(images: Tensor, patch_is_masked: Tensor) -> Tensor:
    """The square images [N, C, S, S] with zeros on the masked of [N, P], which lie row by row."""
    rows = round(patch_is_masked.shape[1] ** 0.5)
    size = images.shape[2] // rows
    masked = patch_is_masked.view(-1, 1, rows, rows)
    masked = masked.repeat_interleave(size, 2).repeat_interleave(size, 3)
    return images.masked_fill(masked, 0.0)


class VisionTransformer(nn.Module):
    """timm's and Hugging Face's, with a last norm before the pooling."""

    def __init__(
        self,
        channels: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        patch_size: int,
        num_positions: int,
        pooling: str,
        epsilon: float,
    ):
        super().__init__()
        self.pooling, self.size = pooling, hidden_size
        self.patch_embedding = nn.Conv2d(channels, hidden_size, patch_size, patch_size)
        self.cls_token = vector(hidden_size)
        self.position_embedding = nn.Parameter(torch.zeros(1, num_positions, hidden_size))
        sizes = hidden_size, num_heads, 4 * hidden_size, epsilon
        add_layers(self, "layer", num_layers, lambda: PreNormLayer(*sizes, dropout_rate=0.0))
        self.norm = nn.LayerNorm(hidden_size, epsilon)

    def forward(self, images: Tensor, patch_is_masked: Tensor | None) -> tuple[Tensor, Tensor]:
        """The features [N, C] and the grid [N, patches, C], in which masked patches are zero."""
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        x = x + self.position_embedding
        visible, mask = None, None
        if patch_is_masked is not None:
            visible = ~patch_is_masked
            mask = F.pad(visible, (1, 0), value=True)[:, None, None]
        for layer in layers(self, "layer"):
            x = layer(x, mask)
        x = self.norm(x)
        grid = x[:, 1:] if visible is None else x[:, 1:] * visible[:, :, None]
        return pool(x if self.pooling == "cls" else grid, visible, self.pooling), grid


class PatchEmbedding(nn.Module):
    """A linear embedding of each patch, without positions."""

    def __init__(self, channels: int, hidden_size: int, patch_size: int):
        super().__init__()
        self.size = hidden_size
        self.patch_embedding = nn.Conv2d(channels, hidden_size, patch_size, patch_size)

    def forward(self, images: Tensor, patch_is_masked: Tensor | None) -> tuple[Tensor, Tensor]:
        """As that of `VisionTransformer`; the features are the mean."""
        grid = self.patch_embedding(images).flatten(2).transpose(1, 2)
        visible = None if patch_is_masked is None else ~patch_is_masked
        grid = grid if visible is None else grid * visible[:, :, None]
        return pool(grid, visible, "mean"), grid


class Bert(nn.Module):
    """BERT without its pooler; every text is of segment 0."""

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_position_embeddings: int,
        type_vocab_size: int,
        dropout_rate: float,
        epsilon: float,
    ):
        super().__init__()
        self.size = hidden_size
        counts = vocab_size, max_position_embeddings, type_vocab_size
        self.embeddings = BertEmbeddings(counts, hidden_size, epsilon, dropout_rate)
        sizes = hidden_size, num_heads, intermediate_size, epsilon, dropout_rate
        add_layers(self, "layer", num_layers, lambda: PostNormLayer(*sizes))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One vector a token, [N, L, C]; the mask [N, L] is 0 on padding."""
        x = self.embeddings(input_ids)
        mask = attention_mask.bool()[:, None, None]
        for layer in layers(self, "layer"):
            x = layer(x, mask)
        return x


class BertEmbeddings(nn.Module):
    """The normalised sum of the embeddings of words, positions and segments."""

    def __init__(
        self, counts: tuple[int, int, int], size: int, epsilon: float, dropout_rate: float
    ):
        super().__init__()
        self.word_embeddings = nn.Embedding(counts[0], size)
        self.position_embeddings = nn.Embedding(counts[1], size)
        self.token_type_embeddings = nn.Embedding(counts[2], size)
        self.norm = nn.LayerNorm(size, epsilon)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Of ids [N, L]."""
        x = self.word_embeddings(input_ids)
        x = x + self.position_embeddings.weight[: input_ids.shape[1]]
        return self.dropout(self.norm(x + self.token_type_embeddings.weight[0]))


class Fused(NamedTuple):
    """The class token [N, C], the patches [N, P, C] and the tokens [N, L, C] of a fusion."""

    cls: Tensor
    image: Tensor
    text: Tensor


class Fusion(nn.Module):
    """A pre-norm transformer over a class token, image patches and text tokens."""

    def __init__(
        self,
        image_size: int,
        text_size: int | None,
        num_patches: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        dropout_rate: float,
        masked_images: bool,
        epsilon: float,
    ):
        super().__init__()
        self.cls_token = vector(hidden_size)
        self.image_input = nn.Linear(image_size, hidden_size, bias=False)
        self.image_positions = nn.Parameter(torch.zeros(num_patches, hidden_size))
        self.image_modality = vector(hidden_size)
        if masked_images:
            self.image_mask_token = vector(hidden_size)
        if text_size is not None:
            self.text_input = nn.Linear(text_size, hidden_size, bias=False)
            self.text_modality = vector(hidden_size)
        sizes = hidden_size, num_heads, 4 * hidden_size, epsilon, dropout_rate
        add_layers(self, "layer", num_layers, lambda: PreNormLayer(*sizes))
        self.norm = nn.LayerNorm(hidden_size, epsilon)

    def forward(
        self,
        image_grid: Tensor | None,
        text_tokens: Tensor | None,
        attention_mask: Tensor | None = None,
        patch_is_masked: Tensor | None = None,
    ) -> Fused:
        """Fuses what is given; the mask token stands in for masked patches."""
        given = image_grid if image_grid is not None else text_tokens
        assert given is not None, "there is neither an image nor a text to fuse"
        x = self.cls_token.expand(len(given), -1, -1)
        visible = [x.new_ones(x.shape[:2], dtype=torch.bool)]
        num_patches = 0
        if image_grid is not None:
            image = self.image_input(image_grid)
            if patch_is_masked is not None:
                image = torch.where(patch_is_masked[:, :, None], self.image_mask_token, image)
            x = torch.cat([x, image + self.image_positions + self.image_modality], 1)
            visible.append(image.new_ones(image.shape[:2], dtype=torch.bool))
            num_patches = image.shape[1]
        if text_tokens is not None:
            assert attention_mask is not None, "a text comes with its attention_mask"
            x = torch.cat([x, self.text_input(text_tokens) + self.text_modality], 1)
            visible.append(attention_mask.bool())
        mask = torch.cat(visible, 1)[:, None, None]
        for layer in layers(self, "layer"):
            x = layer(x, mask)
        x = self.norm(x)
        return Fused(x[:, 0], x[:, 1 : 1 + num_patches], x[:, 1 + num_patches :])
