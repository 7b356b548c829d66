"""Float vectors as image files, so that a fake encoder knows what it is shown."""

import cv2
import numpy as np


def image_of(vector):
    """A PNG file of the bytes of a float32 vector."""
    pixels = np.asarray(vector, np.float32).reshape(-1, 1).view(np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def vectors_of(images):
    files = [np.frombuffer(image, np.uint8) for image in images]
    pixels = np.stack([cv2.imdecode(file, cv2.IMREAD_UNCHANGED) for file in files])
    return pixels.view(np.float32)[..., 0]
