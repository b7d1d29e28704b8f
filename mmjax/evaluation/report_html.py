"""Escaping, numbers and the style sheet of the report."""

import html
import re
from typing import Any

BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
# Control characters, bidirectional overrides and lone surrogates: no page should hold them.
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

RATES = ("R@", "top", "mean_per_class", "consistency", "mean_average_precision")


def text(value: Any) -> str:
    """Any value as HTML text or a quoted attribute, harmless whatever it holds."""
    return html.escape(UNSHOWN.sub("\ufffd", str(value)), quote=True)


def caption(value: Any) -> str:
    """A caption in any script, kept from turning the text around it."""
    return f'<bdi class="caption">{text(value)}</bdi>'


def source(base64_jpeg: Any) -> str | None:
    """A data URI of a thumbnail, or None where it is none."""
    if isinstance(base64_jpeg, str) and BASE64.fullmatch(base64_jpeg):
        return f"data:image/jpeg;base64,{base64_jpeg}"
    return None


def picture(thumbnails: dict[str, Any], position: Any, note: str = "") -> str:
    """A thumbnail, or a box with the sample's number where there is none."""
    uri = source(thumbnails.get(str(position)))
    if uri is None:
        return f'<span class="thumb none">#{text(position)}</span>'
    return f'<img class="thumb" alt="{text(note or f"sample {position}")}" src="{uri}">'


def mark(hit: bool) -> str:
    """A hit or a miss, told by form as well as by colour."""
    if hit:
        return '<span class="mark hit" title="hit">✓</span>'
    return '<span class="mark miss" title="miss">✗</span>'


def is_rate(name: str) -> bool:
    """Whether a metric's name says that it is a fraction to be shown in per cent."""
    last = name.removesuffix("_chance").rsplit("/", 1)[-1]
    return last.startswith(RATES) or "accuracy" in last


def shown(value: float, name: str = "") -> str:
    """A number for people: three or four digits, per cent for rates, thousands grouped."""
    if is_rate(name):
        return f"{100 * value:.1f} %"
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.2e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def section(title: str, body: str, note: str = "") -> str:
    """A titled part of the page."""
    below = f'<p class="note">{note}</p>' if note else ""
    name = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
    return f'<section id="{name}"><h2>{text(title)}</h2>{below}{body}</section>'


