"""Building prepared sets: our TFDS builders by name, and manifests of one's own."""

import hashlib
import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from medclip_jax.data import datasets
from medclip_jax.errors import UserError

# The module of each set, which holds its TFDS builder as `Builder`.
BUILDERS = {
    "synthetic_cxr": "medclip_jax.data.builders.synthetic_cxr.synthetic_cxr_dataset_builder",
}
_MANIFEST_BUILDER = "medclip_jax.data.builders.manifest.manifest_dataset_builder"
_FILE_FORMAT = "array_record"
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def build(
    name: str, *, manual_dir: str | Path | None = None, data_dir: str | Path | None = None
) -> str:
    """Prepares one of the sets in `BUILDERS`; one that is already prepared is left as it is.

    Args:
        name: `NAME` or `NAME/CONFIG`.
        manual_dir: the folder with the files that the user downloaded, for sets that need them.
        data_dir: where prepared sets lie; see `datasets.default_data_dir`.

    Returns:
        A line that says what was prepared and where.

    Raises:
        UserError: the name or the config is unknown.
    """
    builder_name, _, config = name.partition("/")
    if builder_name not in BUILDERS:
        known = ", ".join([*BUILDERS, "manifest"])
        raise UserError(f"no set is called {builder_name!r}; there are: {known}")
    builder_class = importlib.import_module(BUILDERS[builder_name]).Builder
    if config and config not in builder_class.builder_configs:
        known = ", ".join(builder_class.builder_configs) or "none"
        raise UserError(f"{builder_name} has no config {config!r}; it has: {known}")
    builder = builder_class(
        config=config or None,
        data_dir=datasets.default_data_dir(data_dir),
        file_format=_FILE_FORMAT,
    )
    download_config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    builder.download_and_prepare(download_config=download_config)
    return _summary(name, builder)


def build_manifest(
    name: str,
    manifest: str | Path,
    image_root: str | Path,
    *,
    label_columns: Sequence[str] = (),
    labels_from: str | None = None,
    max_rejected: float = 0.01,
    data_dir: str | Path | None = None,
    image_size: int = 256,
) -> str:
    """Prepares one's own images and texts as `manifest/NAME`.

    Rows that cannot be used are left out and listed in `rejected.csv` in the folder of the set,
    also where the build fails because they are too many. A set already prepared from the same
    manifest with the same settings is left as it is.

    Args:
        name: the set's name: letters, digits, "_" and "-".
        manifest: a CSV or JSON Lines file; `builders.manifest.rows.read_manifest` says more.
        image_root: the folder that its image paths are relative to.
        label_columns: its columns that hold labels.
        labels_from: its column that lists labels joined by "|".
        max_rejected: the share of rows that may be left out, from 0 to 1.
        data_dir: where prepared sets lie; see `datasets.default_data_dir`.
        image_size: the shorter side of stored images in pixels.

    Returns:
        A line that says what was prepared and where, and one about rejected rows if there are any.

    Raises:
        UserError: the manifest cannot be used, or NAME is taken by another manifest.
    """
    if not _SET_NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name a set: use letters, digits, '_' and '-' only")
    if not 0 <= max_rejected <= 1:
        raise UserError(f"the share of rejected rows must be from 0 to 1, not {max_rejected}")
    manifest, image_root = Path(manifest).expanduser(), Path(image_root).expanduser()
    folder = datasets.default_data_dir(data_dir) / "manifest" / name
    settings = {
        "image_root": str(image_root.resolve()),
        "label_columns": list(label_columns),
        "labels_from": labels_from,
        "image_size": image_size,
    }
    if _is_prepared(folder):
        _check_same_source(folder, _source(manifest, settings))
        return f"manifest/{name} is already prepared from this manifest in {folder}"
    module = importlib.import_module(_MANIFEST_BUILDER)
    config = module.ManifestConfig(
        name=name,
        manifest=manifest,
        image_root=image_root,
        label_columns=tuple(label_columns),
        labels_from=labels_from,
        max_rejected=max_rejected,
        image_size=image_size,
    )
    return _prepare_manifest(module.Builder, config, folder, settings)


def _prepare_manifest(
    builder_class: Any, config: Any, folder: epath.Path, settings: dict[str, Any]
) -> str:
    source = _source(config.manifest, settings)
    builder = builder_class(config=config, data_dir=folder.parent.parent, file_format=_FILE_FORMAT)
    folder.mkdir(parents=True, exist_ok=True)
    # Before the set, so that no set is without it, wherever the build is interrupted.
    (folder / "source.json").write_text(json.dumps(source, indent=2) + "\n")
    rejected = folder / "rejected.csv"
    try:
        builder.download_and_prepare()
    except UserError as error:
        builder.write_rejected(rejected)
        listed = f"; see {rejected}" if builder.rejected else ""
        raise UserError(f"{error}{listed}") from error
    builder.write_rejected(rejected)
    note = f"\n{len(builder.rejected)} rows were rejected: {rejected}" if builder.rejected else ""
    return _summary(f"manifest/{config.name}", builder) + note


def _source(manifest: Path, settings: dict[str, Any]) -> dict[str, Any]:
    try:
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{manifest}: the manifest cannot be read ({error.strerror})") from error
    return {"manifest_sha256": digest, **settings}


def _is_prepared(folder: epath.Path) -> bool:
    return datasets.prepared_directory(folder) is not None


def _check_same_source(folder: epath.Path, source: dict[str, Any]) -> None:
    record = folder / "source.json"
    recorded = json.loads(record.read_text()) if record.exists() else {}
    different = [key for key, value in source.items() if recorded.get(key) != value]
    if different:
        raise UserError(
            f"{folder} holds a set built from another source (different: {', '.join(different)}); "
            "choose another name or remove that folder"
        )


def _summary(name: str, builder: tfds.core.DatasetBuilder) -> str:
    counts = ", ".join(
        f"{split} {info.num_examples}" for split, info in builder.info.splits.items()
    )
    return f"{name} is prepared in {builder.data_dir} (studies: {counts})"
