// The page: what the server tells is shown, and what is clicked, dragged or typed is asked of it.

import { Refusal, inWords, json, withToken } from "/static/api.js";
import { Choice, describeClip } from "/static/clips.js";
import { follow as followFilm } from "/static/film.js";
import { Controls, write } from "/static/controls.js";
import { bindKeys, helpRows } from "/static/keys.js";
import { Panel, bytesOf, create } from "/static/panel.js";
import { Reception } from "/static/reception.js";
import { prepareScreen, showShape, toggleFullscreen } from "/static/screen.js";
import { Sound } from "/static/sound.js";
import { Timeline } from "/static/timeline.js";
import { Viewer } from "/static/viewer.js";
import { Wishes } from "/static/wishes.js";

const POLL_MS = 1000;
const COMPLAINT_MS = 6000;
/** Wishes whose outcome only the server knows. */
const UNFORESEEN = ["clip", "private", "item", "rung"];

const find = (id) => document.getElementById(id);
const video = find("video");

let clips = [];
let asked = 0;  // requests for the state, to tell old answers from new ones
let answered = 0;
let polling = null, loading = null;  // timers
let session = null;  // the one whose state is shown
let own = null;  // the last state of one's own timeline, to have it again in another session
let hindrance = "";  // of the connection
let complaint = "";  // of the server, about a wish

const viewer = new Viewer(video, followViewer);
const timeline = new Timeline();
const wishes = new Wishes(ask);
const controls = new Controls(timeline, wish);
const sound = new Sound(video, find("mute"));
const reception = new Reception(video);
const panel = new Panel(find("panel"), find("facts"));
const clipChoice = new Choice(find("clips"), chooseClip);
const itemChoice = new Choice(find("playlist"), (item) => wish({ item }));

const clipNamed = (name) => clips.find((clip) => clip.name === name);
const sessionUrl = (id) => `/api/sessions/${encodeURIComponent(id)}`;
const isPanelSeen = () => !document.hidden && find("statistics").open;

// What the server tells

/** Load the clips, and watch the one that was watched, or that the address names, or the first. */
async function load(attempt = 0) {
  try {
    clips = await json("/api/clips");
  } catch (error) {
    showConnection("failed", inWords(error));
    const again = !(error instanceof Refusal) || error.retrySeconds > 0 || error.status >= 500;
    const seconds = Math.max(0.5 * 2 ** Math.min(attempt, 4), error.retrySeconds ?? 0);
    clearTimeout(loading);
    if (again) loading = setTimeout(load, 1000 * seconds, attempt + 1);
    return;
  }
  const several = clips.length > 1;
  find("clips").hidden = !several;
  document.body.classList.toggle("several", several);
  clipChoice.show(several ? clips.map(({ name }) => name) : [], (name) => describeClip(clipNamed(name)));
  const named = viewer.clip ?? new URLSearchParams(location.search).get("clip");
  showChoice(clipNamed(named)?.name ?? clips[0].name);
  viewer.watch(viewer.clip);
}

/** Follow the viewer: a new session's state is asked for at once, a lost one's is no longer shown. */
function followViewer() {
  if (viewer.id !== session) {
    session = viewer.id;
    wishes.forget();
    reception.forget();
    if (session === null) forgetState();
    else enter();
  }
  showConnection(viewer.phase, viewer.reason);
  // A clip that is gone may have gone with a server that has others now.
  if (viewer.phase === "waiting" && viewer.status === 404) reload();
}

async function reload() {
  const before = viewer.clip;
  clips = await json("/api/clips").catch(() => clips);
  if (!clipNamed(before)) load();
}

function enter() {
  if (own !== null && own.clip === viewer.clip) {
    const { item, frame, playing, loop, speed } = own;
    wish({ private: true });
    if (clipNamed(own.clip).playlist !== null) wish({ item });
    wish({ frame, playing, loop, speed });
  }
  poll();
}

function forgetState() {
  timeline.state = null;
  controls.show();
  poll();
}

