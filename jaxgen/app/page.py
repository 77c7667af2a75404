"""The page of `jaxgen app`: one answer with its style and script inside, which loads nothing but its own pictures.

The server says what runs can do (`forms`); the script makes controls of that, and knows no model and no option.
"""

import base64
import functools
import hashlib

from jaxgen.app.script import SCRIPT
from jaxgen.report.style import STYLE

MORE_STYLE = """
body { max-width: 80rem; }
button, input, select, textarea { font: inherit; color: inherit; }
button { padding: .35rem .9rem; border: 1px solid var(--rule); border-radius: 6px; background: var(--raised);
  cursor: pointer; }
button:hover { border-color: var(--line); }
:focus-visible { outline: 2px solid var(--line); outline-offset: 2px; }
button.first { background: var(--line); border-color: var(--line); color: var(--paper); font-weight: 600;
  padding: .5rem 1.6rem; }
input:not([type=checkbox], [type=radio], [type=range], [type=file]), select, textarea { width: 100%;
  padding: .35rem .5rem; border: 1px solid var(--rule); border-radius: 6px; background: var(--paper); }
input[type=checkbox], input[type=radio], input[type=range] { accent-color: var(--line); }
textarea { resize: vertical; }
fieldset { margin: 0; padding: 0; border: 0; min-width: 0; }
legend, .field > label { padding: 0; font-size: .875rem; color: var(--quiet); }
a { color: var(--line); }
header { margin-bottom: 1.75rem; }
form > h2 { margin: 0 0 .75rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.5rem), 1fr)); gap: .75rem;
  margin: 0 0 2rem; padding: 0; list-style: none; }
.cards button { display: flex; gap: .75rem; align-items: center; width: 100%; height: 100%; padding: .6rem;
  text-align: left; overflow-wrap: anywhere; }
.cards img { flex: none; width: 3.5rem; height: 3.5rem; object-fit: none; object-position: 0 0;
  border-radius: 3px; background: var(--rule); }
.cards [aria-pressed=true] { border-color: var(--line); box-shadow: 0 0 0 1px var(--line); }
.cards small { display: block; color: var(--quiet); }
.desk { display: grid; grid-template-columns: minmax(0, 21rem) minmax(0, 1fr); gap: 2.5rem; align-items: start; }
.tasks { display: flex; flex-wrap: wrap; gap: .4rem; margin: .3rem 0 .75rem; }
.tasks label, .chips label { position: relative; padding: .2rem .7rem; border: 1px solid var(--rule);
  border-radius: 99px; background: var(--raised); cursor: pointer; font-size: .9rem; }
.tasks input, .chips input { position: absolute; opacity: 0; inset: 0; margin: 0; cursor: pointer; }
.tasks label:has(:checked), .chips label:has(:checked) { border-color: var(--line); color: var(--line);
  font-weight: 600; }
label:has(:focus-visible) { outline: 2px solid var(--line); outline-offset: 2px; }
.chips { display: flex; flex-wrap: wrap; gap: .3rem; max-height: 11rem; overflow: auto; padding: .2rem; }
.field { margin: 0 0 .8rem; }
.field.switch label { color: var(--ink); }
.field .help { display: none; margin: .2rem 0 0; }
.explained .help { display: block; }
#says { margin: 0 0 1rem; }
.row { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; }
.field .row input { flex: 1; width: auto; min-width: 4rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem; }
.pair > .wide { grid-column: 1 / -1; }
canvas { display: block; width: min(100%, 16rem); height: auto; margin: .5rem 0; border: 1px solid var(--rule);
  image-rendering: pixelated; touch-action: none; }
canvas.paints { cursor: crosshair; }
form details { margin: 0 0 1rem; }
article { margin: 0 0 2.25rem; padding: 0 0 1.5rem; border-bottom: 1px solid var(--rule); }
article h2 { margin: 0 0 .6rem; font-size: 1rem; }
article h2 small { font-weight: 400; color: var(--quiet); margin-left: .4em; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--tile, 5.5rem)), 1fr));
  gap: .4rem; }
.tiles button { padding: 0; border: 0; background: none; border-radius: 0; min-width: 0; font-size: .75rem;
  color: var(--quiet); }
.tiles img { width: 100%; }
.tiles.one { display: block; }
.tiles.one button { max-width: 100%; }
audio { width: min(100%, 26rem); }
.command { position: relative; }
.command button { position: absolute; top: .9rem; right: .4rem; font-size: .8rem; padding: .1rem .6rem; }
.command pre { padding-right: 5rem; }
dialog { max-width: min(92vw, 34rem); border: 1px solid var(--rule); border-radius: 8px; background: var(--paper);
  color: var(--ink); }
dialog::backdrop { background: #0008; }
dialog img { width: min(80vw, 28rem); margin: 0 0 1rem; }
progress { width: 100%; accent-color: var(--line); }
#status { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
[hidden] { display: none !important; }
@media (max-width: 52rem) { .desk { grid-template-columns: minmax(0, 1fr); gap: 1.5rem; }
  .cards { grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: .5rem; } }
"""

BODY = """<header><h1>jaxgen <small>play with trained runs</small></h1></header>
<p id="gone" class="bad" role="alert" hidden></p>
<ul id="cards" class="cards" aria-label="Runs"></ul>
<div class="desk">
<form id="form" novalidate hidden>
<h2 id="name"></h2>
<fieldset><legend>What to do</legend><div id="tasks" class="tasks"></div></fieldset>
<p id="says" class="quiet"></p>
<div id="given" hidden>
<div class="field"><label for="file">picture</label><input id="file" type="file" accept="image/*"></div>
<canvas id="canvas" aria-label="the picture that was given" hidden></canvas>
<div id="painting" hidden>
<div class="field"><label for="part">drawn anew</label><select id="part">
<option value="">what I paint</option><option value="top">upper half</option><option value="bottom">lower half</option>
<option value="left">left half</option><option value="right">right half</option><option value="middle">middle</option>
<option value="border">border</option></select></div>
<div class="field"><label for="brush">brush</label>
<div class="row"><input id="brush" type="range" min="1" max="40" value="15">
<button type="button" id="clear">Clear</button></div></div>
</div>
</div>
<div id="controls" class="pair"></div>
<details id="more"><summary>More settings</summary><div id="others" class="pair"></div></details>
<p id="error" class="bad" role="alert"></p>
<div class="row"><button class="first" id="go">Generate</button>
<label><input type="checkbox" id="explain"> explain settings</label></div>
</form>
<section id="results" aria-label="Results"><p id="empty" class="quiet">Results appear here, the
newest first, each with the command that makes it.</p></section>
</div>
<p id="status" role="status"></p>
<dialog id="large" aria-label="One picture"><img alt=""><div class="row"><a id="save">Save PNG</a>
<button type="button" id="use">Start from it</button><button type="button" id="close">Close</button></div></dialog>"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


ALL_STYLE = STYLE + MORE_STYLE
POLICY = (
    f"default-src 'none'; img-src 'self' data: blob:; media-src 'self'; connect-src 'self'; "
    f"style-src {_hash(ALL_STYLE)}; script-src {_hash(SCRIPT)}; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What a browser lets the page load: its own pictures and answers, and this style and script alone."""


@functools.cache
def page() -> str:
    """The HTML of the page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>jaxgen app</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<style>{ALL_STYLE}</style>\n</head>\n<body>\n{BODY}\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
