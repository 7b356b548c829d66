"""ResNet-18 and ResNet-50, He et al., https://arxiv.org/abs/1512.03385, without the classifier.

The architecture is torchvision's (the stride of a bottleneck is on its 3x3 convolution, all padding
is explicit and symmetric), so that weights map one to one.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from medclip_jax.models.encoding import ImageEncoding
from medclip_jax.models.layers import BatchNorm
from medclip_jax.models.patches import hide_patches
from medclip_jax.models.pooling import Pooling, pool_tokens
from medclip_jax.models.scan import REMAT_POLICIES, RematPolicy

OUTPUT_STRIDES = (16, 32)


class ResNet(nn.Module):
    """A residual network.

    Attributes:
        blocks: number of blocks in each stage.
        bottleneck: whether blocks are 1x1, 3x3, 1x1 convolutions (else two 3x3).
        width: channels of the stem; 64 in the original.
        output_stride: pixels a side of a cell of the grid: 32 in the original; 16 leaves out the
            stride of the last stage, which changes no parameter.
        pooling: how the grid becomes the features, "mean" in the original, or "max".
        remat: recompute each block in the backward pass instead of storing its activations.
        remat_policy: what is stored even so, see `scan.REMAT_POLICIES`.
    """

    blocks: Sequence[int]
    bottleneck: bool
    width: int = 64
    output_stride: int = 32
    pooling: Pooling = "mean"
    remat: bool = False
    dtype: DTypeLike = jnp.float32
    remat_policy: RematPolicy = "nothing"

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        train: bool,
        patch_is_masked: Bool[Array, "batch cells"] | None = None,
        num_visible: int | None = None,
        has_image: Bool[Array, " batch"] | None = None,
    ) -> ImageEncoding:
        """Encodes normalised images.

        Args:
            image: the images.
            train: whether to normalise by the statistics of the batch, and to update the running
                ones.
            patch_is_masked: true on the cells of the grid whose pixels the output must not depend
                on; they are shown as zero. The running statistics are then used whatever `train`
                is, so that they stay those of whole images.
            num_visible: changes nothing; a vision transformer has it.
            has_image: false on rows that do not enter the statistics of the batch.
        """
        if patch_is_masked is not None:
            image, train = hide_patches(image, patch_is_masked), False
        x = _convolution(self.width, 7, 2, self.dtype, "stem_conv")(image)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="stem_norm")(x, train, has_image))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        block = ResidualBlock
        if self.remat:
            policy = REMAT_POLICIES[self.remat_policy]
            block = nn.remat(ResidualBlock, static_argnums=(2,), policy=policy)
        for stage, num_blocks in enumerate(self.blocks):
            shrinks = stage > 0 and 2 ** (stage + 2) <= self.output_stride
            for index in range(num_blocks):
                x = block(
                    channels=self.width * 2**stage,
                    stride=2 if shrinks and index == 0 else 1,
                    bottleneck=self.bottleneck,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{index}",
                )(x, train, has_image)
        cells = x.reshape(x.shape[0], -1, x.shape[-1])
        return ImageEncoding(features=pool_tokens(cells, pooling=self.pooling), grid=x)


class ResidualBlock(nn.Module):
    """Convolutions with batch normalisation, added to the input (projected where shapes differ)."""

    channels: int
    stride: int
    bottleneck: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        train: bool,
        has_image: Bool[Array, " batch"] | None = None,
    ) -> Float[Array, "batch rows columns features"]:
        """Applies the block."""
        # (kernel size, output channels, stride) of each convolution.
        if self.bottleneck:
            features = 4 * self.channels
            layout = [(1, self.channels, 1), (3, self.channels, self.stride), (1, features, 1)]
        else:
            features = self.channels
            layout = [(3, features, self.stride), (3, features, 1)]
        y = x
        for number, (kernel_size, channels, stride) in enumerate(layout, start=1):
            y = _convolution(channels, kernel_size, stride, self.dtype, f"conv{number}")(y)
            y = BatchNorm(dtype=self.dtype, name=f"norm{number}")(y, train, has_image)
            if number < len(layout):
                y = nn.relu(y)
        if self.stride != 1 or x.shape[-1] != features:
            x = _convolution(features, 1, self.stride, self.dtype, "shortcut_conv")(x)
            x = BatchNorm(dtype=self.dtype, name="shortcut_norm")(x, train, has_image)
        return nn.relu(x + y)


def _convolution(
    channels: int, kernel_size: int, stride: int, dtype: DTypeLike, name: str
) -> nn.Conv:
    """A convolution without bias, padded by half its kernel, with torchvision's initialiser."""
    half = kernel_size // 2
    return nn.Conv(
        channels,
        (kernel_size, kernel_size),
        strides=(stride, stride),
        padding=((half, half), (half, half)),
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        name=name,
    )
