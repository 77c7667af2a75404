"""The page on which a person chooses one of two pictures, again and again: one file that needs no network.

It shows no names. What its answers are about lies in it in base64, so that a glance at its source gives nothing away.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.report.style import STYLE
from jaxgen.runtime.files import write_text

SMALL = 128  # px; smaller pictures are enlarged without smoothing


def write_choices(file: Path, key: Mapping[str, Any], pictures: Sequence[bytes], sides: tuple[int, int]) -> None:
    """Writes the page.

    Args:
      key: `page`, a name for this page; `question`; `trials`, each with its two `pictures` as indices, left and right,
        what is `said` of them both, and their `left` and `right` as the answers name them; what else the answers are to
        repeat, in `about`.
      pictures: PNGs.
      sides: height and width of them all.
    """
    hidden = base64.b64encode(json.dumps(key).encode()).decode()
    inlined = json.dumps([f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in pictures])
    pixels = ' class="pixels"' if max(sides) < SMALL else ""
    head = f'<meta charset="utf-8">\n<title>Which of two</title>\n<style>{STYLE}{MORE_STYLE}</style>'
    body = BODY.replace("<img", f'<img{pixels} width="{sides[1]}" height="{sides[0]}"')
    script = f"const hidden = '{hidden}';\nconst pictures = {inlined};\n{SCRIPT}"
    write_text(
        file,
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"</head>\n<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n",
    )


MORE_STYLE = """
body { text-align: center; padding-bottom: 1.5rem; }
p { margin-left: auto; margin-right: auto; }
#pair { display: flex; justify-content: center; gap: 2rem; margin: 1.5rem 0; }
#pair button { padding: .5rem; border: 2px solid var(--rule); border-radius: 6px; background: var(--raised);
  cursor: pointer; }
#pair button:hover, #pair button:focus-visible { border-color: var(--line); outline: none; }
#pair img { width: min(40vw, 60vh, 32rem); height: auto; max-height: 65vh; object-fit: contain; }
progress { width: min(100%, 40rem); accent-color: var(--line); }
.row button { font: inherit; padding: .3rem 1rem; margin: .25rem; }
[hidden] { display: none !important; }
"""

BODY = """<main>
<h1 id="question"></h1>
<p id="said"></p>
<div id="pair">
<button id="left" aria-label="the left picture"><img alt=""></button>
<button id="right" aria-label="the right picture"><img alt=""></button>
</div>
<div id="done" hidden>
<p><b>All are answered.</b> Save the answers and send the file to whoever asked you.</p>
<p class="row"><button id="anew">Start anew, for another person</button></p>
</div>
<progress id="bar" value="0" aria-label="answered"></progress>
<p class="quiet"><span id="count"></span>. Click a picture, or press the left or right arrow key. You can close the page
and go on later.</p>
<p class="row"><button id="back">Take back the last answer</button> <button id="save">Save answers</button></p>
</main>"""

SCRIPT = """
const key = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(hidden), c => c.charCodeAt(0))));
const trials = key.trials, place = `jaxgen judge ${key.page}`, by = id => document.getElementById(id);
let sitting = {started: null, chosen: []};
try {  // a browser may keep nothing of pages in files
  const kept = JSON.parse(localStorage.getItem(place));
  if (Array.isArray(kept?.chosen) && kept.chosen.length <= trials.length) sitting = kept;
} catch {}

const show = () => {
  const i = sitting.chosen.length, over = i === trials.length;
  by('pair').hidden = over;
  by('done').hidden = !over;
  by('said').textContent = over ? '' : trials[i].said;
  if (!over) ['left', 'right'].forEach((side, k) => {
    by(side).firstElementChild.src = pictures[trials[i].pictures[k]];
  });
  by('bar').max = trials.length;
  by('bar').value = i;
  by('count').textContent = `${i} of ${trials.length} answered`;
  by('back').disabled = by('save').disabled = i === 0;
};
const keep = chosen => {
  sitting = {started: chosen.length ? sitting.started ?? new Date().toISOString() : null, chosen};
  try { localStorage.setItem(place, JSON.stringify(sitting)); } catch {}
  show();
};
const choose = side => {
  if (sitting.chosen.length < trials.length) keep([...sitting.chosen, side]);
};
const back = () => keep(sitting.chosen.slice(0, -1));
const save = () => {
  const answers = sitting.chosen.map((chosen, trial) => {
    const {left, right} = trials[trial];
    return {trial, left, right, chosen};
  });
  const text = JSON.stringify({...key.about, page: key.page, started: sitting.started, answers}, null, 1) + '\\n';
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  link.download = `answers-${key.page}-${sitting.started.replace(/\\D/g, '')}.json`;
  link.click();
};

by('question').textContent = key.about.question;
for (const side of ['left', 'right']) by(side).addEventListener('click', () => choose(side));
by('back').addEventListener('click', back);
by('save').addEventListener('click', save);
by('anew').addEventListener('click', () => keep([]));
document.addEventListener('keydown', event => {
  // A key that is held down would answer for pictures that were not looked at.
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const side = {ArrowLeft: 'left', ArrowRight: 'right'}[event.key];
  if (side) { event.preventDefault(); choose(side); }
  if (event.key === 'Backspace' && sitting.chosen.length) back();
});
show();
"""
