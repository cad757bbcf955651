# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the HTML report looks."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5c6778; --line: #e3e7ed; --track: #eef1f5;
  --good: #1a7f4b; --good-bg: #e3f5ea; --warn: #8f5b00; --warn-bg: #fdf1d8; --bad: #b3261e; --bad-bg: #fdE7e5;
  --calm: #2f5bb7; --calm-bg: #e6eefb; --bar: #3b6fd4; --bar-soft: #9db6e4; --bar-old: #98a3b3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10141b; --card: #181e27; --ink: #e6eaf0; --soft: #98a4b5; --line: #2a3340; --track: #222a35;
    --good: #6fd49b; --good-bg: #143524; --warn: #f0c064; --warn-bg: #3a2c0f; --bad: #ff9a92; --bad-bg: #421b18;
    --calm: #9dbdf8; --calm-bg: #1b2c4d; --bar: #6c9cf5; --bar-soft: #3f5f9c; --bar-old: #5d6878;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 860px; margin: 0 auto; padding: 48px 24px 72px; }
h1, h2, h3, p, ul, dl, dd, figure { margin: 0; padding: 0; }
code, pre { font: 0.88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.eyebrow { color: var(--soft); font-size: 13px; letter-spacing: .04em; }
.title { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; margin-top: 2px; }
h1 { font-size: 30px; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 22px; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }
h3 { font-size: 13px; font-weight: 600; color: var(--soft); letter-spacing: .02em; margin-bottom: 12px; }
.lead { font-size: 18px; line-height: 1.45; margin-top: 12px; max-width: 46em; overflow-wrap: anywhere; }
.server { color: var(--soft); margin-top: 4px; overflow-wrap: anywhere; }
.badge { border-radius: 99px; padding: 3px 12px; font-size: 13px; font-weight: 600; white-space: nowrap; }
.good { color: var(--good); background: var(--good-bg); }
.warn { color: var(--warn); background: var(--warn-bg); }
.bad { color: var(--bad); background: var(--bad-bg); }
.calm { color: var(--calm); background: var(--calm-bg); }
.facts { display: flex; flex-wrap: wrap; gap: 4px 28px; margin-top: 20px; color: var(--soft); font-size: 13.5px; }
.facts div { display: flex; gap: 6px; }
.facts dd { color: var(--ink); overflow-wrap: anywhere; }
.host { border-top: 1px solid var(--line); margin-top: 44px; padding-top: 32px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 24px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.tile b { display: block; font-size: 23px; font-weight: 620; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px; margin-top: 12px;
}
ul { list-style: none; }
section > ul:not(.plain) > li { padding: 10px 0; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
section > ul:not(.plain) > li:first-child { border-top: 0; padding-top: 0; }
section > ul:not(.plain) > li:last-child { padding-bottom: 0; }
.plain li { display: flex; flex-wrap: wrap; gap: 0 14px; align-items: baseline; padding: 2px 0; }
.plain li { overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: 13.5px; }
.row { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: baseline; }
.row .state { margin-left: auto; color: var(--soft); font-size: 13px; }
.tag { border-radius: 6px; padding: 1px 8px; font-size: 12px; font-weight: 600; }
.pairs { display: flex; flex-wrap: wrap; gap: 2px 18px; margin-top: 4px; color: var(--soft); font-size: 13.5px; }
.pairs b { color: var(--ink); font-weight: 500; font-variant-numeric: tabular-nums; }
.trouble { border-color: transparent; }
.trouble.bad, .trouble.warn { color: var(--ink); }
.trouble h3 { color: inherit; margin-bottom: 6px; }
.trouble p + p { margin-top: 6px; }
.cleared code, .cleared .tag { opacity: .6; }
pre { background: var(--track); border-radius: 8px; padding: 10px 14px; margin: 8px 0 0; white-space: pre-wrap; }
figure + figure { margin-top: 18px; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 16px; margin-bottom: 6px; }
figcaption span { color: var(--soft); font-size: 13.5px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .name { fill: var(--soft); }
svg .value { font-variant-numeric: tabular-nums; }
svg .track { fill: var(--track); }
svg .bar { fill: var(--bar); }
svg .before { fill: var(--bar-old); }
svg .forecast { fill: var(--bar-soft); }
svg .diagnose, svg .guard, svg .report { fill: var(--bar-soft); }
svg .verify { fill: var(--good); }
table { width: 100%; border-collapse: collapse; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 13px; }
th, td { padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; padding-bottom: 0; }
td { font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.summary { margin-top: 24px; }
.short { white-space: nowrap; }
.long { overflow-wrap: anywhere; min-width: 16em; }
details { margin-top: 8px; }
details summary { cursor: pointer; color: var(--soft); font-size: 13.5px; }
details table { margin-top: 8px; }
footer { color: var(--soft); font-size: 13px; margin-top: 32px; }
@media (max-width: 560px) { svg text { font-size: 18px; } main { padding: 28px 16px 48px; } }
@media print {
  :root {
    color-scheme: light;
    --page: #fff; --card: #fff; --ink: #111; --soft: #555; --line: #ccc; --track: #eee;
    --good: #14663c; --good-bg: #e3f5ea; --warn: #7a4e00; --warn-bg: #fdf1d8; --bad: #9c1f18; --bad-bg: #fde7e5;
    --calm: #2f5bb7; --calm-bg: #e6eefb; --bar: #3b6fd4; --bar-soft: #9db6e4; --bar-old: #98a3b3;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  section, .tile, figure, li { break-inside: avoid; }
  body { font-size: 11pt; }
}
"""
