/** The page: lists the clips of clips.json, and connects the controls to the player. */

import { loadClips, withToken } from "./address.js";
import { NervPlayer } from "./nervcast.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const PANEL_MS = 500;

const find = (id) => document.getElementById(id);
const wish = new URLSearchParams(location.search);
const engine = ["wasm", "webgpu"].find((name) => name === wish.get("engine")) ?? "auto";
const player = new NervPlayer(find("picture"), { engine, runtime: "./onnxruntime/" });
let clips = [];
let isDragging = false;
/** Subtitles and chapters, once a clip has any. */
let captions = null;

/** Return a time in seconds as minutes and seconds. */
function clock(seconds) {
  const tenths = Math.floor(seconds * 10 + 1e-6);
  const rest = String(tenths % 600).padStart(3, "0");
  return `${Math.floor(tenths / 600)}:${rest.slice(0, 2)}.${rest.slice(2)}`;
}

async function open(index) {
  const clip = clips[index];
  find("clip").selectedIndex = index;
  find("title").textContent = clip.title || clip.name;
  find("stream").hidden = !clip.stream;
  if (clip.stream) find("stream").href = withToken(clip.stream);
  find("notice").textContent = "loading…";
  try {
    await player.load(withToken(clip.file));
  } catch {
    return; // the event "error" has told it
  }
  find("notice").textContent = "";
  showShape();
  find("picture").setAttribute("aria-label", `Picture of ${clip.name}`);
  find("seek").max = player.duration;
  for (const id of ["seek", "play", "speed"]) find(id).disabled = false;
  player.playbackRate = Number(find("speed").value);
  player.play();
}

function showShape() {
  if (player.videoWidth) find("picture").style.aspectRatio = `${player.videoWidth} / ${player.videoHeight}`;
}

function showTime() {
  const time = isDragging ? Number(find("seek").value) : player.currentTime;
  find("clock").textContent = `${clock(time)} / ${clock(player.duration || 0)}`;
  if (!isDragging) find("seek").value = time;
}

async function showCaptions() {
  const shown = await captions;
  shown?.show(player.currentTime, player.textTracks[shown.chosen]?.cues);
}

function showPlaying() {
  find("play").classList.toggle("playing", !player.paused);
  find("play").setAttribute("aria-label", player.paused ? "Play" : "Pause");
}

function showPanel() {
  const found = player.statistics;
  const pace = player.frameRate ? found.decodeFps / player.frameRate : 0;
  const rung = player.rungs[player.rung];
  const rows = {
    ...(rung && { "Rung": `${rung.width}×${rung.height}, ${(rung.bytes / 1000).toFixed(0)} kB` }),
    "Decoding speed": `${found.decodeFps.toFixed(0)} fps, ${pace.toFixed(1)}×`,
    "Drawn": `${found.drawnFps.toFixed(1)} fps`,
    "Late frames": String(found.lateFrames),
    "Engine": found.engine === "webgpu" ? "WebGPU" : `WASM, ${found.workers}×`,
    "Memory": `${(found.memoryBytes / 2 ** 20).toFixed(0)} MiB`,
    "Download": `${(found.downloadedBytes / 1000).toFixed(1)} kB`,
  };
  find("panel").replaceChildren(
    ...Object.entries(rows).map(([name, value]) => {
      const row = document.createElement("div");
      row.append(Object.assign(document.createElement("dt"), { textContent: name }));
      row.append(Object.assign(document.createElement("dd"), { textContent: value }));
      return row;
    }),
  );
  if (found.damage.length) find("notice").textContent = `damaged clip: ${found.damage[0]}`;
}

