/** NervPlayer: plays neural video on a canvas, decoded in workers of the page. */

import { Renderer } from "./renderer.js";
import { Stage } from "./stage.js";

/** Most pictures for each frame in slow motion. */
const MAX_BETWEEN = 8;
const RATES = [1 / 16, 16];
const ENGINES = ["auto", "wasm", "webgpu"];
/** Time between two ticks after which the page was hidden: what was due meanwhile is not late. */
const HIDDEN_MS = 500;
/** Time over which the rate of drawn pictures is averaged. */
const WINDOW_MS = 2000;

/** The module of what clips have besides pictures, once it is wanted. */
let filmModule = null;

export class NervPlayer extends EventTarget {
  #loop = false;
  #canvas;
  #renderer;
  #options;
  /** The clip that is played, and the ladder that it belongs to, if any. */
  #stage = null;
  #ladder = null;
  /** The clip from where a seek leads to, until its head has arrived. */
  #part = null;
  #pastBytes = 0;
  #seeking = new AbortController();
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
  #events = {
    opened: (stage) => this.#opened(stage),
    progressed: (stage) => this.#progressed(stage),
    receivedExtras: (stage, data) => this.#receiveExtras(stage, data),
    arrived: (stage) => (this.#isPresent(stage) ? this.#arrived() : this.#climbWhilePaused()),
    failed: (stage, error) => this.#stageFailed(stage, error),
  };
  /** Who waits for the picture of a seek. */
  #waiting = [];
  #soundtrack = null;
  #volume = 1;
  #muted = false;
  /** The pictures of `frame`, one after the other. */
  #frames = Promise.resolve();

  /**
   * Play on a canvas. `workers` is the number of workers; by default it follows from the size of
   * the frames. `engine` is "wasm", "webgpu", or "auto": WebGPU where there is a GPU. `runtime` is
   * the address of a folder with onnxruntime-web, for clips that the kernels cannot run.
   */
  constructor(canvas, { workers = null, engine = "auto", runtime = null } = {}) {
    super();
    if (!ENGINES.includes(engine)) throw new RangeError(`there is no engine ${engine}`);
    this.#canvas = canvas;
    this.#renderer = new Renderer(canvas);
    this.#options = { workers, engine, runtime };
  }

