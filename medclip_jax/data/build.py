"""Building prepared sets: our TFDS builders by name, and manifests of one's own."""

import argparse
import dataclasses
import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tensorflow_datasets as tfds

from medclip_jax.data.builders.row_builder import RowConfig
from medclip_jax.data.preparation import prepare
from medclip_jax.errors import UserError

# The module of each set, which holds its TFDS builder as `Builder`.
BUILDERS = {
    name: f"medclip_jax.data.builders.{name}.{name}_dataset_builder"
    for name in (
        "chexpert",
        "covidx",
        "mimic_cxr",
        "mura",
        "nih_chestxray14",
        "openi",
        "rsna_pneumonia",
        "siim_pneumothorax",
        "synthetic_cxr",
        "vindr_cxr",
    )
}
_MANIFEST = "medclip_jax.data.builders.manifest.manifest_dataset_builder"
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_BuilderClass = type[tfds.core.GeneratorBasedBuilder]


def builder_class(name: str) -> _BuilderClass:
    """The TFDS builder of one of `BUILDERS`, or of "manifest"; raises `UserError` for others."""
    if name == "manifest":
        return importlib.import_module(_MANIFEST).Builder
    if name not in BUILDERS:
        raise UserError(f"no set is called {name!r}; there are: {', '.join(BUILDERS)}, manifest")
    return importlib.import_module(BUILDERS[name]).Builder


class _OptionsParser(argparse.ArgumentParser):
    """Reports a wrong option as one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def options_parser(name: str) -> argparse.ArgumentParser:
    """The flags of a set, made of its config's fields; given ones only are in the namespace."""
    configs = [f"  {c.name}: {c.description}" for c in builder_class(name).BUILDER_CONFIGS]
    parser = _OptionsParser(
        f"medclip-jax data build {name}",
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        usage=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join([f"configs of {name}:", *configs]),
    )
    group = parser.add_argument_group(f"options of {name}")
    for field in _option_fields(name):
        choices = field.metadata["choices"]
        default = f" (default: {field.default})" if field.default != "" else ""
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            choices=choices or None,
            metavar="|".join(choices) or ("N" if isinstance(field.default, int) else "TEXT"),
            help=field.metadata["help"] + default,
        )
    return parser


def build(
    name: str,
    *,
    manual_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    max_rejected: float = 0.01,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> str:
    """Prepares one of `BUILDERS`; one that is already prepared is left as it is.

    An interrupted build goes on where it was, when it is called again. Rows that cannot be used are
    left out and listed in `rejected.csv` in the folder of the set, also where the build fails
    because they are too many.

    Args:
        name: `NAME` or `NAME/CONFIG`; CONFIG is one of the builder's own, or any other name for a
            set with `options`.
        manual_dir: the folder with the files that the user downloaded, for sets that need them.
        data_dir: where prepared sets lie; see `datasets.default_data_dir`.
        options: fields of the set's config that differ from the default.
        max_rejected: the share of rows that may be left out, from 0 to 1.
        beam_runner: the Apache Beam runner to read the files on, "DirectRunner", ….
        beam_options: the runner's options, "project=NAME".

    Returns:
        What was prepared and where, in a line, then a line for each thing to know.

    Raises:
        UserError: the name, the config or an option is unknown, the files cannot be used, or the
            name is taken by a set with other options.
    """
    set_name, _, config_name = name.partition("/")
    cls = builder_class(set_name)
    config = _config(cls, config_name, dict(options or {}))
    return prepare(
        cls,
        config,
        {"options": config.options()} if isinstance(config, RowConfig) else {},
        data_dir=data_dir,
        manual_dir=_manual_dir(cls, manual_dir),
        max_rejected=max_rejected,
        beam_runner=beam_runner,
        beam_options=beam_options,
    )


def build_manifest(
    name: str,
    manifest: str | Path,
    image_root: str | Path,
    *,
    label_columns: Sequence[str] = (),
    labels_from: str | None = None,
    max_rejected: float = 0.01,
    data_dir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
) -> str:
    """Prepares one's own images and texts as `manifest/NAME`, as `build` prepares other sets.

    Args:
        name: the set's name: letters, digits, "_" and "-".
        manifest: a CSV or JSON Lines file; `builders.manifest.rows.read_manifest` says more.
        image_root: the folder that its image paths are relative to.
        label_columns: its columns that hold labels.
        labels_from: its column that lists labels joined by "|".
        max_rejected: the share of rows that may be left out, from 0 to 1.
        data_dir: where prepared sets lie; see `datasets.default_data_dir`.
        options: the options of `RowConfig` that differ from the default.
        beam_runner: as in `build`.
        beam_options: as in `build`.

    Returns:
        As `build` does.

    Raises:
        UserError: the manifest cannot be used, or NAME is taken by another manifest.
    """
    if not _SET_NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name a set: use letters, digits, '_' and '-' only")
    manifest, image_root = Path(manifest).expanduser(), Path(image_root).expanduser()
    cls = builder_class("manifest")
    config = importlib.import_module(_MANIFEST).ManifestConfig(
        name=name,
        manifest=manifest,
        image_root=image_root,
        label_columns=tuple(label_columns),
        labels_from=labels_from,
        **dict(options or {}),
    )
    source = {
        "manifest_sha256": _sha256(manifest),
        "image_root": str(image_root.resolve()),
        "label_columns": list(label_columns),
        "labels_from": labels_from,
        "options": config.options(),
    }
    return prepare(
        cls,
        config,
        source,
        data_dir=data_dir,
        max_rejected=max_rejected,
        beam_runner=beam_runner,
        beam_options=beam_options,
    )


def _option_fields(name: str) -> list[dataclasses.Field[Any]]:
    config = builder_class(name).default_builder_config
    config_class = type(config) if config else RowConfig if name == "manifest" else None
    return [f for f in dataclasses.fields(config_class) if f.metadata] if config_class else []


def _config(
    cls: _BuilderClass, name: str, options: dict[str, Any]
) -> tfds.core.BuilderConfig | None:
    """The builder's config of this name, or a new one with these options."""
    known = cls.builder_configs
    if not options:
        if name and name not in known:
            new = " (a new name needs options)" if _has_options(cls) else ""
            listed = ", ".join(known) or "none"
            raise UserError(f"{cls.name} has no config {name!r}; it has: {listed}{new}")
        return known[name] if name else cls.default_builder_config
    if not _SET_NAME.fullmatch(name) or name in known:
        raise UserError(
            f"with options, {cls.name} is another set; give it a name of its own, of letters, "
            f"digits, '_' and '-': {cls.name}/NAME"
        )
    return dataclasses.replace(cls.default_builder_config, name=name, description="", **options)


def _has_options(cls: _BuilderClass) -> bool:
    return isinstance(cls.default_builder_config, RowConfig)


def _manual_dir(cls: _BuilderClass, manual_dir: str | Path | None) -> Path | None:
    if manual_dir is None:
        if cls.MANUAL_DOWNLOAD_INSTRUCTIONS and not getattr(cls, "DOWNLOADS", False):
            instructions = " ".join(cls.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
            raise UserError(f"{cls.name} needs --manual-dir DIR. {instructions}")
        return None
    folder = Path(manual_dir).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: --manual-dir is not a folder")
    if not any(folder.iterdir()):
        raise UserError(f"{folder}: --manual-dir is an empty folder")
    return folder


def _sha256(manifest: Path) -> str:
    try:
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{manifest}: cannot be read ({error.strerror})") from error
