"""Every key that a run's config has: its default, its range, its part in a resume."""

from ml_collections import ConfigDict

# The least value that a number may have.
LEAST = {
    "seed": 0,
    "fsdp_min_size": 1,
    "microbatch_size": -1,
    "profile.start": 0,
    "profile.steps": 0,
    "distributed.start_timeout": 1,
    "distributed.peer_timeout": 1,
    "num_steps": 1,
    "batch_size": 1,
    "validation_batch_size": 0,
    "log_every": 1,
    "checkpoint_every": 1,
    "evaluate_every": 1,
    "image_encoder.hidden_size": 1,
    "image_encoder.num_layers": 0,
    "image_encoder.num_heads": 1,
    "image_encoder.patch_size": 1,
    "image_encoder.width": 1,
    "text_encoder.hidden_size": 1,
    "text_encoder.num_layers": 0,
    "text_encoder.num_heads": 1,
    "text_encoder.intermediate_size": 1,
    "text_encoder.max_position_embeddings": 1,
    "text_encoder.max_length": 3,  # the tokens that begin and end a text, and one of its own
    "projection.size": 1,
    "fusion.num_layers": 0,
    "fusion.hidden_size": 1,
    "fusion.num_heads": 1,
    "matching_head.hidden_size": 1,
    "caption_decoder.hidden_size": 1,
    "caption_decoder.num_layers": 1,
    "caption_decoder.num_heads": 1,
    "caption_decoder.intermediate_size": 1,
    "local_projection_size": 1,
    "objectives.contrastive.tile_size": 0,
    "objectives.sigmoid_contrastive.tile_size": 0,
    "objectives.multi_view_contrastive.tile_size": 0,
    "objectives.multi_view_contrastive.views": 2,
    "objectives.captioning.label_smoothing": 0,
    "optimizer.learning_rate": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "optimizer.ema_decay": 0,
    "schedule.warmup_steps": 0,
    "schedule.patience": 1,
    "data.image_size": 1,
    "data.validation_examples": 0,
    "data.num_threads": 1,
    "data.prefetch": 1,
    "tokenizer.vocab_size": 1,
    "augmentation.crop_size": 1,
}

# What a number must be above, or below; a whole number is also below 2^31.
ABOVE = {"objectives.matching.margin": 0, "schedule.factor": 0}
BELOW = {"objectives.captioning.label_smoothing": 1, "schedule.factor": 1}
# In what a run that is resumed may differ from before, and what comes of it. Of all other keys it
# must have the same values: they decide what the model, its data or its validation loss is, so that
# what was computed before would not fit to what comes after.
NOTHING = "no figure changes"
ROUNDING = "the same is computed in another order, so figures may differ in their last bits"
FIGURES = "the figures from there on are those of the new value"
ON_RESUME = {
    "num_steps": FIGURES,  # where the cosine ends
    "log_every": NOTHING,
    "checkpoint_every": NOTHING,
    "evaluate_every": FIGURES,  # the plateau counts evaluations
    "mesh.data": ROUNDING,
    "mesh.fsdp": ROUNDING,
    "mesh.tensor": ROUNDING,
    "fsdp_min_size": ROUNDING,
    "microbatch_size": FIGURES,  # batch statistics and dropout are those of a piece
    "attention": ROUNDING,
    "remat_policy": ROUNDING,
    "scan_layers": FIGURES,  # dropout is drawn from other keys
    "profile.start": NOTHING,
    "profile.steps": NOTHING,
    "distributed.start_timeout": NOTHING,
    "distributed.peer_timeout": NOTHING,
    "image_encoder.remat": ROUNDING,
    "text_encoder.remat": ROUNDING,
    "fusion.remat": ROUNDING,
    "objectives.contrastive.tile_size": ROUNDING,
    "objectives.sigmoid_contrastive.tile_size": ROUNDING,
    "objectives.multi_view_contrastive.tile_size": ROUNDING,
    "optimizer.learning_rate": FIGURES,
    "optimizer.learning_rate_multipliers": FIGURES,
    "optimizer.clip_norm": FIGURES,
    "schedule.name": FIGURES,
    "schedule.warmup_steps": FIGURES,
    "schedule.final_fraction": FIGURES,
    "schedule.factor": FIGURES,
    "schedule.patience": FIGURES,
    "data.data_dir": NOTHING,
    "data.num_threads": NOTHING,
    "data.prefetch": NOTHING,
}


