import { Viewer } from "/static/whep.js";

const POLL_MS = 250;
const SEEK_MS = 100;
const find = (id) => document.getElementById(id);
const video = find("video"), seek = find("seek"), play = find("play"), loop = find("loop");

let clips = [];
let clip = null;
let viewer = null;
let state = null;
let previous = null;
let dragging = false;
let pending = null;  // the frame to seek to next
let asked = 0;  // seeks that are under way

const api = () => `/api/clips/${encodeURIComponent(clip.name)}`;

async function json(url, options) {
  const response = await fetch(url, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  return body;
}

/** Set playing, loop or frame; what the server answers is shown at once. */
async function control(wishes) {
  const current = clip;
  const body = JSON.stringify(wishes);
  try {
    const now = await json(api(), { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (clip === current) showState(now);
  } catch (error) {
    complain(error);
  }
}

/** Show an error; of a lost server the viewer's own notice tells. */
function complain(error) {
  if (!(error instanceof TypeError)) find("notice").textContent = error.message;
}

function choose(name) {
  viewer?.close();
  clip = clips.find((candidate) => candidate.name === name);
  video.style.aspectRatio = `${clip.width} / ${clip.height}`;
  showFacts({ frames: clip.frames, file_bytes: clip.file_bytes });
  pending = state = null;
  showReceived(null);
  viewer = new Viewer(video, name, (text) => { find("notice").textContent = text; });
  window.nervcast = viewer;  // for the curious, and for tests
}

/** Show what is there of the clip, which grows while it is being written. */
function showFacts({ frames, file_bytes: bytes }) {
  seek.max = frames - 1;
  const count = frames < clip.frames ? `${frames} of ${clip.frames}` : frames;
  const size = bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
  const cost = (8 * bytes / (clip.width * clip.height * frames)).toFixed(3);
  find("facts").textContent =
    `${clip.width}×${clip.height} · ${count} frames at ${number(clip.fps)} fps · ${size} · ${cost} bits per pixel`;
}

const number = (value) => value.toFixed(value >= 100 || Number.isInteger(value) ? 0 : 1);

function clock(frame) {
  const seconds = frame / clip.fps;
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function showTime(frame) {
  find("time").textContent = `${clock(frame)} / ${clock(state?.frames ?? clip.frames)}`;
}

function showState(now) {
  state = now;
  play.classList.toggle("playing", state.playing);
  loop.setAttribute("aria-pressed", state.loop);
  showFacts(state);
  if (!dragging) {
    seek.value = state.frame;
    showTime(state.frame);
  }
  if (state.error) find("notice").textContent = state.error;
  find("decode-fps").textContent = state.decode_fps ? number(state.decode_fps) : "–";
  find("decode-note").textContent = decodeNote();
  find("encode-fps").textContent = state.encode_fps ? number(state.encode_fps) : "–";
  find("encode-note").textContent = state.encode_fps ? `${(1000 / state.encode_fps).toFixed(1)} ms a frame` : "";
  find("sent-fps").textContent = number(state.sent_fps);
  find("sent-note").textContent = `to ${state.viewers}, ${state.missed} late, ${state.dropped} dropped`;
}

function decodeNote() {
  if (!state.engine) return "loading…";
  return state.decode_fps ? `${(state.decode_fps / clip.fps).toFixed(0)}× real time, ${state.engine}` : state.engine;
}

function showReceived(now) {
  if (!now) {
    for (const id of ["received-fps", "bitrate"]) find(id).textContent = "–";
    for (const id of ["received-note", "bitrate-note"]) find(id).textContent = "\u00a0";
  }
  if (now && previous && now.id === previous.id && now.timestamp > previous.timestamp) {
    const seconds = (now.timestamp - previous.timestamp) / 1000;
    // Several polls make one reading, or a single frame would swing it.
    if (seconds < 1) return;
    find("received-fps").textContent = number((now.framesDecoded - previous.framesDecoded) / seconds);
    find("received-note").textContent = `${now.freezeCount ?? 0} freezes, ${now.packetsLost} lost`;
    find("bitrate").textContent = ((now.bytesReceived - previous.bytesReceived) * 8 / seconds / 1e6).toFixed(2);
    find("bitrate-note").textContent = `${now.codec ?? ""} ${now.frameWidth ?? "–"}×${now.frameHeight ?? "–"}`;
  }
  previous = now;
}

async function poll() {
  const current = clip;
  try {
    const now = await json(api());
    if (clip === current && !asked && pending === null) showState(now);
    showReceived(await viewer.statistics());
  } catch (error) {
    complain(error);
  }
  setTimeout(poll, POLL_MS);
}

/** Seek, at most once per SEEK_MS while the handle moves. */
function seekTo(frame) {
  showTime(frame);
  const sent = pending !== null;
  pending = frame;
  if (sent) return;
  setTimeout(async () => {
    const target = pending;
    pending = null;
    if (target === null) return;  // another clip was chosen meanwhile
    asked++;
    await control({ frame: target });
    asked--;
  }, SEEK_MS);
}

seek.addEventListener("input", () => { dragging = true; seekTo(Number(seek.value)); });
seek.addEventListener("change", () => { dragging = false; });
play.addEventListener("click", () => state && control({ playing: !state.playing }));
loop.addEventListener("click", () => state && control({ loop: !state.loop }));
find("fullscreen").addEventListener("click", () => video.requestFullscreen());
find("clip").addEventListener("change", (event) => choose(event.target.value));
addEventListener("pagehide", () => viewer?.close());
addEventListener("pageshow", (event) => { if (event.persisted) choose(clip.name); });

addEventListener("keydown", (event) => {
  if (!state || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, button, input")) return;
  const step = (frames) => seekTo(Math.min(Math.max((pending ?? state.frame) + frames, 0), state.frames - 1));
  const actions = {
    " ": () => play.click(),
    l: () => loop.click(),
    f: () => find("fullscreen").click(),
    ArrowLeft: () => step(-Math.round(clip.fps)),
    ArrowRight: () => step(Math.round(clip.fps)),
  };
  const action = actions[event.key] ?? actions[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
});

clips = await json("/api/clips");
find("clip").replaceChildren(...clips.map(({ name }) => new Option(name, name)));
choose(clips[0].name);
poll();
