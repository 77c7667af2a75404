"""The style sheet and the few lines of script of a report page."""

STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d1f22; --quiet: #666c74; --rule: #e2e3e4;
  --raised: #f4f4f2; --line: #2f67c8; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e4e5e7; --quiet: #989ea7;
  --rule: #2d3136; --raised: #1d2024; --line: #7fa8f5; --bad: #ff8a80; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 66rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { font-size: 1.9rem; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; margin: 0; }
h1 small { font-size: 1.15rem; font-weight: 400; letter-spacing: 0; color: var(--quiet); margin-left: .5em; }
h2 { font-size: 1.15rem; font-weight: 650; margin: 3.25rem 0 1rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 42rem; }
.quiet, figcaption, caption { color: var(--quiet); font-size: .875rem; }
.bad { color: var(--bad); }
.facts { display: flex; flex-wrap: wrap; gap: .75rem 2.5rem; margin: 1.4rem 0 0; padding: 1rem 0;
  border: solid var(--rule); border-width: 1px 0; }
.facts dt { font-size: .8rem; color: var(--quiet); }
.facts dd { margin: 0; font-weight: 600; }
.facts dd small { font-size: .8rem; font-weight: 400; color: var(--quiet); margin-left: .35em; }
figure { margin: 0; min-width: 0; }
figcaption { margin: .45rem 0 0; }
img { display: block; max-width: 100%; height: auto; }
img.pixels { image-rendering: pixelated; }
pre.text { max-height: 40rem; overflow: auto; padding: 1rem; background: var(--raised); white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.pictures, .sounds { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
  gap: 2rem; }
.pictures .wide { grid-column: 1 / -1; }
.film input { width: min(100%, 35rem); margin: .75rem 0 0; accent-color: var(--line); display: block; }
.film input[hidden] { display: none; }
.strip { display: flex; gap: .5rem; overflow-x: auto; margin-top: 1rem; padding: 3px 3px .6rem; }
.strip button { flex: none; padding: 0; border: 0; background: none; color: var(--quiet); font: inherit;
  font-size: .75rem; cursor: pointer; }
.strip img { width: 6rem; height: 6rem; object-fit: cover; object-position: 0 0; border-radius: 2px;
  margin-bottom: .2rem; }
.strip [aria-current=true] { color: var(--ink); font-weight: 600; }
.strip [aria-current=true] img { outline: 2px solid var(--line); outline-offset: 1px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr));
  gap: 1.75rem 2.5rem; }
.curve figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem;
  margin: 0 0 .25rem; }
.curve b { color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.curve svg { display: block; width: 100%; height: auto; color: var(--quiet); overflow: visible; }
.scroll { overflow-x: auto; }
.scroll + details { margin-top: 1.25rem; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.75rem .3rem 0;
  border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
thead th { font-weight: 400; color: var(--quiet); font-size: .8rem; }
.num { text-align: right; white-space: nowrap; }
.tree th, .tree td { font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; overflow-wrap: anywhere; }
.tree { width: 100%; }
.tree th { width: 40%; }
.tree i { font-style: normal; color: var(--quiet); }
.tree .kind td { color: var(--line); }
details { border-top: 1px solid var(--rule); padding: .5rem 0; }
details:last-of-type { border-bottom: 1px solid var(--rule); }
summary { cursor: pointer; font-weight: 600; padding: .2rem 0; }
summary small { color: var(--quiet); font-weight: 400; font-size: .875rem; margin-left: .5em; }
details table { margin: .4rem 0 .8rem; }
pre { background: var(--raised); border: 1px solid var(--rule); border-radius: 4px; padding: .8rem 1rem;
  margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (max-width: 34rem) { body { padding: 1.5rem 1rem 3rem; } h1 { font-size: 1.5rem; }
  h1 small { display: block; margin: .2rem 0 0; font-size: 1rem; } .facts { gap: .6rem 1.75rem; }
  th, td { padding-right: 1rem; } .strip img { width: 4.5rem; height: 4.5rem; } }
@media print { .film input, .strip { display: none; } }
"""

# Without it the page shows the last step and the filmstrip; with it, the slider too.
SCRIPT = """
for (const film of document.querySelectorAll('.film')) {
  const slider = film.querySelector('input'), picture = film.querySelector('figure img');
  const caption = film.querySelector('figcaption'), frames = [...film.querySelectorAll('.strip button')];
  const show = i => {
    const small = frames[i].querySelector('img');
    picture.src = small.src;
    picture.alt = small.alt;
    caption.textContent = frames[i].textContent;
    slider.value = i;
    slider.setAttribute('aria-valuetext', frames[i].textContent);
    frames.forEach((f, j) => f.setAttribute('aria-current', i === j));
    const strip = small.closest('.strip');
    strip.scrollLeft = frames[i].offsetLeft - strip.offsetLeft - strip.clientWidth / 2;
  };
  slider.hidden = false;
  slider.addEventListener('input', () => show(+slider.value));
  frames.forEach((f, i) => f.addEventListener('click', () => show(i)));
  show(frames.length - 1);
}
"""
