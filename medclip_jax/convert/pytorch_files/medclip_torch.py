"""A whole model of medclip_jax in PyTorch; with `medclip_encoders.py` it needs nothing but torch.

model = load("export")  # this needs safetensors
outputs = model(pixel_values, input_ids, attention_mask)

What a model consists of is in a dict, `architecture`, under that key of `config.json`; a part that
it does not have is None there. Modules have the names of the Flax modules.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from .medclip_encoders import (
        Attention,
        Bert,
        Fusion,
        Mlp,
        PatchEmbedding,
        ResNet,
        VisionTransformer,
        add_layers,
        layers,
        pool,
    )
except ImportError:  # The two files lie side by side, and not in a package.
    from medclip_encoders import (  # type: ignore[no-redef]
        Attention,
        Bert,
        Fusion,
        Mlp,
        PatchEmbedding,
        ResNet,
        VisionTransformer,
        add_layers,
        layers,
        pool,
    )

Outputs = dict[str, Tensor]
IMAGE_ENCODERS = {"resnet": ResNet, "vit": VisionTransformer, "patches": PatchEmbedding}


class Head(nn.Module):
    """Linear; or linear, ReLU, linear, where there is a hidden size."""

    def __init__(self, size: int, hidden_size: int | None, out_size: int, use_bias: bool = True):
        super().__init__()
        if hidden_size is not None:
            self.hidden = nn.Linear(size, hidden_size, bias=use_bias)
        self.output = nn.Linear(hidden_size or size, out_size, bias=use_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Of the last axis."""
        return self.output(F.relu(self.hidden(x)) if hasattr(self, "hidden") else x)


class MaskedLanguageHead(nn.Module):
    """BERT's, whose last matrix are the word embeddings."""

    def __init__(self, size: int, embedding_size: int, vocab_size: int, epsilon: float):
        super().__init__()
        self.transform = nn.Linear(size, embedding_size)
        self.norm = nn.LayerNorm(embedding_size, epsilon)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Logits [N, L, V] of tokens [N, L, C] and a table [V, E]."""
        return F.linear(self.norm(F.gelu(self.transform(tokens))), embedding, self.bias)


class DecoderLayer(nn.Module):
    """A post-norm layer of causal self-attention, attention to the image, and MLP."""

    def __init__(self, size: int, num_heads: int, intermediate_size: int, dropout_rate: float):
        super().__init__()
        self.self_attention = Attention(size, num_heads, dropout_rate, key_bias=False)
        self.self_attention_norm = nn.LayerNorm(size)
        self.image_attention = Attention(size, num_heads, dropout_rate, key_bias=False)
        self.image_attention_norm = nn.LayerNorm(size)
        self.mlp = Mlp(size, intermediate_size)
        self.mlp_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """Of tokens [N, L, C] and cells [N, K, C]; `mask` [N, 1, L, L] is where tokens look."""
        x = self.self_attention_norm(x + self.dropout(self.self_attention(x, x, mask)))
        x = self.image_attention_norm(x + self.dropout(self.image_attention(x, image)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class CaptionDecoder(nn.Module):
    """Predicts each token of a text from the image and the tokens before it.

    The layers of the backward decoder are kept for the state dict; nothing here runs them.
    """

    def __init__(
        self,
        image_size: int,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_length: int,
        dropout_rate: float,
        bidirectional: bool,
    ):
        super().__init__()
        self.max_length = max_length
        self.image_projection = nn.Linear(image_size, hidden_size)
        self.word_embeddings = nn.Embedding(vocab_size, hidden_size)
        self.position_embeddings = nn.Embedding(max_length, hidden_size)
        self.embedding_norm = nn.LayerNorm(hidden_size)
        self.embedding_dropout = nn.Dropout(dropout_rate)
        sizes = hidden_size, num_heads, intermediate_size, dropout_rate
        for direction in ("forward", "backward") if bidirectional else ("forward",):
            add_layers(self, f"{direction}_layers", num_layers, lambda: DecoderLayer(*sizes))
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, image_grid: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [N, L, V] of the tokens after each of `input_ids` [N, L]."""
        length = input_ids.shape[1]
        if length >= self.max_length:
            raise ValueError(
                f"a text is too long for a caption decoder of {self.max_length} tokens"
            )
        x = self.word_embeddings(input_ids) + self.position_embeddings.weight[:length]
        x = self.embedding_dropout(self.embedding_norm(x))
        image = self.image_projection(image_grid)
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        mask = causal & attention_mask.bool()[:, None, None]
        for layer in layers(self, "forward_layers"):
            x = layer(x, image, mask)
        return F.linear(x, self.word_embeddings.weight, self.output_bias)


def normalize(vectors: Tensor) -> Tensor:
    """Of unit length; those shorter than 1e-6 are divided by 1e-6."""
    return vectors / vectors.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()


