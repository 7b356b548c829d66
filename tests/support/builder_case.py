"""TFDS's own tests of a builder, on files that the test makes."""

import tempfile
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds


class BuilderCase(tfds.testing.DatasetBuilderTestCase):
    """Runs `DatasetBuilderTestCase` on the tree that `write_source` makes.

    A subclass sets DATASET_CLASS and SPLITS (studies a split), and BUILDER_CONFIG_NAMES_TO_TEST if
    the tree is not for all configs.
    """

    SKIP_CHECKSUMS = True  # nothing is downloaded here
    _folder: ClassVar[tempfile.TemporaryDirectory[str]]

    @classmethod
    def write_source(cls, folder: Path) -> None:
        """Writes the set's files as they are distributed."""
        raise NotImplementedError

    def _make_builder(self, config=None):
        return self.dataset_class(data_dir=self.tmp_dir, config=config, file_format="array_record")

    @classmethod
    def setUpClass(cls) -> None:
        cls._folder = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = cls._folder.name
        cls.write_source(Path(cls._folder.name))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        cls._folder.cleanup()


# pytest collects every test case that it finds, and these two have no set of their own.
BuilderCase.__test__ = False
