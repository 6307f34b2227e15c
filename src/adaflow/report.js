'use strict';
// Grids: one button plays all of a grid's films.
for (const button of document.querySelectorAll('button.together')) {
  const films = [...button.parentElement.querySelectorAll('video')];
  button.hidden = films.length < 2;
  button.onclick = () => films.forEach(film => { film.currentTime = 0; film.play(); });
}

// Comparisons: one film holds the source in its left half and the edit in its right half, so that the two are never out
// of step; a canvas shows one picture, the source left of a line and the edit right of it.
for (const figure of document.querySelectorAll('figure.compare')) {
  const film = figure.querySelector('video');
  const canvas = figure.querySelector('canvas');
  const stage = figure.querySelector('.stage');
  const controls = figure.querySelector('.controls');
  const [play, back, next, both] = controls.querySelectorAll('button');
  const wipe = controls.querySelector('.wipe');
  const place = controls.querySelector('.frame');
  const told = controls.querySelector('output');
  const middles = JSON.parse(figure.dataset.middles);
  const pen = canvas.getContext('2d');
  let frame = 0, scale = 1;

  const half = () => film.videoWidth / 2;
  const draw = () => {
    const width = half(), height = film.videoHeight;
    const at = Math.round(width * wipe.value / 1000);
    const line = at * scale, right = canvas.width - line;
    if (at > 0) pen.drawImage(film, 0, 0, at, height, 0, 0, line, canvas.height);
    if (at < width) pen.drawImage(film, width + at, 0, width - at, height, line, 0, right, canvas.height);
    if (at > 0 && at < width) {
      const point = canvas.width / (canvas.clientWidth || canvas.width);  // of the screen, in pixels of the canvas
      pen.fillStyle = '#181818';
      pen.fillRect(line - 3 * point, 0, 6 * point, canvas.height);
      pen.fillStyle = '#fff';
      pen.fillRect(line - 1.5 * point, 0, 3 * point, canvas.height);
    }
    told.value = `frame ${frame} of ${middles.length - 1}`;
    place.value = frame;
    canvas.setAttribute('aria-label', `frame ${frame}: source left of ${wipe.value / 10} % of the width, edit right`);
  };
  const frameAt = seconds => {  // the frame whose middle is nearest
    let low = 0, high = middles.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((middles[middle] + middles[middle + 1]) / 2 <= seconds) low = middle + 1; else high = middle;
    }
    return low;
  };
  const show = number => {
    film.pause();
    frame = Math.max(0, Math.min(middles.length - 1, number));
    film.currentTime = middles[frame];
    place.value = frame;
  };
  const follow = () => {
    if (film.paused) return;
    frame = frameAt(film.currentTime);
    draw();
    requestAnimationFrame(follow);
  };
  const ready = () => {
    scale = Math.max(1, Math.ceil(960 / half()));  // so that the line is sharp on small films too
    canvas.width = scale * half();
    canvas.height = scale * film.videoHeight;
    stage.hidden = controls.hidden = false;
    film.hidden = true;
    show(0);
  };
  film.addEventListener('seeked', draw);
  film.addEventListener('play', () => { play.textContent = 'Pause'; follow(); });
  film.addEventListener('pause', () => { play.textContent = 'Play'; });
  play.onclick = () => film.paused ? film.play() : film.pause();
  back.onclick = () => show(frame - 1);
  next.onclick = () => show(frame + 1);
  both.onclick = () => {
    film.hidden = !film.hidden;
    stage.hidden = !film.hidden;
    both.setAttribute('aria-pressed', String(!film.hidden));
  };
  place.oninput = () => show(Number(place.value));
  wipe.oninput = draw;
  const drag = event => {
    const box = canvas.getBoundingClientRect();
    wipe.value = Math.round(1000 * (event.clientX - box.left) / box.width);
    draw();
  };
  canvas.onpointerdown = event => { canvas.setPointerCapture(event.pointerId); drag(event); };
  canvas.onpointermove = event => { if (event.buttons) drag(event); };
  if (film.readyState >= 2) ready(); else film.addEventListener('loadeddata', ready, { once: true });
}