def page(title: str, body: str) -> str:
    """The whole file; the policy forbids scripts and every request, whatever slips in."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>{body}</main>"
        "</body></html>\n"
    )


STYLE = """
:root{--ground:#fafaf8;--card:#fff;--ink:#1b1c1e;--soft:#62656b;--line:#e3e3df;--grid:#ecece8;
--accent:#2a78d6;--good:#0b7a4b;--bad:#c3352f;--heat:#1c5cab;
--s0:#2a78d6;--s1:#d9622b;--s2:#1a9a6c;--s3:#8a5fd1;--s4:#c08a00;--s5:#c43d77}
@media(prefers-color-scheme:dark){:root{--ground:#131417;--card:#1b1d21;--ink:#ececea;--soft:#a0a4ab;
--line:#2e3137;--grid:#282b30;--accent:#5a9ff0;--good:#46c68d;--bad:#f0756e;--heat:#6aaef5;
--s0:#5a9ff0;--s1:#f08a55;--s2:#3fbf8e;--s3:#b08df0;--s4:#dcae3c;--s5:#ec79aa}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);-webkit-text-size-adjust:100%;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 16px 64px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 4px;letter-spacing:-.005em}
h3{font-size:14px;margin:22px 0 8px;font-weight:600}
p{margin:0 0 8px}
section{margin-top:44px}
.note,.lead{color:var(--soft);max-width:72ch}
.note{font-size:13.5px;margin-bottom:14px}
.warn{border-left:3px solid var(--bad);background:var(--card);padding:10px 14px;margin:18px 0 0;
font-size:13.5px;border-radius:0 6px 6px 0;overflow-wrap:anywhere}
.warn ul{margin:4px 0 0;padding-left:18px}
.grid{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(320px,100%),1fr))}
.two{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(460px,100%),1fr))}
.cards{display:grid;gap:12px;margin-top:22px;
grid-template-columns:repeat(auto-fit,minmax(min(158px,100%),1fr))}
.card,figure{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:14px 16px;margin:0;min-width:0}
.card .label{font-size:13px;color:var(--soft);overflow-wrap:anywhere}
.card .big{font-size:30px;font-weight:650;line-height:1.25;letter-spacing:-.02em;
font-variant-numeric:tabular-nums}
.card .small{font-size:12.5px;color:var(--soft)}
.meter{position:relative;height:6px;border-radius:3px;background:var(--grid);margin:6px 0 8px}
.meter i{position:absolute;left:0;top:0;bottom:0;border-radius:3px;background:var(--accent)}
.meter b{position:absolute;top:-3px;bottom:-3px;width:2px;background:var(--ink)}
figcaption{font-size:14px;font-weight:600;margin-bottom:2px;overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12px;color:var(--soft);
margin-bottom:6px;font-variant-numeric:tabular-nums}
.legend span{display:inline-flex;align-items:center;gap:5px;min-width:0;overflow-wrap:anywhere}
.legend i{flex:none;width:12px;height:3px;border-radius:2px}
svg{display:block;width:100%;height:auto}
svg text{font-size:11px;fill:var(--soft);font-family:inherit;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:5px 0 5px 14px;border-bottom:1px solid var(--line);
vertical-align:top;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0;white-space:normal;
overflow-wrap:anywhere}
thead th{font-weight:500;color:var(--soft);font-size:12.5px}
tr.head td{font-weight:600;padding-top:16px}
tbody tr:last-child td{border-bottom:0}
.step:first-child{white-space:nowrap;overflow-wrap:normal;width:1%}
td.left{text-align:left;white-space:normal;overflow-wrap:anywhere}
.bar{display:block;height:8px;border-radius:2px;background:var(--accent);min-width:1px;
margin-top:6px}
.caption{unicode-bidi:isolate;overflow-wrap:anywhere}
.thumb{display:block;width:100%;aspect-ratio:1;object-fit:cover;border-radius:5px;
background:var(--grid)}
.thumb.none{display:flex;align-items:center;justify-content:center;font-size:12px;
color:var(--soft)}
.mark{display:inline-block;font-weight:700;width:1.1em;flex:none}
.hit{color:var(--good)}.miss{color:var(--bad)}
.query{margin-bottom:10px}
.rank{font-size:12.5px;color:var(--soft);margin-top:2px}
.strip{display:grid;grid-template-columns:repeat(6,minmax(0,1fr));gap:8px;align-items:start}
.strip>div{min-width:0;font-size:12px;font-variant-numeric:tabular-nums;white-space:nowrap}
.strip .thumb{outline:2px solid transparent;outline-offset:1px;margin-bottom:4px}
.strip .is-hit .thumb{outline-color:var(--good)}
.strip .is-miss .thumb{opacity:.82}
.strip .truth .thumb{outline:2px dashed var(--soft)}
.strip .truth{color:var(--soft)}
.asked{display:grid;grid-template-columns:84px minmax(0,1fr);gap:14px}
.answers{list-style:none;margin:0;padding:0;font-size:13.5px}
.answers li{display:flex;gap:6px;padding:2px 0}
.answers .caption{flex:1;min-width:0}
.answers .value{color:var(--soft);font-size:12px;font-variant-numeric:tabular-nums;
padding-top:1px}
.matrix text{font-size:8.5px}
.heat{display:grid;gap:22px;align-items:start;
grid-template-columns:minmax(0,1.35fr) minmax(0,1fr)}
.heat ol,.plain{font-size:13px;margin:0;padding-left:26px}
.heat li{padding:1.5px 0}
.cell{fill:var(--heat)}
.own{fill:none;stroke:var(--ink);stroke-width:1.2}
.scale{display:flex;align-items:center;gap:8px;font-size:12px;color:var(--soft);margin-top:8px}
.scale i{height:8px;flex:0 0 120px;border-radius:4px;border:1px solid var(--line);
background:linear-gradient(90deg,transparent,var(--heat))}
.samples{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(132px,1fr))}
.samples>div{min-width:0;font-size:12.5px;line-height:1.4}
.samples .thumb{margin-bottom:6px;max-width:96px}
.tables{display:grid;gap:6px 34px;align-items:start;
grid-template-columns:repeat(auto-fill,minmax(min(400px,100%),1fr))}
.wrong{display:flex;flex-direction:column;gap:10px}
.views{display:grid;gap:8px;grid-template-columns:repeat(auto-fit,minmax(0,1fr));align-items:start}
.views>div{min-width:0;font-size:12px;color:var(--soft)}
.seen{max-height:230px;margin-bottom:4px}
.look{fill:#ff4d12}
.place{fill:#ff4d12;stroke:#ff4d12;stroke-width:1.2;vector-effect:non-scaling-stroke}
.told{display:grid;grid-template-columns:auto minmax(0,1fr);gap:2px 10px;font-size:13.5px;margin:0}
.told dt{color:var(--soft)}.told dd{margin:0;min-width:0}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px;
font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-x:auto;margin:0;
max-height:520px}
pre.wrap{white-space:pre-wrap;overflow-wrap:anywhere}
details{margin-top:14px}
summary{cursor:pointer;font-weight:600;font-size:14px;padding:4px 0}
details>*:not(summary){margin-top:10px}
footer{margin-top:48px;color:var(--soft);font-size:12.5px}
@media(max-width:760px){.heat{grid-template-columns:minmax(0,1fr)}}
@media(max-width:520px){main{padding:18px 14px 48px}.card,figure{padding:12px}
.card .big{font-size:25px}section{margin-top:34px}.strip{gap:5px}.strip>div{font-size:11px}
.cards{grid-template-columns:repeat(2,minmax(0,1fr))}
.asked{grid-template-columns:64px minmax(0,1fr)}
.samples{grid-template-columns:repeat(3,minmax(0,1fr))}
th,td{padding-left:10px}}
@media print{figure,.card{break-inside:avoid}}
"""