/** Report what arrives here, and show the state that the server answers with; once a second. */
async function poll() {
  clearTimeout(polling);
  const id = session, serial = ++asked, begun = performance.now();
  if (id === null) {
    panel.add(null, isPanelSeen());
    polling = setTimeout(poll, POLL_MS);
    return;
  }
  const inbound = await viewer.statistics().catch(() => null);
  if (id !== session) return;
  const received = reception.measure(inbound);
  try {
    const latency = timeline.state && reception.latency(timeline.state);
    const state = await json(`${sessionUrl(id)}/report`, "PUT", reportOf(received, latency));
    if (id !== session) return;
    reception.stamped = state.stamped;
    panel.add({ state, received, latency }, isPanelSeen());
    if (!controls.dragging && !wishes.pending && serial > answered) showState(state);
  } catch (error) {
    if (id !== session) return;
    if (error.status === 404) viewer.lose(viewer.session, new Error("the session has ended"));
    // WebRTC takes long to notice that the other end is gone; even a paused clip's picture is sent over and over.
    else if (received?.receivedFps === 0) viewer.lose(viewer.session, error);
    else complain(error);
  }
  clearTimeout(polling);
  polling = setTimeout(poll, Math.max(POLL_MS - (performance.now() - begun), 0));
}

const reportOf = (received, latency) => ({
  received_fps: received?.receivedFps ?? null,
  presented_fps: received?.presentedFps ?? null,
  freezes: received?.freezes ?? null,
  latency_ms: latency?.ms ?? null,
});

// What is asked of the server

/** Ask for changes of the session, which are shown as if they were granted where they can be foreseen. */
function wish(changes) {
  wishes.add(changes);
  if (timeline.state === null || UNFORESEEN.some((key) => key in changes)) return;
  timeline.expect(changes);
  controls.show();
}

/** Send a wish; return whether it was granted. */
async function ask(changes) {
  const id = session, serial = ++asked;
  if (id === null) return false;
  try {
    const state = await json(sessionUrl(id), "POST", changes);
    if (id !== session) return false;
    answered = serial;
    if (!controls.dragging && wishes.waiting.length === 0) showState(state);
    return true;
  } catch (error) {
    if (id !== session) return false;
    if (error.status === 404) viewer.watch(viewer.clip);  // the session is gone
    else complain(error);
    return false;
  }
}

function chooseClip(name) {
  if (name === viewer.clip) return;
  showChoice(name);
  if (session === null) viewer.watch(name);
  else wish({ clip: name });
}

function nextClip(distance) {
  const index = clips.findIndex(({ name }) => name === viewer.clip);
  if (clips.length > 1) chooseClip(clips[(index + distance + clips.length) % clips.length].name);
}

// What is shown

function showChoice(name) {
  viewer.clip = name;
  clipChoice.mark(name);
  const { width, height } = clipNamed(name);
  showShape(width, height);
  const { playlist, title } = clipNamed(name);
  write(find("title"), (playlist === null && title) || name);
  find("title").title = name;
  document.title = `${find("title").textContent} – nervcast`;
  find("here").hidden = playlist !== null;
  find("here").href = withToken("/here/", { clip: name });
  const address = new URL(location.href);
  if (clips.length > 1) address.searchParams.set("clip", name);
  else address.searchParams.delete("clip");
  history.replaceState(null, "", address);
}

function showState(state) {
  const before = timeline.state;
  timeline.set(state);
  own = state.private ? state : null;
  if (state.clip !== viewer.clip && clipNamed(state.clip)) showChoice(state.clip);
  if (state.clip !== before?.clip) showPlaylist(clipNamed(state.clip)?.playlist ?? null);
  itemChoice.mark(state.item);
  showShape(state.width, state.height);
  panel.tell(state, clipNamed(state.item) ?? clipNamed(state.clip) ?? {}, reception.rates?.codec);
  controls.show();
  sound.follow(state);
  showRungs(clipNamed(state.clip)?.rungs ?? [], state);
  followFilm(clipNamed(state.item), timeline);
  showNotice();
}

