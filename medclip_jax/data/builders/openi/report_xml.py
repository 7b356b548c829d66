"""The XML reports of the Indiana University collection, as Open-i distributes them.

Demner-Fushman et al., JAMIA 2016, https://doi.org/10.1093/jamia/ocv080. One file is one study.
"""

import re
import xml.etree.ElementTree as ET
from typing import NamedTuple

from medclip_jax.errors import UserError

# In the order in which the files have them.
SECTIONS = ("comparison", "indication", "findings", "impression")
_IMAGE_NAME = re.compile(r"CXR\d+(?:_\d+)?_IM-[\w-]+")


class OpenIReport(NamedTuple):
    """A report and what it says about its images.

    Attributes:
        uid: "CXR10".
        sections: the texts of `SECTIONS`, white space folded; empty ones are left out.
        image_names: the stems of the images' files.
        mesh: terms given by hand, "Calcified Granuloma/lung/upper lobe/right" or "normal".
        automatic_mesh: terms found by a program.
    """

    uid: str
    sections: dict[str, str]
    image_names: tuple[str, ...]
    mesh: tuple[str, ...]
    automatic_mesh: tuple[str, ...]

    @property
    def text(self) -> str:
        """The report with a header before each section, as `reports.split_sections` reads it."""
        return "\n".join(f"{name.upper()}: {text}" for name, text in self.sections.items())


def parse_report(xml: bytes) -> OpenIReport:
    """Reads one file.

    Raises:
        UserError: it is no XML, declares entities or a document type (which these files never do,
            and which can make a small file huge), or has no uId.
    """
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        raise UserError("declares a document type or entities, which no report does")
    try:
        root = ET.fromstring(xml)
    except ET.ParseError as error:
        raise UserError(f"not XML ({error})") from error
    uid = root.find("uId")
    if uid is None or not uid.get("id"):
        raise UserError("has no uId")
    texts = {
        str(part.get("Label")).lower(): " ".join("".join(part.itertext()).split())
        for part in root.iter("AbstractText")
    }
    return OpenIReport(
        uid=str(uid.get("id")),
        sections={name: texts[name] for name in SECTIONS if texts.get(name)},
        image_names=tuple(_image_name(image) for image in root.iter("parentImage")),
        mesh=_terms(root, "major"),
        automatic_mesh=_terms(root, "automatic"),
    )


def _image_name(image: ET.Element) -> str:
    name = str(image.get("id"))
    # It becomes part of a path.
    if not _IMAGE_NAME.fullmatch(name):
        raise UserError(f"names an image {name!r}")
    return name


def _terms(root: ET.Element, kind: str) -> tuple[str, ...]:
    return tuple(
        term.text.strip()
        for term in root.iterfind(f"MeSH/{kind}")
        if term.text and term.text.strip()
    )
