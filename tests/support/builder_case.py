"""TFDS's own tests of a builder, on files that the test makes.

They need TensorFlow, which crashes beside PyTorch's Triton in one process. So they have a process
of their own, which `tests/data/test_with_tensorflow.py` starts; elsewhere these classes hold no
test.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest

WITH_TENSORFLOW = os.environ.get("MEDCLIP_JAX_TESTS_WITH_TENSORFLOW") == "1"


def _base() -> Any:
    if not WITH_TENSORFLOW:
        return object
    import tensorflow_datasets as tfds

    return tfds.testing.DatasetBuilderTestCase


@pytest.mark.tensorflow
class BuilderCase(_base()):
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


# pytest collects every test case that it finds, and this one has no set of its own.
BuilderCase.__test__ = False