def base_config() -> ConfigDict:
    """Every key a run has, with neutral defaults; config files change values, never add keys."""
    config = ConfigDict()
    config.seed = 0
    config.num_steps = 1000
    config.batch_size = 32
    config.validation_batch_size = 0  # 0 is batch_size; the contrastive losses depend on it
    config.log_every = 10  # steps, as are the next two
    config.checkpoint_every = 500
    config.evaluate_every = 500
    # -1 fills an axis with the devices that are left. Rows of a batch lie over data x fsdp, the
    # heads of attention and the hidden units of MLPs over tensor.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    config.fsdp_min_size = 2**16  # entries; smaller arrays are copied to every device
    # Rows whose activations are held at once; 0 is the whole batch, -1 what fits the devices.
    config.microbatch_size = 0
    config.compute_dtype = "float32"  # or "bfloat16"; parameters are always float32
    config.attention = "auto"  # or "xla", "cudnn"; auto is cuDNN's where the device has it
    config.remat_policy = "nothing"  # what layers with remat keep: "nothing", "dots" (products)
    config.scan_layers = False  # compiles one layer for all of a transformer

    config.profile = ConfigDict({"start": 10, "steps": 0})  # a trace of so many steps; 0 is none
    # Seconds after which a process gives up: on others at the start, on one that has gone silent.
    config.distributed = ConfigDict({"start_timeout": 300, "peer_timeout": 100})

    config.objectives = _base_objectives()
    config.image_encoder = ConfigDict(
        {
            # Pretrained weights: a file or directory, or a name on the Hugging Face hub.
            "init": "",
            "name": "resnet50",  # the size of vit_* is in the name, that of "vit" in the next four
            "hidden_size": 384,
            "num_layers": 12,
            "num_heads": 6,
            "patch_size": 16,
            "epsilon": 1e-6,  # of a ViT's layer norms: timm's; Hugging Face's is 1e-12
            "width": 64,  # of a ResNet's stem
            "output_stride": 32,  # of a ResNet; 16 has a grid that is twice as fine
            "channels": 1,
            "pooling": "mean",
            "remat": False,
        }
    )
    config.text_encoder = ConfigDict(
        {
            "init": "",  # as that of the image encoder; its tokenizer comes with it
            "name": "bert",  # or "none"
            "hidden_size": 768,
            "num_layers": 12,
            "num_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 512,
            "max_length": 128,  # tokens of one text
            "epsilon": 1e-12,  # of the layer norms
            "pooling": "cls",
            "dropout_rate": 0.1,
            "remat": False,
        }
    )
    config.projection = ConfigDict({"size": 512, "kind": "nonlinear", "bias": True})
    config.temperature = ConfigDict({"init": 0.07, "learnable": True})
    config.sigmoid_bias = -10.0  # start of the learnable bias of sigmoid_contrastive
    # A transformer over patches and tokens together; num_layers 0 has none. With `shared` it is the
    # one transformer: images alone and texts alone go through it too.
    config.fusion = ConfigDict(
        {
            "num_layers": 0,
            "hidden_size": 384,
            "num_heads": 6,
            "dropout_rate": 0.0,
            "remat": False,
            "shared": False,
        }
    )
    config.matching_head = ConfigDict({"hidden_size": 512})
    config.caption_decoder = ConfigDict(
        {
            "hidden_size": 1024,
            "num_layers": 1,
            "num_heads": 16,
            "intermediate_size": 4096,
            "dropout_rate": 0.1,
        }
    )
    config.local_projection_size = 512  # of local_contrastive's regions and words

    config.optimizer = ConfigDict(
        {
            "learning_rate": 1e-4,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "decoupled_weight_decay": True,  # False adds it to the gradient, as torch's Adam does
            "clip_norm": 0.0,  # 0 does not clip
            "ema_decay": 0.0,  # 0 keeps no average of the weights
            # Regular expressions on parameter names; of each table the first match counts.
            "frozen": (),
            "learning_rate_multipliers": (),  # ((pattern, multiplier), ...)
            "weight_decay_multipliers": (),  # of matrices; nothing else decays
        }
    )
    config.schedule = ConfigDict(
        {
            "name": "cosine",  # "constant", "cosine" or "plateau"
            "warmup_steps": 0,
            "final_fraction": 0.0,  # of the learning rate, where the cosine ends
            "factor": 0.5,  # plateau: times this ...
            "patience": 5,  # ... after so many evaluations without a lower validation loss
        }
    )
    config.data = ConfigDict(
        {
            "dataset": "synthetic_cxr/demo",
            # ((dataset, weight), ...) instead of one dataset; (dataset, weight, "image") shows the
            # images of a set only, "text" the texts.
            "mixture": (),
            "data_dir": "",  # "" is $TFDS_DATA_DIR, else TFDS's default
            "image_size": 256,  # side of the padded square that the host hands over
            "sections": ("findings", "impression"),
            "text": "sentence",  # one sentence a step, one "section", or the whole "report"
            "remove_priors": False,  # leaves out what refers to earlier studies
            "labels": (),  # labels that objectives see; none named is all
            "validation_examples": 512,
            "num_threads": 16,
            "prefetch": 4,  # batches read ahead
        }
    )
    config.tokenizer = ConfigDict(
        # "" is that of text_encoder.init, else WordPiece trained on the training reports.
        {"directory": "", "vocab_size": 8192}
    )
    config.augmentation = ConfigDict(
        {
            "crop_size": 224,
            "crop_area": (0.6, 1.0),
            "flip_probability": 0.0,
            "rotation_degrees": 20.0,
            "translation": 0.1,
            "scale": (0.95, 1.05),
            "brightness": (0.6, 1.4),
            "contrast": (0.6, 1.4),
            "blur_sigma": (0.1, 3.0),
            "mean": 0.5,
            "std": 0.25,
        }
    )
    return config.lock()


