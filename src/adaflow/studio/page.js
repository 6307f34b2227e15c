// What gradio has no part for: uploads, the comparison of two films, and buttons in the list of edits.
"use strict";

// -- uploads: the body is the file, and its name is only ever shown -------------------------------------------------
function upload(file, zone, done) {
  const bar = zone.querySelector("progress.upload");
  const said = zone.querySelector(".said");
  const most = Number(zone.querySelector(".drop").dataset.most);
  if (file.size > most) {
    said.classList.add("error");
    said.textContent = `The file is larger than ${Math.floor(most / 1e6)} MB, the most that is taken here.`;
    return;
  }
  const request = new XMLHttpRequest();
  request.open("POST", "/studio/upload");
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.setRequestHeader("X-File-Name", encodeURIComponent(file.name.slice(-200)));
  request.responseType = "json";
  request.upload.onprogress = (event) => {
    bar.value = event.lengthComputable ? (100 * event.loaded) / event.total : 0;
    said.textContent = bar.value < 100 ? `Uploading: ${Math.round(bar.value)} %` : "Looking at the video …";
  };
  request.onload = () => {
    bar.hidden = true;
    const answer = request.response || {};
    said.classList.toggle("error", request.status !== 200);
    said.textContent = request.status === 200 ? `Here: ${answer.name}` : answer.error || "The upload was refused.";
    if (request.status === 200) done(answer);
  };
  request.onerror = () => {
    bar.hidden = true;
    said.classList.add("error");
    said.textContent = "The upload was refused, or the studio cannot be reached.";
  };
  bar.hidden = false;
  bar.value = 0;
  said.classList.remove("error");
  said.textContent = "Uploading …";
  request.send(file);
}

window.studioDropZone = (element, trigger) => {
  const take = (files) => files && files.length && upload(files[0], element, (answer) => trigger("upload", { id: answer.id }));
  element.addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = "";
  });
  for (const name of ["dragover", "dragenter"])
    element.addEventListener(name, (event) => {
      event.preventDefault();
      element.classList.add("over");
    });
  for (const name of ["dragleave", "drop"]) element.addEventListener(name, () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
};

window.studioHistory = (element, trigger) => {
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-job]");
    if (button) trigger("select", { job: button.dataset.job, act: button.dataset.act });
  });
};

// -- the comparison: both films at the same frame, the source's left part over the edit ----------------------------
const films = (box) => [box.querySelector("video.after"), box.querySelector("video.before")];

function frameTime(box, frame) {
  const times = box.dataset.times ? box.dataset.times.split(",").map(Number) : null;
  const at = (i) => (times ? times[Math.min(i, times.length - 1)] : i / Number(box.dataset.fps));
  return (at(frame) + (frame + 1 < Number(box.dataset.frames) ? at(frame + 1) : at(frame) + 0.001)) / 2;
}

function frameAt(box, seconds) {
  const last = Number(box.dataset.frames) - 1;
  if (!box.dataset.times) return Math.max(0, Math.min(last, Math.floor(seconds * Number(box.dataset.fps) + 1e-4)));
  const times = box.dataset.times.split(",").map(Number);
  let frame = 0;
  while (frame < last && times[frame + 1] <= seconds + 1e-4) frame += 1;
  return frame;
}

function show(box, frame) {
  box.querySelector("input.frame").value = frame;
  box.querySelector("input.seek").value = frame;
  box.dataset.now = frame;
}

function seek(box, frame) {
  const place = Math.max(0, Math.min(Number(box.dataset.frames) - 1, frame));
  pause(box);
  for (const film of films(box)) film.currentTime = frameTime(box, place);
  show(box, place);
}

function pause(box) {
  for (const film of films(box)) film.pause();
  box.querySelector("[data-do=play]").textContent = "Play";
}

function play(box) {
  const [after, before] = films(box);
  if (!after.paused) return pause(box);
  if (after.ended) after.currentTime = 0;
  before.currentTime = after.currentTime;
  box.querySelector("[data-do=play]").textContent = "Pause";
  for (const film of [after, before]) film.play().catch(() => pause(box));
  const follow = () => {
    if (!box.isConnected || after.paused) return pause(box);
    if (Math.abs(before.currentTime - after.currentTime) > 0.05) before.currentTime = after.currentTime;
    show(box, frameAt(box, after.currentTime));
    requestAnimationFrame(follow);
  };
  requestAnimationFrame(follow);
}

document.addEventListener("input", (event) => {
  const box = event.target.closest && event.target.closest(".compare");
  if (!box) return;
  if (event.target.matches(".split")) box.style.setProperty("--split", `${event.target.value}%`);
  if (event.target.matches(".seek")) seek(box, Number(event.target.value));
});

document.addEventListener("change", (event) => {
  const box = event.target.closest && event.target.closest(".compare");
  if (box && event.target.matches("input.frame")) seek(box, Math.round(Number(event.target.value)) || 0);
});

document.addEventListener("click", (event) => {
  const button = event.target.closest && event.target.closest(".compare [data-do]");
  if (!button) return;
  const box = button.closest(".compare");
  const now = Number(box.dataset.now || 0);
  if (button.dataset.do === "play") play(box);
  else seek(box, now + (button.dataset.do === "on" ? 1 : -1));
});
