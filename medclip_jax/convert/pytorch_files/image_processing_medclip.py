"""`preprocessing.py` as the image processor that Transformers' `AutoImageProcessor` loads."""

from collections.abc import Sequence
from typing import Any

from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from .preprocessing import ImageSource, Preprocessing


class MedClipImageProcessor(BaseImageProcessor):
    """Makes `pixel_values`, float32 `[N, channels, crop_size, crop_size]`, of radiographs.

    processor = AutoImageProcessor.from_pretrained(directory, trust_remote_code=True)
    processor(["a.jpg", "b.png"], return_tensors="pt")["pixel_values"]
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        image_size: int = 256,
        crop_size: int = 224,
        mean: float = 0.5,
        std: float = 0.25,
        channels: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.crop_size = crop_size
        self.mean = mean
        self.std = std
        self.channels = channels

    def preprocess(
        self, images: ImageSource | Sequence[ImageSource], return_tensors: str | None = None
    ) -> BatchFeature:
        """The images as the model takes them; a call of the processor does this.

        Args:
            images: one or a list of paths, encoded bytes, PIL images or uint8 arrays.
            return_tensors: "pt" for PyTorch tensors; NumPy arrays without it.

        Raises:
            ValueError: an image cannot be read.
        """
        preprocessing = Preprocessing(
            self.image_size, self.crop_size, self.mean, self.std, self.channels
        )
        return BatchFeature({"pixel_values": preprocessing(images)}, return_tensors)