def _base_objectives() -> ConfigDict:
    """The objectives with their options; one with weight 0 is off."""
    return ConfigDict(
        {
            # tile_size 0 computes the dense loss.
            "contrastive": {"weight": 1.0, "image_to_text_weight": 0.5, "tile_size": 0},
            "sigmoid_contrastive": {"weight": 0.0, "tile_size": 0},
            # MedCLIP: targets from the similarity of labels.
            "soft_contrastive": {"weight": 0.0},
            # CXR-CLIP: `views` images and texts of each study.
            "multi_view_contrastive": {
                "weight": 0.0,
                "views": 2,
                "image_weight": 1.0,
                "text_weight": 0.5,
                "tile_size": 0,
            },
            # GLoRIA: words against regions; its 4, 5 and 10, which multiply, as divisors.
            "local_contrastive": {
                "weight": 0.0,
                "attention_temperature": 0.25,
                "word_temperature": 0.2,
                "temperature": 0.1,
            },
            "matching": {
                "weight": 0.0,
                "kind": "binary",  # or "margin"
                "negatives": "random",  # "label_aware" or "hard"
                "margin": 0.5,
            },
            "captioning": {"weight": 0.0, "backward": True, "label_smoothing": 0.0},
            "masked_language": {
                "weight": 0.0,
                "rates": (0.15,),  # share of the words that is masked; each row draws one
                "whole_words": True,
                "image_rate": 0.5,  # share of the rows that see their image
            },
            "masked_vision": {
                "weight": 0.0,
                "scales": (1, 2, 4),  # side of the masked blocks in patches
                "ratios": (0.5,),  # share of the patches that is masked; each row draws one
                "text_rate": 0.5,  # share of the rows that see their text
                "normalize_patches": False,
            },
        }
    )
