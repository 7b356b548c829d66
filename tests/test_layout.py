"""The shape of the code and of the docs: small files, whole packages, links that lead somewhere."""

import re
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("medclip_jax", "configs", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small_and_say_what_they_hold(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    assert not text or text.startswith('"""')


def test_every_folder_with_code_is_a_package() -> None:
    packages = {name.replace(".", "/") for name in find_packages(str(ROOT), include=["medclip*"])}
    with_code = {str(path.parent.relative_to(ROOT)) for path in FILES if "medclip_jax" in str(path)}
    assert {folder for folder in with_code if folder.startswith("medclip_jax")} == packages


def test_docs_link_to_files_that_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
