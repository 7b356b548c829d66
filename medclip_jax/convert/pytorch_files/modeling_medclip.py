"""A whole model of medclip_jax as a Hugging Face model, with the outputs of `medclip_torch.py`.

model = AutoModel.from_pretrained("export", trust_remote_code=True)
"""

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from .medclip_torch import MedClipParts


class MedClipConfig(PretrainedConfig):
    """What a model consists of, in one dict."""

    model_type = "medclip"

    def __init__(self, architecture: dict[str, Any] | None = None, **options: Any):
        self.architecture: dict[str, Any] = architecture or {}
        super().__init__(**options)


class MedClipModel(MedClipParts, PreTrainedModel):
    """The model, with the state dict of `medclip_torch.MedClip`."""

    config_class = MedClipConfig
    base_model_prefix = "medclip"
    main_input_name = "pixel_values"

    def __init__(self, config: MedClipConfig):
        super().__init__(config)
        self._make_parts(config.architecture)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """The embeddings [N, D] of images [N, C, S, S], of unit length."""
        self._part("image_projection")
        return self.encode_image(pixel_values)["image_embeddings"]

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The embeddings [N, D] of texts [N, L], of unit length."""
        self._part("text_projection")
        return self.encode_text(input_ids, attention_mask)["text_embeddings"]
