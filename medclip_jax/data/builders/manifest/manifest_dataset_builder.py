"""The TFDS builder of one's own data: a manifest of images and texts becomes a prepared set."""

import dataclasses
import functools
from pathlib import Path

import tensorflow_datasets as tfds

from medclip_jax.data.builders.manifest.rows import Manifest, read_manifest
from medclip_jax.data.builders.row_builder import RowBuilder, RowConfig
from medclip_jax.data.builders.rows import Source


@dataclasses.dataclass(eq=False, kw_only=True)
class ManifestConfig(RowConfig):
    """What a manifest set is built from."""

    manifest: Path
    image_root: Path
    label_columns: tuple[str, ...] = ()
    labels_from: str | None = None


class Builder(RowBuilder):
    """Rows of one study become one example, with all its images."""

    LICENCE = "that of the images and texts which the manifest lists"
    builder_config: ManifestConfig

    @functools.cached_property
    def manifest(self) -> Manifest:
        """The checked rows of the manifest."""
        config = self.builder_config
        return read_manifest(
            config.manifest, config.image_root, config.label_columns, config.labels_from
        )

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the label columns, or of the labels that a column lists."""
        return self.manifest.label_names

    def read_source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        """The rows of the manifest."""
        return self.manifest.source
