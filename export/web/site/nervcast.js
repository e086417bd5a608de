/** NervPlayer: plays neural video on a canvas, decoded in workers of the page. */

import { Renderer } from "./renderer.js";
import { Ring } from "./ring.js";

const MAX_WORKERS = 4;
/** Pixels of a frame that a single worker decodes in time. */
const PIXELS_PER_WORKER = 640 * 360;
/** Most pictures for each frame in slow motion. */
const MAX_BETWEEN = 8;
const RATES = [1 / 16, 16];
/** Time between two ticks after which the page was hidden: what was due meanwhile is not late. */
const HIDDEN_MS = 500;
/** Time over which the rate of drawn pictures is averaged. */
const WINDOW_MS = 2000;

/** Version of the files that are written now, whose dictionary is loaded in any case. */
const USUAL_VERSION = 2;
const VERSIONS = [1, 2];
const VERSION_AT = 4;

const own = (name) => new URL(name, import.meta.url);
const loaded = new Map();

/** Load a file beside this one, once for all players. */
function loadOnce(name, use) {
  if (!loaded.has(name)) {
    const loading = fetch(own(name)).then((response) => {
      if (!response.ok) throw new Error(`cannot load ${response.url}: status ${response.status}`);
      return use(response);
    });
    loading.catch(() => loaded.delete(name));
    loaded.set(name, loading);
  }
  return loaded.get(name);
}

/** Load and compile the kernels; hosts that do not know WebAssembly's type will do. */
function loadKernels() {
  return loadOnce("kernels.wasm", async (response) => WebAssembly.compile(await response.arrayBuffer()));
}

/** Load the dictionary of a version of files; there is none for an unknown version. */
async function loadDictionary(version) {
  if (!VERSIONS.includes(version)) return {};
  const data = await loadOnce(`dictionary${version}.bin`, (response) => response.arrayBuffer());
  return { [version]: new Uint8Array(data) };
}

/** Address of the script that imports the worker's from another origin. */
let shim = null;

/** Start a worker, also if these scripts come from another origin. */
function startWorker() {
  const url = own("worker.js");
  if (url.origin === location.origin) return new Worker(url, { type: "module" });
  const script = new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" });
  shim ??= URL.createObjectURL(script);
  return new Worker(shim, { type: "module" });
}

export class NervPlayer extends EventTarget {
  #loop = false;
  #canvas;
  #renderer;
  #workerCount;
  #workers = [];
  #ring = null;
  /** The kernels and the dictionary for the workers, and the parts of the file so far. */
  #assets = null;
  #parts = [];
  #header = null;
  #end = 0;
  #isWhole = false;
  #bytes = 0;
  #damage = [];
  #isPaused = true;
  #rate = 1;
  /** Time in seconds at the moment `#since` of the page's clock, from which the present follows. */
  #base = 0;
  #since = 0;
  /** Numbers of the first picture after a seek, and of the one that is shown. */
  #origin = 0;
  #shown = -1;
  #latest = null;
  #ticked = 0;
  #late = 0;
  #drawn = [];
  #request = 0;
  #isSeeking = false;
  #abort = null;
  /** Who waits for the picture of a seek. */
  #waiting = [];
  #film = null;
  #soundtrack = null;
  #volume = 1;
  #muted = false;
  /** The pictures of `frame`, one after the other. */
  #frames = Promise.resolve();

  /**
   * Play on a canvas. `workers` is the number of workers; by default it follows from the size of
   * the frames.
   */
  constructor(canvas, { workers = null } = {}) {
    super();
    this.#canvas = canvas;
    this.#renderer = new Renderer(canvas);
    this.#workerCount = workers;
  }

