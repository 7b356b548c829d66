"""The two encoders of a model, each as a directory for a model class that Transformers has."""

from pathlib import Path
from typing import Any

import numpy as np

from medclip_jax.convert.name_tables import HUGGINGFACE_BERT, HUGGINGFACE_VIT
from medclip_jax.convert.outputs import Inputs, Outputs
from medclip_jax.convert.preprocessor import write_preprocessing
from medclip_jax.convert.to_pytorch import (
    StateDict,
    family_state_dict,
    huggingface_resnet_state_dict,
    read_config,
    torch_images,
    write_model,
)
from medclip_jax.inference.encoder import Encoder
from medclip_jax.models.bert import Bert
from medclip_jax.models.resnet import ResNet
from medclip_jax.models.vit import VisionTransformer

# The key of our own in the image tower's config: which of our outputs it gives.
SAME_OUTPUTS = "medclip_outputs"


def write_image_tower(encoder: Encoder, directory: Path) -> bool:
    """Writes a `ViTModel` or `ResNetModel` with its preprocessing into an empty directory.

    Its config lists under `SAME_OUTPUTS` what it computes as our model does. That is nothing for a
    ResNet with an output stride of 16: this changes no parameter, but `ResNetModel` has 32.

    Returns:
        Whether there is such a class; nothing is written for an image encoder of patches alone.
    """
    module = encoder.model.image_encoder
    variables = {group: tree["image_encoder"] for group, tree in encoder.variables.items()}
    if isinstance(module, VisionTransformer):
        state_dict, config = vit_state_dict(variables["params"]), vit_config(encoder)
    elif isinstance(module, ResNet):
        state_dict, config = huggingface_resnet_state_dict(variables), _resnet_config(encoder)
    else:
        return False
    write_model(directory, state_dict, config)
    write_preprocessing(encoder, directory, huggingface=True, channels=encoder.model.image_channels)
    return True


def write_text_tower(encoder: Encoder, directory: Path) -> bool:
    """Writes a `BertModel` without its pooler, and the tokenizer, into an empty directory.

    Returns:
        Whether there is a text encoder; nothing is written where there is none.
    """
    if encoder.model.text_encoder is None:
        return False
    params = encoder.variables["params"]["text_encoder"]
    write_model(directory, family_state_dict(HUGGINGFACE_BERT, params), bert_config(encoder))
    encoder.tokenizer.save(directory, encoder.config.text_encoder.max_length)
    return True


def tower_outputs(image: Path | None, text: Path | None, inputs: Inputs) -> Outputs:
    """What Transformers computes from the towers that were written.

    Args:
        image: the directory of the image tower, if there is one.
        text: that of the text tower.
        inputs: of the whole model.

    Returns:
        `image_grid` unless the stride differs, `image_features` where the class pools as our model
        does, `text_tokens`.
    """
    outputs: Outputs = {}
    if image is not None:
        outputs |= _image_outputs(image, inputs)
    if text is not None:
        outputs |= _text_outputs(text, inputs)
    return outputs


def vit_state_dict(params: dict[str, Any]) -> StateDict:
    """The arrays of a `ViTModel` whose pooler hands on the class token."""
    state_dict = family_state_dict(HUGGINGFACE_VIT, params)
    size = params["norm"]["scale"].shape[0]
    state_dict["pooler.dense.weight"] = np.eye(size, dtype=np.float32)
    state_dict["pooler.dense.bias"] = np.zeros(size, np.float32)
    return state_dict


def vit_config(encoder: Encoder) -> dict[str, Any]:
    """The `config.json` of the image encoder as a `ViTModel`."""
    module = encoder.model.image_encoder
    return {
        "model_type": "vit",
        "architectures": ["ViTModel"],
        "hidden_size": module.hidden_size,
        "num_hidden_layers": module.num_layers,
        "num_attention_heads": module.num_heads,
        "intermediate_size": 4 * module.hidden_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": module.epsilon,
        "image_size": encoder.config.augmentation.crop_size,
        "patch_size": module.patch_size,
        "num_channels": encoder.model.image_channels,
        "qkv_bias": True,
        "pooler_output_size": module.hidden_size,
        "pooler_act": "linear",
        SAME_OUTPUTS: _same_outputs(encoder, "cls"),
    }


def bert_config(encoder: Encoder) -> dict[str, Any]:
    """The `config.json` of the text encoder as a `BertModel`."""
    module = encoder.model.text_encoder
    assert isinstance(module, Bert)
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": module.vocab_size,
        "hidden_size": module.hidden_size,
        "num_hidden_layers": module.num_layers,
        "num_attention_heads": module.num_heads,
        "intermediate_size": module.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": module.dropout_rate,
        "attention_probs_dropout_prob": module.dropout_rate,
        "layer_norm_eps": module.epsilon,
        "max_position_embeddings": module.max_position_embeddings,
        "position_embedding_type": "absolute",
        "type_vocab_size": module.type_vocab_size,
        "pad_token_id": encoder.tokenizer.pad_id,
    }


def _resnet_config(encoder: Encoder) -> dict[str, Any]:
    module = encoder.model.image_encoder
    expansion = 4 if module.bottleneck else 1
    return {
        "model_type": "resnet",
        "architectures": ["ResNetModel"],
        "num_channels": encoder.model.image_channels,
        "embedding_size": module.width,
        "hidden_sizes": [
            expansion * module.width * 2**stage for stage, _ in enumerate(module.blocks)
        ],
        "depths": list(module.blocks),
        "layer_type": "bottleneck" if module.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        SAME_OUTPUTS: _same_outputs(encoder, "mean") if module.output_stride == 32 else [],
    }


def _same_outputs(encoder: Encoder, pooling: str) -> list[str]:
    """Our outputs that a class gives whose `pooler_output` is made by `pooling`."""
    pools_alike = encoder.model.image_encoder.pooling == pooling and not encoder.model.shared_fusion
    return ["image_grid", "image_features"] if pools_alike else ["image_grid"]


def _image_outputs(directory: Path, inputs: Inputs) -> Outputs:
    import torch
    from transformers import AutoModel

    config = read_config(directory)
    model = AutoModel.from_pretrained(directory).eval()
    with torch.no_grad():
        found = model(torch_images(inputs.image, config["num_channels"]))
    last = found.last_hidden_state
    outputs = {
        "image_grid": last[:, 1:] if config["model_type"] == "vit" else last.flatten(2).mT,
        "image_features": found.pooler_output.flatten(1),
    }
    return {name: outputs[name].numpy() for name in config[SAME_OUTPUTS]}


def _text_outputs(directory: Path, inputs: Inputs) -> Outputs:
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    with torch.no_grad():
        found = model(
            torch.from_numpy(inputs.token_ids).long(),
            attention_mask=torch.from_numpy(inputs.token_mask).long(),
        )
    return {"text_tokens": found.last_hidden_state.numpy()}
