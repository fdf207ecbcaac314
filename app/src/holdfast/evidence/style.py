"""The style sheet of the pages: plain, fluid, light and dark."""

STYLE = """
:root{--back:#f7f7f4;--card:#fff;--ink:#1c2024;--soft:#5b636b;--rule:#d9dcd8;--good:#14694a;--good-back:#e2f1e8;
--bad:#a3201d;--bad-back:#fbe6e3;--none:#6b4a00;--none-back:#fbf0d3;--accepted:#4f86b5;--refused:#c2571a;
--refused-back:#f6d9c4;--lost:#a3201d;--gap:#a3201d;--behind:#7a3fa0;--link:#1a5a96;--phase:#e4e7e3}
@media (prefers-color-scheme:dark){:root{--back:#15181b;--card:#1e2226;--ink:#e6e8e6;--soft:#a2abb2;--rule:#363c42;
--good:#7fd0a6;--good-back:#16352a;--bad:#ff9a90;--bad-back:#451d1b;--none:#f0cd78;--none-back:#3d3010;
--accepted:#6fa5d2;--refused:#ef9a5c;--refused-back:#5a3218;--lost:#ff8a80;--gap:#ff8a80;--behind:#c79be6;
--link:#8fc3f5;--phase:#30363b}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{overflow-wrap:anywhere;max-width:66rem;margin:0 auto;padding:1rem clamp(.9rem,3vw,2rem) 3rem}
h1{font-size:clamp(1.25rem,3.5vw,1.7rem);line-height:1.25;margin:.6rem 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:1rem 0 .4rem}
p{margin:.4rem 0}
a{color:var(--link)}
.soft,small{color:var(--soft)}
.verdict{border-radius:10px;padding:1rem 1.2rem;border:1px solid;border-left-width:8px;margin:1rem 0}
.verdict strong{display:block;font-size:clamp(1.5rem,5vw,2.1rem);line-height:1.2}
.verdict ul{margin:.4rem 0 0;padding-left:1.2rem}
.verdict li,.verdict p{overflow-wrap:anywhere;color:var(--ink)}
.passed{color:var(--good);background:var(--good-back);border-color:var(--good)}
.failed{color:var(--bad);background:var(--bad-back);border-color:var(--bad)}
.unmeasured,.interrupted,.broken{color:var(--none);background:var(--none-back);border-color:var(--none)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,10.4rem),1fr));gap:.8rem}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:.8rem 1rem;min-width:0}
.card h3{margin:0;font-size:.95rem}
.card .big{font-size:1.9rem;line-height:1.2;margin:.2rem 0;font-variant-numeric:tabular-nums;font-weight:600}
.card p{margin:.15rem 0;font-size:.9rem}
.card svg{display:block;width:100%;height:10px;margin:.45rem 0}
.met{color:var(--good)}.missed{color:var(--bad);font-weight:600}
.track{fill:var(--rule)}.fill-met{fill:var(--good)}.fill-missed{fill:var(--bad)}.mark{fill:var(--ink)}
.panel h3{margin:.1rem 0 .6rem}
.runs td:nth-child(n+2):nth-child(-n+5){white-space:nowrap}
.panel{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:.8rem;margin:.6rem 0}
svg.timeline,svg.trend{display:block;width:100%;height:auto}
svg text{font:11.5px system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--soft);
font-variant-numeric:tabular-nums}
svg .end{text-anchor:end}svg .middle{text-anchor:middle}
.narrow{display:none!important}
.face-name{font-weight:600!important;fill:var(--ink)!important}
.grid{stroke:var(--rule)}.axis{stroke:var(--soft)}
.accepted{fill:var(--accepted)}.refused-back{fill:var(--refused-back)}.refused-line{stroke:var(--refused);
stroke-width:3}
.lost{fill:var(--lost)}
.gap{fill:var(--gap);fill-opacity:.15;stroke:var(--gap);stroke-opacity:.7}.behind{fill:var(--behind);fill-opacity:.3}
.bracket{stroke:var(--ink);fill:none;stroke-width:1.2}.label-back{fill:var(--card);opacity:.92}
.gap-words{text-anchor:middle;fill:var(--ink)!important;font-weight:600!important}
.phase{fill:var(--phase);stroke:var(--card)}.phase.failed{fill:var(--bad-back);stroke:var(--bad)}
.phase.skipped{opacity:.5}
.phase-name{text-anchor:middle;fill:var(--ink)!important}
.moment{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:5 3}
.flag{fill:var(--ink)}.flag-words{text-anchor:middle;fill:var(--back)!important;font-weight:600!important}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.85rem;color:var(--soft);padding:.5rem 0 0;margin:0;
list-style:none}
.legend svg{width:14px;height:14px;vertical-align:-2px;margin-right:.35rem}
.target{stroke:var(--bad);stroke-dasharray:6 4}.aim{stroke:var(--good);stroke-dasharray:2 3}
.trend-line{fill:none;stroke:var(--accepted);stroke-width:1.5}.dot-passed{fill:var(--accepted)}
.dot-failed{fill:none;stroke:var(--bad);stroke-width:2}
.trends{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:.8rem}
table.rows{border-collapse:collapse;width:100%;font-size:.92rem}
.rows caption{text-align:left;color:var(--soft);padding:0 0 .3rem}
.rows th,.rows td{text-align:left;padding:.4rem .7rem .4rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
.rows th{color:var(--soft);font-weight:600;font-size:.84rem}
.rows td{overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.rows tbody tr:last-child td{border-bottom:0}
.facts td:first-child{width:34%;color:var(--soft)}
details{margin:.3rem 0}summary{cursor:pointer}
pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.7rem .9rem;white-space:pre-wrap;
overflow-wrap:anywhere;font:.86rem/1.5 ui-monospace,"DejaVu Sans Mono",monospace;margin:.5rem 0}
.badge{display:inline-block;border:1px solid;border-radius:99px;padding:0 .6rem;font-size:.84rem;font-weight:600;
white-space:nowrap}
dt{font-weight:600;margin-top:.5rem}dd{margin:0;color:var(--soft)}
footer{margin-top:2.5rem;color:var(--soft);font-size:.85rem}
@media (max-width:40rem){.wide{display:none!important}.narrow{display:block!important}
.rows thead{position:absolute;left:-9999px}
.rows,.rows tbody,.rows tr,.rows td{display:block;width:100%}
.rows tr{padding:.55rem 0;border-bottom:1px solid var(--rule)}.rows tbody tr:last-child{border-bottom:0}
.rows td,.facts td:first-child{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.12rem 0;
width:100%}
.rows td>span{text-align:right;min-width:0}
.rows td::before{content:attr(data-label);color:var(--soft);flex:none;max-width:45%}
.rows td:first-child{font-weight:600}.rows td:first-child>span{text-align:left}
.rows td:first-child::before{content:none!important}
.phases tr{display:grid;grid-template-columns:1fr 1fr;column-gap:1.4rem}.phases td:first-child{grid-column:1/3}
.rows td[data-label=""]{display:block}.rows td[data-label=""]::before{content:none}
.facts td:first-child::before,.facts td+td::before{content:none}
.facts td{display:block!important}.facts td:first-child{font-weight:400}
.panel{padding:.6rem .4rem}.panel.pad{padding:.4rem .9rem}}
@media print{body{background:#fff}.card,.panel,.verdict{break-inside:avoid}}
"""