  /** Open a clip: an address, a Response, a Blob or bytes. Resolves once a picture is drawn. */
  async load(source) {
    this.#close();
    const abort = new AbortController();
    this.#abort = abort;
    const opened = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.#feed(source, abort.signal).catch((error) => {
      if (!abort.signal.aborted) this.#fail(error);
    });
    await opened;
  }

  get duration() {
    return this.#header ? this.#header.frames / this.#header.rate : NaN;
  }

  get videoWidth() {
    return this.#header?.width ?? 0;
  }

  get videoHeight() {
    return this.#header?.height ?? 0;
  }

  /** Frames per second of the clip. */
  get frameRate() {
    return this.#header?.rate ?? NaN;
  }

  get paused() {
    return this.#isPaused;
  }

  /** Seconds up to which the clip has arrived. */
  get buffered() {
    return this.#header ? this.#end / this.#header.rate : 0;
  }

  get currentTime() {
    if (!this.#header) return 0;
    const time = this.#time(performance.now());
    return this.#loop ? time % this.duration : Math.min(time, this.duration);
  }

  set currentTime(seconds) {
    this.#seek(Number(seconds));
  }

  /** Whether the clip begins anew at its end. */
  get loop() {
    return this.#loop;
  }

  set loop(loops) {
    if (this.#loop === Boolean(loops)) return;
    const time = this.currentTime;
    this.#loop = Boolean(loops);
    this.#seek(time);
  }

  get playbackRate() {
    return this.#rate;
  }

  set playbackRate(rate) {
    if (!(rate >= RATES[0] && rate <= RATES[1])) {
      throw new RangeError(`the speed must be in ${RATES[0]}..${RATES[1]}, got ${rate}`);
    }
    const time = this.currentTime;
    this.#rate = rate;
    this.#seek(time);
  }

  /** Whether the clip has sound that this browser can play. */
  get hasSound() {
    return this.#soundtrack !== null;
  }

  /** Subtitles: tracks of a language, a title, and cues with `start` and `stop` in seconds. */
  get textTracks() {
    return this.#film?.textTracks ?? [];
  }

  /** Title, language, date and chapters of the film. */
  get about() {
    return this.#film?.about ?? {};
  }

  /** Loudness, 0 to 1. */
  get volume() {
    return this.#volume;
  }

  set volume(volume) {
    if (!(volume >= 0 && volume <= 1)) {
      throw new RangeError(`the volume must be in 0..1, got ${volume}`);
    }
    this.#volume = Number(volume);
    if (this.#soundtrack) this.#soundtrack.volume = this.#volume;
    this.#emit("volumechange");
  }

  get muted() {
    return this.#muted;
  }

  set muted(muted) {
    this.#muted = Boolean(muted);
    this.#followSound();
    this.#emit("volumechange");
  }

  /** What decoding costs, and what has been drawn. */
  get statistics() {
    const ring = this.#ring;
    const milliseconds = ring?.milliseconds ?? 0;
    const count = this.#workers.length;
    const now = performance.now();
    this.#drawn = this.#drawn.filter((moment) => moment > now - WINDOW_MS);
    return {
      workers: count,
      decodeMilliseconds: milliseconds,
      decodeFps: milliseconds ? (1000 * count) / milliseconds : 0,
      drawnFps: (1000 * this.#drawn.length) / WINDOW_MS,
      lateFrames: this.#late,
      decodedFrames: ring?.decoded ?? 0,
      memoryBytes: ring?.memoryBytes ?? 0,
      downloadedBytes: this.#bytes,
      isComplete: this.#isWhole,
      damage: [...this.#damage, ...(this.#film?.damage ?? []), ...(ring?.fault ? [ring.fault] : [])],
    };
  }

  play() {
    if (!this.#isPaused || !this.#header) return;
    if (this.currentTime >= this.duration - 0.5 / this.frameRate && !this.#loop) this.#seek(0);
    this.#isPaused = false;
    this.#since = performance.now();
    this.#emit("play");
    this.#schedule();
  }

  pause() {
    if (this.#isPaused) return;
    this.#base = this.#time(performance.now());
    this.#isPaused = true;
    this.#followSound();
    this.#emit("pause");
  }

  /** Return the picture of a time in seconds, or of the present, as an ImageBitmap. */
  async frame(seconds = this.currentTime) {
    if (!this.#header) throw new Error("no clip is open");
    const picture = this.#frames.then(() => this.#grab(seconds));
    this.#frames = picture.catch(() => {});
    return picture;
  }

  async #grab(seconds) {
    if (!this.#header) throw new Error("no clip is open");
    this.pause();
    await new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#seek(seconds);
    });
    return createImageBitmap(this.#canvas);
  }

  /** End all workers and the download. */
  destroy() {
    this.#close();
  }

  #close() {
    this.#abort?.abort();
    const aborted = new DOMException("another clip was opened, or the player ended", "AbortError");
    for (const { reject } of this.#waiting.splice(0)) reject(aborted);
    cancelAnimationFrame(this.#request);
    this.#request = 0;
    for (const worker of this.#workers) worker.terminate();
    this.#workers = [];
    this.#ring = null;
    this.#header = null;
    this.#isPaused = true;
    this.#soundtrack?.close();
    this.#film = null;
    this.#soundtrack = null;
    this.#end = 0;
    this.#isWhole = false;
    this.#bytes = 0;
    this.#parts = [];
    this.#damage = [];
    this.#late = 0;
    this.#base = 0;
    this.#shown = -1;
    this.#latest = null;
    this.#isSeeking = false;
  }

  #emit(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #fail(error) {
    const waiting = this.#waiting.splice(0);
    for (const { reject } of waiting) reject(error);
    this.#close();
    this.#emit("error", error);
  }

  /** Start a worker, and pass on to it what has arrived so far. */
  #addWorker() {
    const place = this.#workers.length;
    const worker = startWorker();
    worker.onmessage = ({ data }) => this.#receive(place, data);
    worker.postMessage({ type: "open", ...this.#assets });
    for (const bytes of this.#parts) worker.postMessage({ type: "feed", bytes, isLast: false });
    if (this.#isWhole) worker.postMessage({ type: "feed", bytes: new Uint8Array(0), isLast: true });
    worker.onerror = (event) => this.#fail(new Error(event.message ?? "a worker failed"));
    this.#workers.push(worker);
  }

  /** Pass the source's bytes on to the workers as they arrive. */
  async #feed(source, signal) {
    const isAddress = typeof source === "string" || source instanceof URL;
    const kernels = loadKernels();
    loadDictionary(USUAL_VERSION).catch(() => {}); // who needs it will hear of its failure
    let response = isAddress ? await fetch(source, { signal }) : source;
    if (!(response instanceof Response)) response = new Response(response);
    if (!response.ok) throw new Error(`cannot load ${response.url}: status ${response.status}`);
    const reader = response.body.getReader();
    signal.addEventListener("abort", () => reader.cancel().catch(() => {}));
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted) return;
      if (done) break;
      this.#bytes += value.length;
      this.#parts.push(value);
      if (this.#workers.length) this.#send(value, false);
      else if (this.#bytes > VERSION_AT) await this.#open(kernels, signal);
      if (signal.aborted) return;
    }
    if (!this.#workers.length) await this.#open(kernels, signal);
    this.#isWhole = true;
    this.#send(new Uint8Array(0), true);
  }

  #send(bytes, isLast) {
    for (const worker of this.#workers) worker.postMessage({ type: "feed", bytes, isLast });
  }

  /** Start the first worker, once the version of the file is known. */
  async #open(kernels, signal) {
    const head = new Uint8Array(await new Blob(this.#parts).arrayBuffer());
    const dictionaries = await loadDictionary(head[VERSION_AT]);
    this.#assets = { module: await kernels, dictionaries };
    if (!signal.aborted) this.#addWorker();
  }

  /** Start the other workers once the size of the frames is known, and show the first picture. */
  #begin(header) {
    this.#header = header;
    const wanted = Math.ceil((header.width * header.height) / PIXELS_PER_WORKER);
    const cores = navigator.hardwareConcurrency ?? 2;
    const count = this.#workerCount ?? Math.max(Math.min(wanted, cores, MAX_WORKERS), 1);
    while (this.#workers.length < count) this.#addWorker();
    this.#ring = new Ring(this.#workers, () => this.#arrived());
    this.#seek(0);
  }

  #receive(place, data) {
    if (data.type === "error") {
      const error = new Error(data.message);
      error.name = data.name;
      this.#fail(error);
    } else if (data.type === "picture") {
      this.#ring?.receive(place, data);
    } else if (place === 0 && data.type === "extras") {
      this.#receiveExtras(data);
    } else if (place === 0 && data.type === "progress") {
      this.#end = data.end;
      this.#damage = data.damage;
      if (!this.#header) this.#begin(data.header);
      this.#emit("progress");
      this.#ring?.fill(0);
    }
  }

  /** Take chunks besides the pictures', and load what reads and plays them with the first. */
  async #receiveExtras({ extras, header }) {
    const { signal } = this.#abort;
    const { Film } = await import("./film.js");
    if (signal.aborted) return;
    this.#film ??= new Film(header);
    this.#film.take(extras, this.#volume);
    this.#soundtrack = this.#film.soundtrack;
    this.#emit("progress");
  }

  /** Let the sound play along, at normal speed; otherwise it is silent. */
  #followSound(isHeld = false) {
    if (!this.#soundtrack) return;
    const isSilent = this.#isPaused || this.#isSeeking || this.#muted || this.#rate !== 1 || isHeld;
    if (isSilent) this.#soundtrack.stop();
    else this.#soundtrack.follow(this.#time(performance.now()), this.#loop ? this.duration : Infinity);
  }

  /** Return the time in seconds at a moment of the page's clock, which goes on when a clip loops. */
  #time(now) {
    if (this.#isPaused || this.#isSeeking) return this.#base;
    return this.#base + ((now - this.#since) / 1000) * this.#rate;
  }

  /** Pictures for each frame: more than one for slow motion, if the clip has times in between. */
  get #density() {
    if (!this.#header.isContinuous || this.#rate >= 1) return 1;
    return Math.min(Math.ceil(1 / this.#rate), MAX_BETWEEN);
  }

  /** Go to a time; pictures are numbered from there on. */
  #seek(seconds) {
    if (!this.#ring) return;
    const { frames, rate, width, height } = this.#header;
    const density = this.#density;
    const last = frames - 1;
    this.#base = Math.min(Math.max(seconds || 0, 0), this.duration);
    this.#since = performance.now();
    const start = Math.min(Math.floor(this.#base * rate * density + 1e-6), last * density);
    this.#origin = start;
    this.#shown = start - 1;
    this.#isSeeking = true;
    this.#followSound();
    const timeOf = (number) => {
      const time = number / density;
      const looped = this.#loop ? time % frames : time;
      if (looped > last) return this.#loop ? last : null;
      return looped < this.#end ? looped : null;
    };
    this.#ring.restart(start, timeOf, 4 * width * height);
    this.#ring.fill(start);
    this.#emit("timeupdate");
    if (!this.#isPaused) this.#schedule();
  }

  /** Return the number of the picture that is due at a moment. */
  #due(now) {
    const { rate } = this.#header;
    return Math.max(Math.floor(this.#time(now) * rate * this.#density + 1e-6), this.#origin);
  }

  /** Show the first picture after a seek as soon as it is there. */
  #arrived() {
    this.#ring.fill(0);
    if (!this.#isSeeking) return;
    if (!this.#show(this.#origin) && !this.#ring.isFaulty(this.#origin)) return;
    this.#isSeeking = false;
    this.#since = performance.now();
    for (const { resolve } of this.#waiting.splice(0)) resolve();
    this.#emit("seeked");
    if (!this.#isPaused) this.#schedule();
  }

  #show(number) {
    const found = this.#ring.take(number);
    if (!found) return false;
    if (found.number <= this.#shown) {
      this.#ring.recycle(found.pixels);
      return false;
    }
    const { width, height } = this.#header;
    this.#renderer.draw(found.pixels, width, height);
    this.#late += Math.max(found.number - this.#shown - 1 - found.dropped, 0);
    this.#shown = found.number;
    this.#drawn.push(performance.now());
    if (this.#drawn.length > 1000) this.#drawn.splice(0, 500);
    if (this.#latest) this.#ring.recycle(this.#latest);
    this.#latest = found.pixels;
    return true;
  }

  #schedule() {
    if (!this.#request) this.#request = requestAnimationFrame((now) => this.#tick(now));
  }

  #tick(now) {
    this.#request = 0;
    if (!this.#ring || this.#isPaused) return;
    if (!this.#isSeeking) {
      this.#followSound(this.#holdAtEnd(now));
      const due = this.#due(now);
      if (now > this.#ticked + HIDDEN_MS) this.#shown = Math.max(this.#shown, due - 1);
      this.#ticked = now;
      if (due > this.#shown) this.#show(due);
      this.#ring.fill(Math.max(this.#shown + 1, due));
      this.#emit("timeupdate");
      const last = (this.#header.frames - 1) * this.#density;
      if (!this.#loop && due > last) {
        this.#base = this.duration;
        this.#isPaused = true;
        this.#followSound();
        this.#emit("pause");
        this.#emit("ended");
        return;
      }
    }
    this.#schedule();
  }

  /** Stop the clock at the end of what has arrived of the clip so far; return whether it is. */
  #holdAtEnd(now) {
    const end = this.#end / this.#header.rate;
    if (this.#end >= this.#header.frames || this.#time(now) < end) return false;
    this.#base = end;
    this.#since = now;
    return true;
  }
}
