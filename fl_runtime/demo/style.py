"""The report's style sheet: system fonts, light and dark, nothing fetched."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5c6675; --rule: #e1e5ea; --grid: #e9ecf0;
  --s0: #7a8699; --s1: #2f6fdb; --s2: #0e9384; --s3: #c2620c; --s4: #9341b5; --mean: #1b2330;
  --good: #157f4f; --bad: #c22f2f; --warn-back: #fff6dd; --warn-ink: #6b4e00; --bad-back: #fdeaea; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161c; --card: #1a2029; --ink: #e8ecf2; --soft: #9aa5b4; --rule: #2b3440; --grid: #262e39;
  --s0: #8793a5; --s1: #6ea2ff; --s2: #35c4b2; --s3: #f09a4a; --s4: #cf8bee; --mean: #f4f6f9;
  --good: #4cc38a; --bad: #ff7b7b; --warn-back: #33290f; --warn-ink: #f2d48a; --bad-back: #3a1d1f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 920px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { font-size: 28px; letter-spacing: -0.02em; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 0 0 14px; }
h3 { font-size: 14px; font-weight: 600; color: var(--soft); margin: 22px 0 8px; }
header p { margin: 0 0 12px; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; padding: 22px 24px; margin-top: 18px; }
.banner { background: var(--warn-back); color: var(--warn-ink); padding: 10px 14px; border-radius: 10px; font-size: 14px; }
.banner.bad { background: var(--bad-back); color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 12px; margin-top: 18px; }
.tiles div { background: var(--card); border: 1px solid var(--rule); border-radius: 14px; padding: 14px 16px; }
.tiles b { display: block; font-size: 22px; letter-spacing: -0.02em; white-space: nowrap; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: 13px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.note { color: var(--soft); font-size: 13.5px; margin: 12px 0 0; }
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--grid); } .tick { fill: var(--soft); font-size: 11.5px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; opacity: .85; } .line.mean { stroke-width: 3.5; opacity: 1; }
.dot { stroke: var(--card); stroke-width: 1.5; }
.line.s1, .node.s1 { stroke: var(--s1); } .line.s2, .node.s2 { stroke: var(--s2); }
.line.s3, .node.s3 { stroke: var(--s3); } .line.s4, .node.s4 { stroke: var(--s4); }
.line.mean { stroke: var(--mean); } .node.s0 { stroke: var(--s0); }
.dot.s1 { fill: var(--s1); } .dot.s2 { fill: var(--s2); } .dot.s3 { fill: var(--s3); } .dot.s4 { fill: var(--s4); }
.dot.mean { fill: var(--mean); }
.key.s1, .bar.s1 { background: var(--s1); } .key.s2, .bar.s2 { background: var(--s2); }
.key.s3, .bar.s3 { background: var(--s3); } .key.s4, .bar.s4 { background: var(--s4); }
.key.mean, .bar.mean { background: var(--mean); } .bar.s0 { background: var(--s0); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 8px; font-size: 13.5px; }
.legend .key { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 7px; vertical-align: middle; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; white-space: nowrap; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--rule); vertical-align: top; text-align: left;
  overflow-wrap: break-word; }
td { font-variant-numeric: tabular-nums; } td:last-child, th:last-child { padding-right: 0; }
tbody tr:last-child > * { border-bottom: 0; }
.scroll { overflow-x: auto; }
.bars th { font-weight: 500; white-space: nowrap; width: 1%; border: 0; }
.bars td { border: 0; } .bars .track { width: 75%; vertical-align: middle; }
.bars .number { white-space: nowrap; text-align: right; }
.bar { height: 12px; border-radius: 3px; min-width: 2px; }
.node { fill: var(--card); stroke-width: 2; } .name { fill: var(--ink); font-size: 13.5px; font-weight: 600; }
.edge { fill: none; stroke-width: 1.6; opacity: .75; } .edge.trusts { stroke: var(--good); } .edge.peer { opacity: .45; }
.edge.refuses { stroke: var(--bad); stroke-dasharray: 5 4; } .edge:hover { stroke-width: 3; opacity: 1; }
.head.trusts { fill: var(--good); } .head.refuses { fill: var(--bad); }
.mark.happened { fill: var(--s0); opacity: .55; } .mark.refused { fill: var(--bad); stroke: var(--card); stroke-width: 1.5; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--soft); font-size: 14px; }
.story { max-height: 420px; overflow: auto; font: 12.5px/1.6 ui-monospace, Menlo, Consolas, monospace; padding-left: 46px; }
.story li { overflow-wrap: anywhere; }
pre { margin: 0; padding: 14px 16px; background: var(--page); border-radius: 10px; overflow-x: auto;
  font: 13px/1.6 ui-monospace, Menlo, Consolas, monospace; }
@media print { section { break-inside: avoid; } }
"""