class MedClipParts(nn.Module):
    """What a model consists of and computes.

    It takes N images `pixel_values` [N, C, S, S], C 1 or the model's channels, and N texts
    `input_ids` [N, L], of `attention_mask` [N, L] 0 on padding. Outputs are by name:

    image_features [N, F], image_grid [N, cells, G], image_embeddings [N, D]; text_tokens [N, L, T],
    text_embeddings [N, D]; logits_per_image [N, N], the cosines divided by the temperature;
    match_logits [N], of the pairs; token_logits [N, L, V]; caption_logits [N, L - 1, V].

    A method whose part the model does not have raises a ValueError.
    """

    def _make_parts(self, architecture: dict[str, Any]) -> None:
        """Creates the modules of an architecture; those that it does not have are None."""
        self.architecture = architecture
        image, text = dict(architecture["image_encoder"]), architecture["text_encoder"]
        encoder = IMAGE_ENCODERS[image.pop("kind")]
        self.image_encoder = encoder(architecture["channels"], **image)
        self.text_encoder = None if text is None else Bert(**text)
        image_size, text_size = self.image_encoder.size, text and text["hidden_size"]
        fusion = architecture["fusion"]
        self.fusion = None if fusion is None else Fusion(image_size, text_size, **fusion)
        fusion_size = fusion and fusion["hidden_size"]
        self._make_heads(image_size, text_size, fusion_size)
        decoder, local_size = architecture["caption_decoder"], architecture["local_projection_size"]
        self.caption_decoder = None if decoder is None else CaptionDecoder(image_size, **decoder)
        if local_size is not None:
            # Nothing here reads them, but the state dict has them.
            self.region_projection = nn.Linear(image_size, local_size)
            self.word_projection = nn.Linear(text_size, local_size)
        if architecture["temperature"] is None:
            self.log_temperature = nn.Parameter(torch.zeros(()))
        if architecture["has_bias"]:
            self.bias = nn.Parameter(torch.zeros(()))

    def _make_heads(self, image_size: int, text_size: Any, fusion_size: Any) -> None:
        """Creates the heads above encoders and fusion of these widths, None where there is none."""
        architecture, text = self.architecture, self.architecture["text_encoder"]
        self.image_projection = self.text_projection = self.matching = None
        self.language_head = self.pixel_head = None
        if projection := architecture["projection"]:
            widths = (
                (fusion_size,) * 2 if architecture["shared_fusion"] else (image_size, text_size)
            )
            size, nonlinear, use_bias = (
                projection[key] for key in ("size", "nonlinear", "use_bias")
            )
            self.image_projection, self.text_projection = (
                Head(width, width if nonlinear else None, size, use_bias) for width in widths
            )
        if (matching := architecture["matching"]) and matching["margin"] is None:
            size = fusion_size or 4 * projection["size"]
            self.matching = nn.ModuleDict({"head": Head(size, matching["hidden_size"], 1)})
        if head := architecture["language_head"]:
            self.language_head = MaskedLanguageHead(
                fusion_size, text_size, text["vocab_size"], **head
            )
        if head := architecture["pixel_head"]:
            self.pixel_head = Head(fusion_size, None, head["num_pixels"])

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Outputs:
        """All outputs that there are of images, of texts, or of both; other arguments are ignored.

        Where no mask is given, the texts have no padding. token_logits are with the image in view.
        """
        outputs: Outputs = {}
        if pixel_values is not None:
            outputs |= self.encode_image(pixel_values)
        if input_ids is None:
            return outputs
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.text_encoder is not None:
            outputs |= self.encode_text(input_ids, mask)
        if pixel_values is None:
            return outputs
        if self.image_projection is not None:
            cosines = outputs["image_embeddings"] @ outputs["text_embeddings"].T
            outputs["logits_per_image"] = cosines / self.temperature()
        if self.architecture["matching"] is not None:
            outputs["match_logits"] = self.match(outputs, outputs, mask)
        grid = outputs["image_grid"]
        if self.language_head is not None:
            outputs["token_logits"] = self.fill_tokens(grid, input_ids, mask)
        if self.caption_decoder is not None:
            outputs["caption_logits"] = self.caption_logits(grid, input_ids, mask)
        return outputs

    def encode_image(self, pixel_values: Tensor) -> Outputs:
        """image_features, the pooled vector before the projection; the grid and embeddings."""
        features, grid = self.image_encoder(self._with_channels(pixel_values), None)
        if self.architecture["shared_fusion"]:
            fused = self._part("fusion")(grid, None)
            pooling = self.architecture["image_pooling"]
            features = fused.cls if pooling == "cls" else pool(fused.image, None, pooling)
        outputs = {"image_features": features, "image_grid": grid}
        if self.image_projection is not None:
            outputs["image_embeddings"] = normalize(self.image_projection(features))
        return outputs

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Outputs:
        """text_tokens, the encoder's output, and the embeddings."""
        tokens, mask = self._part("text_encoder")(input_ids, attention_mask), attention_mask.bool()
        outputs = {"text_tokens": tokens}
        if self.text_projection is not None:
            pooling = self.architecture["text_pooling"]
            if self.architecture["shared_fusion"]:
                fused = self._part("fusion")(None, tokens, mask)
                features = fused.cls if pooling == "cls" else pool(fused.text, mask, pooling)
            else:
                features = pool(tokens, mask, pooling)
            outputs["text_embeddings"] = normalize(self.text_projection(features))
        return outputs

    def match(self, image: Outputs, text: Outputs, attention_mask: Tensor) -> Tensor:
        """The logits [N] of images and texts, as encoded, row by row; above 0 is a match."""
        if self.architecture["matching"] is None:
            raise ValueError("this model has no matching: its run trained none")
        margin = self.architecture["matching"]["margin"]
        if margin is not None:
            cosines = (image["image_embeddings"] * text["text_embeddings"]).sum(-1)
            return margin / 2 - (2 - 2 * cosines).clamp(min=0).sqrt().detach()
        if self.fusion is not None:
            features = self.fusion(image["image_grid"], text["text_tokens"], attention_mask).cls
        else:
            u, v = image["image_embeddings"], text["text_embeddings"]
            u, v = u * u.shape[-1] ** 0.5, v * v.shape[-1] ** 0.5
            features = torch.cat([u, v, u * v, (u - v).abs()], -1)
        return self._part("matching")["head"](features)[:, 0]

    def fill_tokens(
        self, image_grid: Tensor | None, masked_input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """The logits [N, L, V] of every token, from the text and, if it is given, the image."""
        head, encoder = self._part("language_head"), self._part("text_encoder")
        tokens = encoder(masked_input_ids, attention_mask)
        fused = self._part("fusion")(image_grid, tokens, attention_mask)
        return head(fused.text, encoder.embeddings.word_embeddings.weight)

    def fill_patches(
        self,
        pixel_values: Tensor,
        patch_is_masked: Tensor,
        text_tokens: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The pixels [N, P, pixels] of every patch, row by row from the top left, normalised.

        Patches where `patch_is_masked` [N, P] are not seen; the text is, if it is given.
        """
        head, masked = self._part("pixel_head"), patch_is_masked.bool()
        _, grid = self.image_encoder(self._with_channels(pixel_values), masked)
        return head(self._part("fusion")(grid, text_tokens, attention_mask, masked).image)

    def caption_logits(
        self, image_grid: Tensor, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """The logits [N, L - 1, V] at t predict token t + 1 from the image and those before."""
        decoder = self._part("caption_decoder")
        return decoder(image_grid, input_ids[:, :-1], attention_mask[:, :-1])

    @torch.no_grad()
    def generate(
        self, pixel_values: Tensor, start_id: int, end_id: int, max_length: int, pad_id: int = 0
    ) -> Tensor:
        """Writes a text for each image, each time with the likeliest token.

        Returns [N, max_length] ids: `start_id`, the text, `end_id` unless it is cut, `pad_id`.
        """
        decoder = self._part("caption_decoder")
        grid = self.encode_image(pixel_values)["image_grid"]
        ids = torch.full((len(grid), 1), start_id, device=grid.device)
        has_ended = torch.zeros(len(grid), dtype=torch.bool, device=grid.device)
        while ids.shape[1] < max_length and not has_ended.all():
            chosen = decoder(grid, ids, torch.ones_like(ids))[:, -1].argmax(-1)
            chosen = chosen.masked_fill(has_ended, pad_id)
            ids = torch.cat([ids, chosen[:, None]], 1)
            has_ended = has_ended | (chosen == end_id)
        return F.pad(ids, (0, max_length - ids.shape[1]), value=pad_id)

    def temperature(self) -> Tensor | float:
        """What the cosines are divided by."""
        fixed = self.architecture["temperature"]
        return self.log_temperature.exp() if fixed is None else fixed

    def _with_channels(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.expand(-1, self.architecture["channels"], -1, -1)

    def _part(self, name: str) -> Any:
        part = getattr(self, name)
        if part is None:
            raise ValueError(f"this model has no {name}: its run trained none")
        return part


class MedClip(MedClipParts):
    """The model of an architecture, without weights."""

    def __init__(self, architecture: dict[str, Any]):
        super().__init__()
        self._make_parts(architecture)


def load(directory: str | Path) -> MedClip:
    """The model that an export holds, for evaluation; call `train()` on it to go on training."""
    from safetensors.torch import load_file

    config = json.loads((Path(directory) / "config.json").read_text())
    model = MedClip(config["architecture"])
    model.load_state_dict(load_file(Path(directory) / "model.safetensors"))
    return model.eval()
