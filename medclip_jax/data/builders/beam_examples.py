"""Reading studies on Apache Beam, for whoever has many machines; Beam is not among our packages."""

import json
from collections.abc import Sequence

import apache_beam as beam
from etils import epath

from medclip_jax.data.builders.rows import Row
from medclip_jax.data.builders.study_reader import StudyReader


class BeamExamples(beam.PTransform):
    """The examples of a split; what is left out is written as JSON lines to `rejected-…`."""

    def __init__(
        self, studies: Sequence[Sequence[Row]], reader: StudyReader, rejected: epath.Path
    ) -> None:
        super().__init__()
        self._studies = studies
        self._reader = reader
        self._rejected = rejected

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Reads the studies wherever the runner places them."""
        results = pipeline | beam.Create(self._studies) | beam.Reshuffle() | beam.Map(self._reader)
        _ = (
            results
            | "Rejected" >> beam.FlatMap(lambda result: [json.dumps(row) for row in result[1]])
            | beam.io.WriteToText(str(self._rejected))
        )
        return (
            results
            | "Readable" >> beam.Filter(lambda result: result[0] is not None)
            | "Example" >> beam.Map(lambda result: (result[0].key, result[0].to_example()))
        )