/** Offer the rungs of a ladder: one of them, or what the line can carry. */
function showRungs(rungs, { rung, chooses_rung }) {
  const list = find("rung");
  const names = rungs.map(({ width, height, file_bytes }) => `${width}×${height}, ${bytesOf(file_bytes)}`);
  const auto = `Auto (${names[rung] ?? ""})`;
  const offered = names.join("|");
  if (list.dataset.offered !== offered) {
    list.dataset.offered = offered;
    list.hidden = rungs.length === 0;
    list.replaceChildren(new Option(auto, ""), ...names.map((name, number) => new Option(name, number)));
  }
  if (rungs.length > 0) write(list.options[0], auto);
  const chosen = chooses_rung ? "" : String(rung);
  if (list.value !== chosen) list.value = chosen;
}

function showPlaylist(names) {
  find("playlist").hidden = names === null;
  itemChoice.show(names ?? [], (name) => [name]);
}

/** Show the connection's phase in words, and what hinders it. */
function showConnection(phase, reason) {
  find("state").dataset.phase = phase;
  find("retry").hidden = phase !== "waiting" && phase !== "failed";
  const hindrances = {
    connecting: "connecting…",
    live: viewer.blocked ? "this browser plays nothing by itself: press the picture" : "",
    waiting: `${reason}; trying again…`,
    failed: reason,
  };
  hindrance = hindrances[phase] ?? "";
  countDown();
  showNotice();
}

/** Show the phase; not in the notice, which is read out each time that it changes. */
function countDown() {
  const { phase } = find("state").dataset;
  const words = { connecting: "connecting…", live: "live", failed: "failed", asleep: "asleep" };
  write(find("state"), words[phase] ?? `reconnecting in ${Math.max(Math.ceil((viewer.retryAt - performance.now()) / 1000), 1)} s…`);
  if (phase === "waiting") setTimeout(countDown, 250);
}

function complain(error) {
  // Of a lost server the viewer tells.
  if (!(error instanceof Refusal)) return;
  complaint = error.message;
  showNotice();
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => { complaint = ""; showNotice(); }, COMPLAINT_MS);
}

function showNotice() {
  write(find("notice"), hindrance || complaint || timeline.state?.error || "");
}

function showHelp() {
  find("help").showModal();
}

find("help").querySelector("dl").replaceChildren(...helpRows().map(({ shown, does }) => create("div", {}, [
  create("dt", {}, shown.map((key) => create("kbd", { textContent: key }))),
  create("dd", { textContent: does }),
])));
find("help").addEventListener("click", (event) => {
  // A click beside the dialog is one on its backdrop.
  if (event.target === find("help") || event.target.closest("button")) find("help").close();
});
find("keys").addEventListener("click", showHelp);
find("rung").addEventListener("change", ({ target }) => {
  wish({ rung: target.value === "" ? null : Number(target.value) });
  target.blur();
});
find("retry").addEventListener("click", () => clips.length > 0 ? viewer.watch(viewer.clip) : load());
video.addEventListener("resize", () => showShape(video.videoWidth, video.videoHeight));
// What some browsers ask for before anything plays, to save power.
video.addEventListener("click", () => video.play().catch(() => {}));

bindKeys({
  play: () => controls.play(),
  secondBack: () => controls.seekBy(-1),
  secondForward: () => controls.seekBy(1),
  frameBack: () => controls.step(-1),
  frameForward: () => controls.step(1),
  first: () => controls.seekTo(0),
  last: () => controls.seekToEnd(),
  slower: () => controls.changeSpeed(-1),
  faster: () => controls.changeSpeed(1),
  loop: () => controls.loop(),
  mute: () => sound.toggle(),
  louder: () => sound.change(1),
  quieter: () => sound.change(-1),
  subtitles: () => false,  // captions.js has this key
  private: () => controls.changeAudience(),
  fullscreen: toggleFullscreen,
  nextClip: () => nextClip(1),
  previousClip: () => nextClip(-1),
  help: showHelp,
});
controls.show();
prepareScreen();
viewer.followPage();
window.nervcast = viewer;  // for the curious, and for tests
load();
