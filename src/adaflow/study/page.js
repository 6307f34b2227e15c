'use strict';
// The page of the user study: one participant's sets, their videos played together, their answers stored one by one.
// Everything that comes from the server is put in as text, never as HTML.

const $ = id => document.getElementById(id);
const letter = number => String.fromCharCode(65 + number);
const KEPT = 'participant';  // sessionStorage: a reload goes on, a closed tab needs the code
const SECTIONS = ['welcome', 'set', 'end', 'stopped'];
let code = null;
let study = null;
let at = 0;
let sent = Promise.resolve();  // answers go one after the other: of two on their way, the older could arrive last

function make(tag, values = {}, ...children) {
  const node = Object.assign(document.createElement(tag), values);
  node.append(...children);
  return node;
}

async function call(path, given) {
  const headers = {};
  if (code) headers['X-Participant'] = code;
  if (given) headers['Content-Type'] = 'application/json';
  const body = given && JSON.stringify(given);
  let response;
  let document;
  try {
    response = await fetch(path, {method: given ? 'POST' : 'GET', headers, body, cache: 'no-store'});
    document = await response.json();
  } catch {
    throw new Error('The server cannot be reached. Please try again in a moment.');
  }
  if (!response.ok) throw Object.assign(new Error(document.error), {status: response.status});
  return document;
}

function problem(error) {
  $('problem').hidden = !error;
  $('problem').textContent = error ? error.message : '';
  if (error) $('problem').scrollIntoView({block: 'nearest'});
}

function guarded(action) {
  return async event => {
    event?.preventDefault();
    problem(null);
    try { await action(event); } catch (error) { problem(error); }
  };
}

function show(name) {
  player.stop();
  for (const section of SECTIONS) $(section).hidden = section !== name;
  $('progress').hidden = $('foot').hidden = name === 'welcome';
  window.scrollTo(0, 0);
  $(name).querySelector('h2').focus({preventScroll: true});
}

// -- all videos as one ------------------------------------------------------------------------------------------------

const player = {
  videos: [],
  frame: 1 / 30,
  wanted: false,  // playing, as far as the participant is concerned
  held: false,    // waiting for a video that is not loaded

  open(videos, frame) {
    this.stop();
    this.videos = videos;
    this.frame = frame;
    for (const video of videos) {
      video.onloadedmetadata = () => this.draw();
      video.onerror = () => problem(new Error('A video cannot be loaded. Please reload the page.'));
    }
    this.draw();
  },

  stop() {
    this.pause();
    for (const video of this.videos) { video.onerror = null; video.removeAttribute('src'); video.load(); }
    this.videos = [];
  },

  // The longest video gives the time; shorter ones stay on their last picture.
  get lead() {
    return this.videos.reduce((a, b) => ((b.duration || 0) > (a?.duration || 0) ? b : a), this.videos[0]);
  },
  get time() { return this.lead?.currentTime || 0; },
  get length() { return this.lead?.duration || 0; },

  toggle() { if (this.wanted) this.pause(); else this.play(); },

  play() {
    if (!this.videos.length) return;
    if (this.time >= this.length - this.frame / 2) this.seek(0);
    this.wanted = true;
    this.held = true;
    this.tick();
  },

  pause() {
    this.wanted = this.held = false;
    clearTimeout(this.timer);
    for (const video of this.videos) { video.pause(); video.playbackRate = 1; }
    if (this.videos.length && this.lead.readyState) this.seek(this.time);
    this.draw();
  },

  seek(time) {
    const to = Math.min(Math.max(time, 0), this.length);
    for (const video of this.videos) if (video.readyState) video.currentTime = Math.min(to, video.duration);
    this.draw(to);
  },

  step(count) {
    this.pause();
    // the middle of a picture: neither rounding nor a seek's inexactness shows its neighbour
    this.seek((Math.floor(this.time / this.frame + 1e-3) + count + 0.5) * this.frame);
  },

  tick() {
    clearTimeout(this.timer);
    if (!this.wanted) return;
    const lead = this.lead;
    const going = this.videos.filter(video => !video.ended);
    if (lead.ended) {
      if (!$('repeat').checked) { this.pause(); return; }
      this.held = true;
      this.seek(0);
    } else if (going.some(video => video.readyState < 3)) {
      this.held = true;
      for (const video of this.videos) video.pause();
    } else if (this.held && !going.some(video => video.seeking)) {
      this.held = false;
      for (const video of going) video.play().catch(() => this.pause());
    } else if (!this.held) {
      for (const video of going) this.follow(video, lead);
    }
    this.draw();
    this.timer = setTimeout(() => this.tick(), 100);
  },

  // A little faster or slower is not seen; a jump is, and is kept for large differences.
  follow(video, lead) {
    if (video === lead) return;
    const behind = Math.min(lead.currentTime, video.duration) - video.currentTime;
    if (Math.abs(behind) > 0.5) video.currentTime = lead.currentTime;
    video.playbackRate = Math.abs(behind) > 0.02 ? 1 + Math.max(-0.2, Math.min(0.2, behind)) : 1;
  },

  draw(time = this.time) {
    $('play').textContent = this.wanted ? 'Pause' : 'Play';
    $('seek').max = this.length || 1;
    $('seek').step = this.frame;
    $('seek').value = time;
    $('seek').setAttribute('aria-valuetext', `${time.toFixed(1)} of ${this.length.toFixed(1)} seconds`);
    $('clock').textContent = `${time.toFixed(1)} / ${this.length.toFixed(1)} s`;
  },
};

