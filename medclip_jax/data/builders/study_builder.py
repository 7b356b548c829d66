"""What all our TFDS builders have in common: `tfds.load` reads ArrayRecord too."""

import functools
from typing import TYPE_CHECKING, Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_parser

if TYPE_CHECKING:
    import tensorflow as tf


class StudyBuilder(tfds.core.GeneratorBasedBuilder):
    """A builder whose sets can be read as `tf.data` in either file format.

    TFDS itself reads ArrayRecord only at random (`as_data_source`), which is what training does.
    """

    def _as_dataset(
        self,
        split: Any,
        decoders: Any = None,
        read_config: Any = None,
        shuffle_files: bool = False,
    ) -> "tf.data.Dataset":
        if self.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            return super()._as_dataset(split, decoders, read_config, shuffle_files)
        import tensorflow as tf

        records = self.as_data_source(split).data_source
        features = self.info.features
        parse = example_parser.ExampleParser(features.get_serialized_info()).parse_example
        indices = tf.data.Dataset.range(len(records))
        if shuffle_files:
            indices = indices.shuffle(len(records), reshuffle_each_iteration=True)

        def read(index: Any) -> Any:
            return tf.numpy_function(
                lambda i: records.__getitems__([int(i)])[0], [index], tf.string
            )

        return (
            indices.map(read)
            .map(lambda record: parse(tf.ensure_shape(record, [])))
            .map(functools.partial(features.decode_example, decoders=decoders))
        )