  /**
   * Open a clip: an address, a Response, a Blob or bytes; or the address of a ladder's list, which
   * ends in `.json`. Resolves once a picture is drawn.
   */
  async load(source) {
    this.#close();
    const abort = new AbortController();
    this.#abort = abort;
    const opened = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.#open(source, abort.signal).catch((error) => {
      if (!abort.signal.aborted) this.#fail(error);
    });
    await opened;
  }

  async #open(source, signal) {
    this.#pastBytes = 0;
    const open = (clip) => new Stage(clip, this.#options, this.#events);
    const isAddress = typeof source === "string" || source instanceof URL;
    if (isAddress && String(source).split(/[?#]/)[0].endsWith(".json")) {
      const { Ladder } = await import("./ladder.js");
      const ladder = await Ladder.load(source, signal, open, this.#options.workers);
      if (!signal.aborted) this.#stage = (this.#ladder = ladder).begin();
    } else {
      this.#stage = open(source);
    }
  }

  get #header() {
    return this.#stage?.header ?? null;
  }

  get #ring() {
    return this.#stage?.ring ?? null;
  }

  #opened(stage) {
    if (stage === this.#part) {
      this.#pastBytes += this.#stage.bytes;
      this.#stage.close();
      [this.#stage, this.#part, this.#latest] = [stage, null, null];
      this.#soundtrack?.expect(stage.first / stage.header.rate);
    }
    if (this.#isPresent(stage)) this.#seek(this.#base);
  }

  #isPresent(stage) {
    return stage === this.#stage;
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
    return this.#header ? this.#stage.end / this.#header.rate : 0;
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
    return this.#stage?.film?.textTracks ?? [];
  }

  /** Title, language, date and chapters of the film. */
  get about() {
    return this.#stage?.film?.about ?? {};
  }

  /** The clips of a ladder from small to large, each with `bytes`, `width` and `height`. */
  get rungs() {
    return this.#ladder?.rungs ?? [];
  }

  /** Place of the clip that is played in `rungs`. */
  get rung() {
    return this.#ladder?.index ?? 0;
  }

  /** Place of the clip that is wanted; null if it follows from the line and the machine. */
  get wantedRung() {
    return this.#ladder?.wanted ?? null;
  }

  set wantedRung(index) {
    if (index !== null && !(Number.isInteger(index) && this.rungs[index])) {
      throw new RangeError(`there is no rung ${index}`);
    }
    if (!this.#ladder) return;
    this.#ladder.wanted = index;
    this.#climbWhilePaused();
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
    const stage = this.#stage;
    const ring = this.#ring;
    const milliseconds = ring?.milliseconds ?? 0;
    const count = ring?.workerCount ?? 0;
    const now = performance.now();
    this.#drawn = this.#drawn.filter((moment) => moment > now - WINDOW_MS);
    return {
      engine: ring?.engine ?? "wasm",
      gpuFault: stage?.gpuFault ?? null,
      workers: count,
      decodeMilliseconds: milliseconds,
      decodeFps: milliseconds ? (1000 * count) / milliseconds : 0,
      drawnFps: (1000 * this.#drawn.length) / WINDOW_MS,
      lateFrames: this.#late,
      decodedFrames: ring?.decoded ?? 0,
      memoryBytes: (ring?.memoryBytes ?? 0) + (this.#ladder?.memoryBytes ?? 0),
      downloadedBytes: this.#pastBytes + (this.#ladder?.bytes ?? 0) + (stage?.bytes ?? 0),
      isComplete: stage?.isWhole ?? false,
      damage: [
        ...(stage?.damage ?? []), ...(stage?.film?.damage ?? []),
        ...(ring?.fault ? [ring.fault] : []), ...(this.#ladder?.damage ?? []),
      ],
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
    this.#ladder?.defer();
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
    this.#leavePart();
    this.#stage?.close();
    this.#stage = null;
    this.#ladder?.close();
    this.#ladder = null;
    this.#isPaused = true;
    this.#soundtrack?.close();
    this.#soundtrack = null;
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

  /** Take chunks besides the pictures', and load what reads and plays them with the first. */
  async #receiveExtras(stage, { extras, header }) {
    // One promise for all messages keeps them in order, which several imports would not.
    filmModule ??= import("./film.js");
    filmModule.catch(() => (filmModule = null));
    const { Film } = await filmModule;
    if (stage.isClosed) return;
    // The sound of all rungs is the same, and goes on when the rung changes.
    stage.film ??= new Film(header);
    stage.film.soundtrack ??= this.#soundtrack;
    stage.film.take(extras, this.#volume);
    this.#soundtrack = stage.film.soundtrack;
    this.#emit("progress");
  }

  #progressed(stage) {
    if (!this.#isPresent(stage)) {
      this.#climbWhilePaused();
      return;
    }
    this.#emit("progress");
    this.#ring.fill(0);
  }

  /** Go on without a clip that has failed, if it is one of a ladder. */
  #stageFailed(stage, error) {
    if (stage === this.#part) {
      this.#leavePart();
      if (this.#isBehind(this.#base * this.#header.rate)) this.#startAnew(stage, error);
      return;
    }
    if (!this.#isPresent(stage)) {
      this.#ladder?.drop(stage, error);
      this.#emit("rungchange");
      return;
    }
    const base = this.#ring ? this.currentTime : this.#base;
    const other = this.#ladder?.replace(stage, error);
    if (!other) {
      this.#fail(error);
      return;
    }
    this.#base = base;
    this.#isSeeking = true;
    this.#latest = null;
    stage.close();
    this.#stage = other;
    this.#followSound();
    this.#emit("rungchange");
  }

  /** Follow the ladder: change to another of its clips once that is ready. */
  #climb(now, isHeld = false) {
    if (!this.#ladder || !this.#ring) return;
    const { frames } = this.#header;
    const last = this.#loop ? Infinity : (frames - 1) * this.#density;
    const due = Math.min(this.#due(now), last);
    const stage = this.#ladder.follow({
      now,
      due,
      isHeld,
      shown: this.#shown,
      present: this.#stage,
      late: this.#late,
      density: this.#density,
      speed: this.#rate,
      isPaused: this.#isPaused,
      timesOf: (each) => this.#timesOf(each),
    });
    if (!stage) return;
    this.#stage.close();
    this.#stage = stage;
    this.#latest = null;
    if (this.#isPaused || isHeld) this.#shown = due - 1;
    this.#show(due);
    this.#emit("rungchange");
    this.#emit("progress");
  }

  #climbWhilePaused() {
    if (this.#isPaused && !this.#isSeeking) this.#climb(performance.now());
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
    this.#base = Math.min(Math.max(seconds || 0, 0), this.duration);
    this.#since = performance.now();
    const start = Math.min(Math.floor(this.#base * rate * density + 1e-6), (frames - 1) * density);
    this.#origin = start;
    this.#shown = start - 1;
    this.#isSeeking = true;
    this.#followSound();
    this.#ladder?.defer();
    this.#ring.restart(start, this.#timesOf(this.#stage), 4 * width * height);
    this.#ring.fill(start);
    this.#emit("timeupdate");
    if (!this.#isPaused) this.#schedule();
    this.#reach(start / density).catch((error) => this.#fail(error));
  }

  /** Open the clip where a frame is that has not arrived, if its host serves ranges. */
  async #reach(frame) {
    this.#leavePart();
    const stage = this.#stage;
    if (stage.has(frame) || !stage.address || this.#ladder) return;
    const { signal } = (this.#seeking = new AbortController());
    let part = null;
    try {
      const { partAt } = await import("./ranges.js");
      part = await partAt(stage, frame, signal);
    } catch (error) {
      if (!["AbortError", "TypeError"].includes(error.name)) throw error; // no answer from the host
    }
    if (signal.aborted) part?.response.body.cancel().catch(() => {});
    else if (part) this.#part = new Stage(part, this.#options, this.#events);
    else if (this.#isBehind(frame)) this.#startAnew(null, null);
  }

  /** Whether a frame does not arrive by the present download, as it comes before. */
  #isBehind(frame) {
    return Math.floor(frame) < this.#stage.first;
  }

  /** Open the whole clip in place of a part that has failed, unless it is the whole that has. */
  #startAnew(failed, error) {
    if (failed && !failed.isPart) this.#fail(error);
    else this.#part = new Stage(this.#stage.address, this.#options, this.#events);
  }

  /** Give up what a seek has begun: its requests, and the clip that it opens. */
  #leavePart() {
    this.#seeking.abort();
    if (!this.#part) return;
    this.#pastBytes += this.#part.bytes;
    this.#part.close();
    this.#part = null;
    this.#soundtrack?.expect(this.#stage.end / this.#header.rate);
  }

  /** Return the function from a picture's number to its time in frames, or to null if it is not there. */
  #timesOf(stage) {
    const density = this.#density;
    const { frames } = stage.header;
    return (number) => {
      const time = number / density;
      const looped = this.#loop ? time % frames : time;
      if (looped > frames - 1) return this.#loop ? frames - 1 : null;
      return stage.has(looped) ? looped : null;
    };
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
    this.#leavePart();
    this.#since = performance.now();
    for (const { resolve } of this.#waiting.splice(0)) resolve();
    this.#emit("seeked");
    this.#climbWhilePaused();
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
      const isHeld = this.#holdAtEnd(now);
      if (this.#stage.first && this.#time(now) >= this.duration && this.#loop) this.#seek(0);
      this.#followSound(isHeld);
      this.#climb(now, isHeld);
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
    const end = this.#stage.end / this.#header.rate;
    if (this.#stage.end >= this.#header.frames || this.#time(now) < end) return false;
    this.#base = end;
    this.#since = now;
    return true;
  }
}
