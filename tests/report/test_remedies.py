# SPDX-License-Identifier: Apache-2.0
import pytest
from report.samples import failing
from report.test_html import Walk

from linfdeploy.report.html import html_bytes
from linfdeploy.report.remedies import REMEDIES, remedy
from linfdeploy.report.words import KINDS


def test_every_kind_can_be_mended() -> None:
    assert set(REMEDIES) == set(KINDS)


@pytest.mark.parametrize("kind", REMEDIES)
def test_a_remedy_is_one_line_of_whole_sentences(kind: str) -> None:
    text = remedy(kind)
    assert text.endswith(".")
    assert "\n" not in text
    assert text[0].isupper()


def test_an_unknown_kind_is_not_left_without() -> None:
    assert remedy("new") == "Do not deploy before it is explained."


def test_the_page_tells_how_to_mend_each_kind_once() -> None:
    text = Walk(html_bytes(failing()).decode("utf-8")).text
    for kind in ("certificate", "conformance"):
        assert text.count(KINDS[kind]) == 1
    assert text.count(remedy("certificate")) == 1
    assert "Do not deploy before it is explained." in text
