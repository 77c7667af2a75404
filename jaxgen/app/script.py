"""The script of the page of `jaxgen app`."""

SCRIPT = """
const by = id => document.getElementById(id);
const make = (tag, set = {}, ...inside) => {
  const made = Object.assign(document.createElement(tag), set);
  made.append(...inside);
  return made;
};
const PATIENCE = 250, MOST = 12_000_000;  // ms between questions; letters of a request
let runs = [], run = 0, forms = [], form = null, fields = [];
const typed = {};  // what was set by hand stays as another task or run is chosen

const ask = async (path, body) => {
  let answer;
  try {
    const headers = {'Content-Type': 'application/json'};
    answer = await fetch(path, body ? {method: 'POST', headers, body: JSON.stringify(body)} : {});
  } catch {
    throw new Error('the server does not answer: is jaxgen app still running?');
  }
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
};

// --- runs and what they do ---

const choose = async index => {
  run = index;
  [...by('cards').querySelectorAll('button')].forEach((card, i) => card.setAttribute('aria-pressed', i === run));
  forms = await ask(`/forms/${run}`);
  by('form').hidden = false;
  by('name').textContent = runs[run].name;
  by('tasks').replaceChildren(...forms.map((one, i) => make('label', {}, make('input', {type: 'radio', name: 'task',
    value: i, onchange: () => show(one)}), one.name)));
  if (!forms.length) return say('this run draws nothing by itself: jaxgen evaluate measures it');
  show(forms.find(one => one.name === form?.name) ?? forms[0]);
};
const show = one => {
  form = one;
  by('tasks').querySelectorAll('input')[forms.indexOf(one)].checked = true;
  by('says').textContent = one.says;
  by('given').hidden = !one.picture;
  by('painting').hidden = !one.mask;
  say('');
  fields = one.controls.map(control);
  by('controls').replaceChildren(...fields.filter(f => f.front).map(f => f.box));
  by('others').replaceChildren(...fields.filter(f => !f.front).map(f => f.box));
  by('more').hidden = fields.every(f => f.front);
  if (form.clip) canvas.hidden = true; else if (picture) fit();
};
const tell = words => { by('status').textContent = words; };  // to who cannot see it
const say = words => { by('error').textContent = words; };

// --- controls, each {name, front, box, value()} ---

const control = one => {
  const id = `set-${one.name}`;
  const help = make('p', {className: 'help quiet', id: `${id}-help`, textContent: one.help});
  let input, value, wide = false, inside = null;
  const number = () => input.value.trim() === '' ? (one.optional ? null : one.default) : Number(input.value);
  if (one.kind === 'switch') {
    input = make('input', {type: 'checkbox', checked: one.default});
    value = () => input.checked;
  } else if (one.kind === 'choice' || one.kind === 'run') {
    input = make('select', {}, ...one.choices.map(([v, name], i) => make('option', {value: i, textContent: name,
      selected: v === one.default})));
    value = () => one.choices[input.value][0];
    wide = one.kind === 'run';
  } else if (one.kind === 'text' || one.kind === 'lines') {
    input = make('textarea', {rows: one.name === 'size' ? 1 : 3, value: one.default ?? ''});
    if (one.kind === 'lines') input.placeholder = 'one a line';
    value = () => one.kind === 'lines' ? input.value.split('\\n').map(s => s.trim()).filter(s => s)
      : input.value === '' && one.optional ? null : input.value;
    wide = true;
  } else if (one.kind === 'classes') {
    inside = make('div', {className: 'chips'}, ...one.choices.map(([v, name]) => make('label', {}, make('input',
      {type: 'checkbox', value: v}), name)));
    value = () => [...inside.querySelectorAll('input:checked')].map(box => Number(box.value));
    wide = true;
  } else {
    input = make('input', {type: 'number', step: one.kind === 'integer' ? 1 : 'any', value: one.default ?? ''});
    if (one.least !== null) input.min = one.least;
    if (one.most !== null) input.max = one.most;
    if (one.optional) input.placeholder = "the run's own";
    value = number;
  }
  const key = `${one.name} ${one.kind}`;
  if (input && one.kind !== 'run') {
    const part = one.kind === 'switch' ? 'checked' : 'value';
    if (key in typed && !(one.kind === 'choice' && typed[key] >= one.choices.length)) input[part] = typed[key];
    input.addEventListener('input', () => { typed[key] = input[part]; });
    if (one.name === 'size') input.addEventListener('change', () => { if (picture && !form.clip) fit(); });
  }
  let box;
  if (inside) {
    const legend = make('legend', {textContent: 'classes; all in turn when none is chosen'});
    box = make('fieldset', {className: 'field'}, legend, inside, help);
  } else {
    input.id = id;
    input.setAttribute('aria-describedby', help.id);
    input.title = one.help;
    const label = make('label', {htmlFor: id, textContent: one.label});
    if (one.name === 'seed') {
      const next = make('button', {type: 'button', textContent: 'Next seed',
        onclick: () => { input.value = typed[key] = Number(input.value) + 1; by('form').requestSubmit(); }});
      box = make('div', {className: 'field'}, label, make('div', {className: 'row'}, input, next), help);
    } else if (one.kind === 'switch') box = make('div', {className: 'field switch'}, input, ' ', label, help);
    else box = make('div', {className: 'field'}, label, input, help);
  }
  if (wide) box.classList.add('wide');
  return {name: one.name, front: one.front, box, value};
};

// --- the given picture and its mask ---

const canvas = by('canvas'), mask = document.createElement('canvas');
let picture = null, clip = null, brushing = false;

const asked = () => {  // height and width of what is drawn: the model's, if no other size is asked for
  const text = String(fields.find(f => f.name === 'size')?.value() ?? '').trim();
  const found = /^(\\d{1,4})(?:x(\\d{1,4}))?$/.exec(text);
  return found && form.size ? [Number(found[1]), Number(found[2] ?? found[1])] : form.size;
};
const fit = () => {  // the middle of the picture, in that size
  const {naturalWidth: w, naturalHeight: h} = picture;
  const shrink = Math.min(1, 512 / Math.max(w, h));
  const [height, width] = asked() ?? [Math.max(1, Math.round(h * shrink)), Math.max(1, Math.round(w * shrink))];
  if (mask.width !== width || mask.height !== height) Object.assign(mask, {width, height});
  const scale = Math.max(width / w, height / h), pen = (fit.plain ??= document.createElement('canvas'));
  Object.assign(pen, {width, height});
  const draw = pen.getContext('2d');
  draw.fillStyle = '#fff';
  draw.fillRect(0, 0, width, height);
  draw.imageSmoothingQuality = 'high';
  draw.drawImage(picture, (width - w * scale) / 2, (height - h * scale) / 2, w * scale, h * scale);
  Object.assign(canvas, {width, height, hidden: false});
  canvas.classList.toggle('paints', form.mask);
  if (form.mask) part(); else paint();
};
const paint = () => {
  const draw = canvas.getContext('2d');
  draw.globalAlpha = 1;
  draw.drawImage(fit.plain, 0, 0);
  if (!form.mask) return;
  const tint = (paint.tint ??= document.createElement('canvas')), {width, height} = mask;
  Object.assign(tint, {width, height});  // which clears it
  const ink = tint.getContext('2d');
  ink.drawImage(mask, 0, 0);
  ink.globalCompositeOperation = 'source-in';
  ink.fillStyle = '#2f67c8';
  ink.fillRect(0, 0, width, height);
  draw.globalAlpha = .75;
  draw.drawImage(tint, 0, 0);
};
const part = () => {
  const {width: w, height: h} = mask, draw = mask.getContext('2d');
  const boxes = {top: [0, 0, w, h / 2], bottom: [0, h / 2, w, h / 2], left: [0, 0, w / 2, h],
    right: [w / 2, 0, w / 2, h], middle: [w / 4, h / 4, w / 2, h / 2], border: [0, 0, w, h]};
  const kind = by('part').value;
  if (kind) {
    draw.clearRect(0, 0, w, h);
    draw.fillStyle = '#fff';
    draw.fillRect(...boxes[kind].map(Math.round));
    if (kind === 'border') draw.clearRect(...boxes.middle.map(Math.round));
  }
  paint();
};
const dab = event => {
  const box = canvas.getBoundingClientRect(), size = Math.max(1, by('brush').value / 100 * mask.width);
  const x = (event.clientX - box.x) / box.width * mask.width, y = (event.clientY - box.y) / box.height * mask.height;
  const draw = mask.getContext('2d');
  draw.fillStyle = '#fff';  // whole pixels: the mask is white or nothing
  const low = v => Math.floor(v - (size - 1) / 2);
  draw.fillRect(low(x), low(y), Math.round(size), Math.round(size));
  by('part').value = '';
  paint();
};
canvas.addEventListener('pointerdown', event => {
  if (!form.mask) return;
  brushing = true;
  canvas.setPointerCapture(event.pointerId);
  dab(event);
});
canvas.addEventListener('pointermove', event => { if (brushing) dab(event); });
for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => { brushing = false; });
const take = address => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => { picture = image; if (!form.clip) fit(); done(); };
  image.onerror = () => failed(new Error('the file cannot be read as a picture: give a PNG or JPEG, say'));
  image.src = address;
});
by('file').addEventListener('change', async () => {
  const [file] = by('file').files;
  clip = file && await new Promise(done => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.readAsDataURL(file);
  });
  if (file) await take(URL.createObjectURL(file)).then(() => say(''), error => say(error.message));
});
by('part').addEventListener('change', () => picture && part());
by('clear').addEventListener('click', () => {
  by('part').value = '';
  mask.getContext('2d').clearRect(0, 0, mask.width, mask.height);
  if (picture) paint();
});
const pictures = () => {
  if (!form.picture) return {};
  if (form.clip && !clip) throw new Error('choose a clip, such as a GIF');
  if (form.clip) return {clip};
  if (!picture) throw new Error('choose a picture, or generate one and start from it');
  return {image: fit.plain.toDataURL(), ...(form.mask ? {mask: mask.toDataURL()} : {})};
};

// --- results ---

by('form').addEventListener('submit', async event => {
  event.preventDefault();
  say('');
  try {
    const values = Object.fromEntries(fields.map(field => [field.name, field.value()]));
    const asked = {run, task: form.name, values, pictures: pictures()};
    if (JSON.stringify(asked).length > MOST) throw new Error('the picture is too large: take a smaller one');
    follow((await ask('/jobs', asked)).job, runs[run].name, form.name);
  } catch (error) {
    say(error.message);
  }
});
const follow = async (job, name, task) => {
  by('empty').hidden = true;
  const phase = make('p', {className: 'quiet phase', textContent: 'waiting'});
  const bar = make('progress', {ariaLabel: task});
  const text = make('pre', {className: 'text', hidden: true}), note = make('small');
  const article = make('article', {}, make('h2', {textContent: `${name}: ${task}`}, note), phase, bar, text);
  article.querySelector('h2').append(note);
  by('results').prepend(article);
  const writes = task === 'write';
  tell(`${name}: ${task} begins`);
  try {
    for (;;) {
      const now = await ask(`/jobs/${job}`);
      phase.textContent = now.seconds ? `${now.phase} ${now.seconds.toFixed(1)} s` : now.phase;
      if (writes) [text.textContent, text.hidden] = [now.text, !now.text];
      if (now.state === 'failed') throw new Error(now.error);
      if (now.state === 'done') {
        note.textContent = `${now.seconds.toFixed(1)} s`;
        article.append(...result(job, name, now.result));
        tell(`${name}: ${task} is done`);
        break;
      }
      await new Promise(done => setTimeout(done, PATIENCE));
    }
  } catch (error) {
    article.append(make('p', {className: 'bad', textContent: error.message}));
    tell(error.message);
  }
  phase.remove();
  bar.remove();
};
const result = (job, name, found) => {
  const parts = [], at = file => `/jobs/${job}/${file}`;
  const small = found.pictures.length && found.pictures[0].width < 128;
  const tiles = make('div', {className: 'tiles'});
  if (found.columns) tiles.style.gridTemplateColumns = `repeat(${found.columns}, minmax(0, 1fr))`;
  else if (!small) tiles.style.setProperty('--tile', '14rem');
  tiles.classList.toggle('one', found.pictures.length === 1 && !small);
  for (const one of found.pictures) {
    const image = make('img', {src: at(one.file), alt: one.said || one.file, width: one.width, height: one.height});
    image.classList.toggle('pixels', one.width < 640);
    const saved = `${name}-${job}-${one.file.replaceAll('/', '-')}`;
    const onclick = () => enlarge(image, saved);
    tiles.append(make('button', {type: 'button', title: 'Enlarge', onclick}, image, one.said));
  }
  if (found.pictures.length) parts.push(tiles);
  for (const one of found.films) parts.push(make('img', {src: at(one.file), alt: one.said, className: 'film'}));
  for (const one of found.sounds) parts.push(make('figure', {}, make('audio', {controls: true, src: at(one.file)}),
    make('figcaption', {textContent: one.said})));
  for (const note of found.notes) parts.push(make('p', {className: 'quiet', textContent: note}));
  const copy = make('button', {type: 'button', textContent: 'Copy', onclick: async () => {
    await navigator.clipboard.writeText(found.command);
    copy.textContent = 'Copied';
  }});
  parts.push(make('div', {className: 'command'}, make('pre', {textContent: found.command}), copy));
  const download = `${name}-${job}.png`;
  if (found.grid) parts.push(make('a', {href: at(found.grid), download, textContent: 'Save all as one PNG'}));
  return parts;
};
const enlarge = (image, name) => {
  const shown = by('large').querySelector('img');
  Object.assign(shown, {src: image.src, alt: image.alt, className: image.className});
  Object.assign(by('save'), {href: image.src, download: name});
  by('use').hidden = !forms.some(one => one.picture && !one.clip);
  by('large').showModal();
};
by('close').addEventListener('click', () => by('large').close());
by('use').addEventListener('click', async () => {
  const address = by('large').querySelector('img').src;
  by('large').close();
  if (!form.picture || form.clip) show(forms.find(one => one.picture && !one.clip));
  await take(address);
  by('given').scrollIntoView({block: 'center'});
});
by('explain').addEventListener('change', event => by('form').classList.toggle('explained', event.target.checked));

(async () => {
  try {
    runs = await ask('/runs');
    by('cards').hidden = runs.length < 2;
    by('cards').replaceChildren(...runs.map((one, i) => make('li', {}, make('button', {
      type: 'button', onclick: () => choose(i).catch(error => say(error.message))},
      one.picture ? make('img', {src: `/runs/${i}.png`, alt: ''}) : '',
      make('span', {}, make('b', {textContent: one.name}), make('small', {textContent: `${one.model}, ${one.data}`}))
    ))));
    await choose(0);
  } catch (error) {
    by('gone').textContent = error.message;
    by('gone').hidden = false;
  }
})();
"""
