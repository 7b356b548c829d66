"""The configurations of the published systems, one file each."""