// -- what is asked ----------------------------------------------------------------------------------------------------

function count(item) { return Object.keys(item.answers).length; }

function counted() {
  const done = study.items.reduce((sum, item) => sum + count(item), 0);
  const all = study.items.length * study.questions.length;
  $('count').textContent = `${done} of ${all} questions answered`;
  $('bar').max = all;
  $('bar').value = done;
  return all - done;
}

function figure(name, caption) {
  const video = make('video', {src: `/media/${name}`, muted: true, playsInline: true, preload: 'auto', ariaLabel: caption});
  video.disablePictureInPicture = true;
  video.onclick = () => player.toggle();
  const larger = make('button', {type: 'button', textContent: 'Larger', ariaLabel: `Larger: ${caption}`, ariaPressed: 'false'});
  larger.onclick = () => {
    larger.ariaPressed = String(whole.classList.toggle('large'));
    larger.textContent = larger.ariaPressed === 'true' ? 'Smaller' : 'Larger';
    larger.ariaLabel = `${larger.textContent}: ${caption}`;
  };
  const whole = make('figure', {}, make('figcaption', {}, caption, larger), video);
  return whole;
}

function question(item, asked) {
  const choices = item.clips.map((clip, number) => {
    const radio = make('input', {type: 'radio', name: asked.name, value: clip, checked: item.answers[asked.name] === clip});
    radio.onchange = guarded(() => answer(item, asked, clip));
    return make('label', {}, radio, letter(number));
  });
  const text = make('p', {id: `why-${asked.name}`, textContent: asked.text});
  const group = make('div', {className: 'choices'}, ...choices);
  const field = make('fieldset', {disabled: study.finished}, make('legend', {textContent: asked.title}), text, group);
  field.setAttribute('aria-describedby', text.id);
  return field;
}

function answer(item, asked, clip) {
  const stored = sent.then(() => store(item, asked, clip));
  sent = stored.catch(() => {});
  return stored;
}

async function store(item, asked, clip) {
  $('status').textContent = 'Storing…';
  try {
    await call('/api/answer', {item: item.id, question: asked.name, choice: clip});
  } catch (error) {
    $('status').textContent = 'The last answer is not stored.';
    const radios = [...$('questions').elements[asked.name]];
    const last = item === study.items[at] && radios.every(radio => !radio.checked || radio.value === clip);
    if (last) for (const radio of radios) radio.checked = radio.value === item.answers[asked.name];
    throw error;
  }
  item.answers[asked.name] = clip;
  const number = letter(item.clips.indexOf(clip));
  $('status').textContent = `Stored: ${number} for ${asked.title.toLowerCase()}.`;
  counted();
}

