"""Reports: what was checked, as a page, as JUnit, and drawn."""

import math
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from broker.reports.charts import Line, Mark, bars, counted, lines, share_done
from broker.reports.junit import junit
from broker.reports.page import Card, page, table, text
from broker.reports.verdict import Result, Verdict, is_good

GOOD = Verdict("confirmed", Result.PASSED, "all of them")
BAD = Verdict("p99", Result.FAILED, "the p99 is 3 s; at most 2 s")
SKIPPED = Verdict("jitter", Result.SKIPPED, "nothing to measure")


def test_a_skipped_check_is_not_a_failed_one() -> None:
    assert is_good([GOOD, SKIPPED])
    assert not is_good([GOOD, BAD])
    assert Verdict.of("x", False, "").result is Result.FAILED


def test_junit_says_what_failed() -> None:
    root = ET.fromstring(junit("fleet smoke", [GOOD, BAD, SKIPPED], 12.5))
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert [case.get("name") for case in suite] == ["confirmed", "p99", "jitter"]
    failure = suite[1].find("failure")
    assert failure is not None
    assert failure.get("message") == BAD.said


@given(st.text())
def test_junit_is_xml_whatever_a_device_said(said: str) -> None:
    root = ET.fromstring(junit("fleet", [Verdict("x", Result.FAILED, said)], 0))
    assert root[0][0].find("failure") is not None


TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "div", "b", "i", "span", "section"),
    *("table", "tr", "td", "th", "svg", "path", "text", "rect", "circle", "pre", "footer"),
}


class Reader(HTMLParser):
    """Collects the tags of a page, and what they fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "path", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "path", "rect", "circle"):
            assert self.open.pop() == tag


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def test_a_page_is_one_file_and_well_formed() -> None:
    chart = lines(
        [Line("arrived", counted([1, 2, 3]), steps=True), Line("done", counted([2, 4]))], "seconds", "devices"
    )
    cards = [Card("Plot", chart), Card("Table", table([("a", "1")])), Card("Text", text("x = 1"), wide=True)]
    found = read(page("Title", "Lead", [GOOD, BAD], [("devices", "3")], cards, "the end"))
    assert found.fetched == []
    assert "script" not in found.seen
    assert "svg" in found.seen


def test_a_page_says_how_it_ended() -> None:
    assert '<span class="badge failed">failed</span>' in page("T", "", [GOOD, BAD], [], [], "")
    assert '<span class="badge passed">passed</span>' in page("T", "", [GOOD], [], [], "")


@given(st.text(alphabet="<>&\"'abc"))
def test_what_came_from_outside_is_escaped(word: str) -> None:
    chart = bars([(word, 3)], word) + lines([Line(word, [(0, 1), (1, 2)])], word, word, marks=[Mark(0, 1, word)])
    verdict = Verdict(word, Result.FAILED, word)
    found = read(page(word, word, [verdict], [(word, word)], [Card(word, chart + text(word))], word))
    assert found.seen <= TAGS


@given(st.lists(st.floats(1e-4, 1e5), min_size=1, max_size=900), st.booleans())
def test_every_point_lies_in_the_picture(values: list[float], log: bool) -> None:
    chart = lines([Line("x", share_done(values))], "s", "percent", log_x=log)
    numbers = chart.split(' d="M')[-1].split('"')[0].replace("L", " ").split()
    assert len(numbers) <= 2 * 402
    assert all(0 <= float(number) <= 640 for number in numbers)
    assert not any(math.isnan(float(number)) for number in numbers)


def test_nothing_makes_no_picture() -> None:
    assert lines([], "x", "y") == ""
    assert bars([], "x") == ""
