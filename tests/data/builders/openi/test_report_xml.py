"""Open-i's XML reports: made-up ones, and all 3,955 of the collection."""

import collections
import tarfile
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.real_data import real

from medclip_jax.data.builders.openi.report_xml import parse_report
from medclip_jax.data.reports import select_sections
from medclip_jax.errors import UserError

# What XML 1.0 allows, without what would make another section of a text.
TEXTS = st.text(st.characters(min_codepoint=32, codec="utf-8", exclude_characters=":\ufffe\uffff"))


def report(
    findings: str = "", impression: str = "", images: str = "", mesh: str = "", uid: str = "CXR10"
) -> bytes:
    return f"""<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="{uid}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON"/><AbstractText Label="INDICATION"> </AbstractText>
<AbstractText Label="FINDINGS">{escape(findings)}</AbstractText>
<AbstractText Label="IMPRESSION">{escape(impression)}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH>{mesh}</MeSH>{images}</eCitation>""".encode()


def test_a_report() -> None:
    images = '<parentImage id="CXR10_IM-0002-1001"/><parentImage id="CXR10_IM-0002-2001"/>'
    mesh = "<major>Calcified Granuloma/lung/right</major><automatic>granuloma</automatic>"
    parsed = parse_report(report("Heart  normal.\n No effusion.", "Normal.", images, mesh))
    assert parsed.uid == "CXR10"
    assert parsed.sections == {"findings": "Heart normal. No effusion.", "impression": "Normal."}
    assert parsed.text == "FINDINGS: Heart normal. No effusion.\nIMPRESSION: Normal."
    assert parsed.image_names == ("CXR10_IM-0002-1001", "CXR10_IM-0002-2001")
    assert (parsed.mesh, parsed.automatic_mesh) == (
        ("Calcified Granuloma/lung/right",),
        ("granuloma",),
    )


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (b"", "not XML"),
        (report("Normal.")[:-20], "not XML"),
        (report(uid=""), "no uId"),
        (
            report(images='<parentImage id="../../etc/passwd"/>'),
            "names an image '../../etc/passwd'",
        ),
        (b'<!DOCTYPE a [<!ENTITY b "c">]>' + report().split(b"\n", 1)[1], "declares"),
    ],
)
def test_what_is_refused(xml: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_report(xml)


@given(findings=TEXTS, impression=TEXTS)
def test_texts_come_back(findings: str, impression: str) -> None:
    parsed = parse_report(report(findings, impression))
    assert parsed.sections.get("findings", "") == " ".join(findings.split())
    assert parsed.sections.get("impression", "") == " ".join(impression.split())


@given(st.binary())
def test_anything_else_is_a_users_error(xml: bytes) -> None:
    with pytest.raises(UserError):
        parse_report(xml)


def test_the_collection() -> None:
    filled, images, normal, changed = collections.Counter(), collections.Counter(), 0, []
    with tarfile.open(real("openi") / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            if not member.name.endswith(".xml"):
                continue
            file = archive.extractfile(member)
            assert file is not None
            parsed = parse_report(file.read())
            filled["findings" in parsed.sections, "impression" in parsed.sections] += 1
            images[len(parsed.image_names)] += 1
            normal += parsed.mesh == ("normal",)
            for name in parsed.sections.keys() & {"findings", "impression"}:
                if select_sections(parsed.text, (name,)) != parsed.sections[name]:
                    changed.append((parsed.uid, name))
    assert filled == {(True, True): 3419, (True, False): 6, (False, True): 502, (False, False): 28}
    assert images == {0: 104, 1: 446, 2: 3208, 3: 181, 4: 15, 5: 1}
    assert normal == 1391
    assert len(changed) == 1  # an impression that holds the whole report again
