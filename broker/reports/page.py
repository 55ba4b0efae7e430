"""One HTML file: nothing in it is fetched, nothing in it runs, and what came from outside is escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from broker.reports.verdict import Result, Verdict, is_good

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2127;--soft:#5b6672;--line:#dfe4e9;--page:#f5f7f9;--card:#fff;
--a:#0b7285;--b:#e8590c;--c:#6741d9;--good:#2b8a3e;--bad:#c92a2a;--idle:#868e96}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa5b1;--line:#343a40;--page:#15181b;--card:#1e2226;
--a:#3bc9db;--b:#ff922b;--c:#b197fc;--good:#51cf66;--bad:#ff6b6b;--idle:#868e96}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 48px}
h1{font-size:26px;line-height:1.25;margin:0 0 6px}h2{font-size:16px;margin:0 0 12px}
.lead{color:var(--soft);margin:0 0 20px;max-width:75ch}
.badge{display:inline-block;padding:2px 12px;border-radius:99px;color:#fff;font-weight:600;font-size:14px;
vertical-align:4px;margin-left:10px}.badge.passed{background:#2b8a3e}.badge.failed{background:#c92a2a}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:0 0 16px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px}
.figure b{display:block;font-size:24px;line-height:1.2;font-variant-numeric:tabular-nums}
.figure span{color:var(--soft);font-size:13px}
.narrow{columns:2 440px;column-gap:16px;margin-top:16px}.narrow .card{break-inside:avoid;margin-bottom:16px}
.narrow~.card{margin-top:16px}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:7px 12px 7px 0;vertical-align:top;
border-top:1px solid var(--line)}tr:first-child>*{border-top:0}
td.num{text-align:right;font-variant-numeric:tabular-nums}
th{font-weight:600;white-space:nowrap}.result{font-weight:600;width:6.5em}.passed .result{color:var(--good)}
.failed .result{color:var(--bad)}.skipped .result{color:var(--idle)}
svg{width:100%;height:auto;display:block}svg text{font-size:14px;fill:var(--soft)}svg .label{fill:var(--soft)}
svg .line{fill:none;stroke-width:2.2;stroke-linejoin:round}svg .grid{stroke:var(--line);fill:none}
svg .axis{stroke:var(--soft);fill:none}svg .bar{fill:var(--a)}svg .mark{fill:var(--b)}
svg .c0{stroke:var(--c)}svg .c1{stroke:var(--a)}svg .c2{stroke:var(--b)}
.legend{margin:8px 0 0;color:var(--soft);font-size:13px}.key{margin-right:18px}
.key i{display:inline-block;width:14px;height:3px;border-radius:2px;margin:0 7px 3px 0}
i.c0{background:var(--c)}i.c1{background:var(--a)}i.c2{background:var(--b)}
.key i.dot{width:9px;height:9px;border-radius:9px;margin-bottom:0;background:var(--b)}
pre{margin:0;white-space:pre-wrap;font-size:13px}footer{color:var(--soft);font-size:13px;margin-top:24px}
"""


@dataclass(frozen=True, slots=True)
class Card:
    """A part of the page: `body` is HTML already."""

    title: str
    body: str
    wide: bool = False


def page(
    title: str,
    lead: str,
    verdicts: Sequence[Verdict],
    figures: Sequence[tuple[str, str]],
    cards: Sequence[Card],
    footer: str,
) -> str:
    """The whole file. `figures` are a few numbers with what they are."""
    result = Result.PASSED if is_good(verdicts) else Result.FAILED
    shown = "".join(
        f'<div class="card figure"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in figures
    )
    checks = "".join(
        f'<tr class="{verdict.result}"><td class="result">{verdict.result}</td>'
        f"<th>{escape(verdict.name)}</th><td>{escape(verdict.said)}</td></tr>"
        for verdict in verdicts
    )
    narrow = "".join(_card(card) for card in cards if not card.wide and card.body)
    wide = "".join(_card(card) for card in cards if card.wide and card.body)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}<span class="badge {result}">{result}</span></h1><p class="lead">{escape(lead)}</p>'
        f'<div class="figures">{shown}</div>'
        f'<section class="card"><h2>Checks</h2><table>{checks}</table></section>'
        f'<div class="narrow">{narrow}</div>{wide}<footer>{escape(footer)}</footer></main></body></html>\n'
    )


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, the second one numbers."""
    return (
        "<table>"
        + "".join(f'<tr><td>{escape(name)}</td><td class="num">{escape(value)}</td></tr>' for name, value in rows)
        + "</table>"
    )


def text(words: str) -> str:
    """As it is written."""
    return f"<pre>{escape(words)}</pre>"


def _card(card: Card) -> str:
    return f'<section class="card"><h2>{escape(card.title)}</h2>{card.body}</section>'