const actions = {
  play: () => (player.paused ? player.play() : player.pause()),
  seekBy: (seconds) => (player.currentTime += seconds),
  step(frames) {
    player.pause();
    const frame = Math.floor(player.currentTime * player.frameRate + 1e-6);
    player.currentTime = Math.max(frame + frames, 0) / player.frameRate;
  },
  changeSpeed(by) {
    const next = SPEEDS[SPEEDS.indexOf(player.playbackRate) + by];
    if (!next) return;
    find("speed").value = String(next);
    player.playbackRate = next;
  },
  loop() {
    player.loop = !player.loop;
    find("loop").setAttribute("aria-pressed", String(player.loop));
  },
  fullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else find("player").requestFullscreen?.();
  },
};

const KEYS = {
  " ": () => actions.play(),
  k: () => actions.play(),
  ArrowLeft: () => actions.seekBy(-1),
  ArrowRight: () => actions.seekBy(1),
  ",": () => actions.step(-1),
  ".": () => actions.step(1),
  Home: () => (player.currentTime = 0),
  "[": () => actions.changeSpeed(-1),
  "]": () => actions.changeSpeed(1),
  l: () => actions.loop(),
  f: () => actions.fullscreen(),
};

function listen() {
  find("play").addEventListener("click", actions.play);
  find("loop").addEventListener("click", actions.loop);
  find("fullscreen").addEventListener("click", actions.fullscreen);
  find("fullscreen").hidden = !document.fullscreenEnabled;
  find("picture").addEventListener("click", actions.play);
  find("speed").replaceChildren(...SPEEDS.map((speed) => new Option(`${speed}×`, String(speed))));
  find("speed").value = "1";
  find("speed").addEventListener("change", () => (player.playbackRate = Number(find("speed").value)));
  find("clip").addEventListener("change", () => open(find("clip").selectedIndex));
  find("seek").addEventListener("input", () => {
    isDragging = true;
    player.currentTime = Number(find("seek").value);
  });
  for (const kind of ["change", "pointerup", "blur"]) {
    find("seek").addEventListener(kind, () => (isDragging = false));
  }
  addEventListener("keydown", (event) => {
    // With caps lock on, letters are capital.
    const action = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
    const isForeign =
      event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select") ||
      (event.key === " " && event.target.closest("button"));
    if (isForeign || !action || !player.duration) return;
    event.preventDefault();
    action();
  });
  for (const kind of ["timeupdate", "seeked", "progress"]) player.addEventListener(kind, showTime);
  player.addEventListener("progress", async () => {
    if (player.hasSound) (await import("./volume.js")).control(player);
    const { chapters = [] } = player.about;
    if (!captions && (player.textTracks.length || chapters.length)) {
      captions = import("./captions.js").then(({ Captions }) => new Captions({
        stage: find("stage"), seek: find("seek"), clock: find("clock"), choose: showCaptions,
      }));
    }
    (await captions)?.offer(player.textTracks, chapters, player.duration);
  });
  player.addEventListener("timeupdate", showCaptions);
  player.addEventListener("rungchange", showShape);
  for (const kind of ["progress", "rungchange"]) {
    player.addEventListener(kind, async () => {
      if (player.rungs.length || find("rung")) (await import("./rungs.js")).offerRungs(player);
    });
  }
  for (const kind of ["play", "pause", "ended"]) player.addEventListener(kind, showPlaying);
  player.addEventListener("error", ({ detail }) => {
    find("notice").textContent = detail.message;
    for (const id of ["seek", "play", "speed"]) find(id).disabled = true;
  });
  setInterval(() => document.hidden || showPanel(), PANEL_MS);
}

async function start() {
  listen();
  player.loop = true;
  // Browsers play no sound before the viewer has touched the page.
  player.muted = true;
  window.nervcast = player;
  clips = await loadClips();
  find("clip").hidden = clips.length < 2;
  find("clip").replaceChildren(...clips.map(({ name }) => new Option(name)));
  const wanted = wish.get("clip");
  await open(Math.max(clips.findIndex(({ name }) => name === wanted), 0));
}

start().catch((error) => (find("notice").textContent = error.message));