function open(number) {
  at = number;
  const item = study.items[at];
  show('set');
  $('where').textContent = `Set ${at + 1} of ${study.items.length}`;
  const said = [['Source shows', item.source_prompt, ''], ['Edit asked for', item.prompt, 'wanted']];
  $('prompts').replaceChildren(...said.filter(([, text]) => text).flatMap(([name, text, kind]) =>
    [make('dt', {textContent: name}), make('dd', {textContent: text, className: kind})]));
  const source = figure(item.source, 'Source');
  source.classList.add('source');
  const edits = item.clips.map((clip, i) => figure(clip, `Video ${letter(i)}`));
  $('videos').replaceChildren(source, ...edits);
  $('questions').replaceChildren(...study.questions.map(asked => question(item, asked)));
  $('status').textContent = '';
  $('previous').disabled = at === 0;
  $('next').textContent = at === study.items.length - 1 ? 'To the end' : 'Next set';
  player.open([...$('videos').querySelectorAll('video')], item.frame);
  counted();
}

function end() {
  show('end');
  const left = counted();
  const missing = study.items.map((item, i) => [item, i]).filter(([item]) => count(item) < study.questions.length);
  $('end-title').textContent = study.finished ? 'Thank you' : left ? 'Not all questions are answered' : 'All questions are answered';
  $('end-text').textContent = study.finished
    ? 'You have finished the study, and your answers are stored. You may close this page.'
    : left
      ? `Questions are open in ${missing.length} of ${study.items.length} sets:`
      : 'You may go back and change your answers. When you press Finish, they are final.';
  $('open').replaceChildren(...missing.map(([, i]) => {
    const button = make('button', {type: 'button', textContent: `Set ${i + 1}`});
    button.onclick = guarded(() => open(i));
    return make('li', {}, button);
  }));
  $('open').hidden = !missing.length;
  $('finish').disabled = left > 0;
  $('stop').textContent = study.finished ? 'Leave' : 'Stop here';
  $('finish').hidden = $('review').hidden = study.finished;
}

// -- coming and going -------------------------------------------------------------------------------------------------

async function enter(given) {
  await sent;
  code = given;
  try {
    study = await call('/api/state');
  } catch (error) {
    if (error.status === 403) {
      const typed = $('code').value;
      leave();
      $('code').value = typed;
    }
    throw error;
  }
  sessionStorage.setItem(KEPT, code);
  document.title = $('title').textContent = study.title;
  $('mine').textContent = code;
  $('stop').textContent = 'Stop here';
  const first = study.items.findIndex(item => count(item) < study.questions.length);
  if (study.finished || first < 0) end(); else open(first);
}

function leave() {
  code = study = null;
  sessionStorage.removeItem(KEPT);
  $('code').value = $('mine').textContent = $('noted').textContent = '';  // the next one here must not find it
  $('videos').replaceChildren();
  show('welcome');
}

$('start').onclick = guarded(async () => {
  $('start').disabled = true;
  try { await enter((await call('/api/start', {})).code); } finally { $('start').disabled = false; }
});
$('continue').onsubmit = guarded(() => enter($('code').value.trim().toLowerCase()));
$('play').onclick = () => player.toggle();
$('back').onclick = () => player.step(-1);
$('forth').onclick = () => player.step(1);
$('seek').oninput = () => player.seek(Number($('seek').value));
$('previous').onclick = guarded(() => open(at - 1));
$('next').onclick = guarded(() => { if (at + 1 < study.items.length) open(at + 1); else end(); });
$('review').onclick = guarded(() => open(0));
$('finish').onclick = guarded(async () => {
  await sent;
  await call('/api/finish', {});
  study.finished = true;
  end();
});
$('copy').onclick = guarded(async () => {
  try {
    await navigator.clipboard.writeText(code);
    $('copied').textContent = 'The code is copied.';
  } catch {
    getSelection().selectAllChildren($('mine'));
    $('copied').textContent = 'The code is selected; copy it from there.';
  }
});
$('stop').onclick = guarded(() => {
  if (study.finished) { leave(); return; }
  show('stopped');
  $('foot').hidden = true;
  $('noted').textContent = code;
});
$('resume').onclick = guarded(() => enter(code));
$('forget').onclick = guarded(async () => {
  await sent;  // with the code that is forgotten now
  leave();
});
document.onkeydown = event => {
  if (event.key === ' ' && !event.target.closest('button, input') && !$('set').hidden) {  // a heading has the focus at first
    event.preventDefault();
    player.toggle();
  }
};

const kept = sessionStorage.getItem(KEPT);
if (kept) guarded(() => enter(kept))().then(() => { if (!study) leave(); });
else show('welcome');
