"""JUnit XML, as CI systems read it: one suite, a test case each check."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from broker.reports.verdict import Result, Verdict


def junit(suite: str, verdicts: Sequence[Verdict], seconds: float) -> bytes:
    """The file's bytes."""
    counts = {result: sum(verdict.result is result for verdict in verdicts) for result in Result}
    root = ET.Element("testsuites")
    element = ET.SubElement(
        root,
        "testsuite",
        name=_clean(suite),
        tests=str(len(verdicts)),
        failures=str(counts[Result.FAILED]),
        errors="0",
        skipped=str(counts[Result.SKIPPED]),
        time=f"{seconds:.3f}",
    )
    for verdict in verdicts:
        case = ET.SubElement(
            element,
            "testcase",
            classname=_clean(suite),
            name=_clean(verdict.name),
            time=f"{verdict.seconds:.3f}",
        )
        if verdict.result is Result.FAILED:
            ET.SubElement(case, "failure", message=_clean(verdict.said)).text = _clean(verdict.said)
        elif verdict.result is Result.SKIPPED:
            ET.SubElement(case, "skipped", message=_clean(verdict.said))
        else:
            ET.SubElement(case, "system-out").text = _clean(verdict.said)
    ET.indent(root)
    written: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _clean(text: str) -> str:
    """XML has no way to write control characters."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
