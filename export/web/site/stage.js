/** A clip on its way to the canvas: its download, its workers, and the pictures that they decode. */

import { Ring } from "./ring.js";

const MAX_WORKERS = 4;
/** Pixels of a frame that a single worker decodes in time. */
const PIXELS_PER_WORKER = 640 * 360;
/** Time over which the speed of a download is measured. */
const WINDOW_MS = 2000;
const LEAST_MS = 500;

/** Version of the files that are written now, whose dictionary is loaded in any case. */
const USUAL_VERSION = 2;
const VERSIONS = [1, 2];
const VERSION_AT = 4;

const own = (name) => new URL(name, import.meta.url);
const loaded = new Map();

/** Load a file beside this one, once for all players. */
function loadOnce(name, use) {
  if (!loaded.has(name)) {
    const loading = fetch(own(name)).then((response) => use(checked(response)));
    loading.catch(() => loaded.delete(name));
    loaded.set(name, loading);
  }
  return loaded.get(name);
}

/** Return a response, unless it tells of a failure. */
export function checked(response) {
  if (response.ok) return response;
  throw new Error(`cannot load ${response.url}: status ${response.status}`);
}

/** Return the bytes of a response; null if there are more than a number of them. */
export async function readShort(response, most) {
  const reader = response.body.getReader();
  const parts = [];
  let count = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    count += value.length;
    parts.push(value);
    if (count > most) {
      reader.cancel().catch(() => {});
      return null;
    }
  }
}

/** Return the number of bytes that a response will have; 0 if it does not tell. */
function lengthOf(response) {
  // Compressed on the way, a file has other bytes.
  return response.headers.get("content-encoding") ? 0 : Number(response.headers.get("content-length"));
}

/** A module with a fused multiplication and addition, which not every browser knows. */
const FUSED = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 8, 1, 96, 3, 123, 123, 123, 1, 123, 3, 2, 1, 0, 10, 13, 1, 11, 0,
  32, 0, 32, 1, 32, 2, 253, 133, 2, 11,
);

/** Load and compile the kernels; hosts that do not know WebAssembly's type will do. */
function loadKernels() {
  const name = WebAssembly.validate(FUSED) ? "kernels-fused.wasm" : "kernels.wasm";
  return loadOnce(name, async (response) => WebAssembly.compile(await response.arrayBuffer()));
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

/** Return the number of workers for frames of a size. */
export function workersFor(width, height) {
  const wanted = Math.ceil((width * height) / PIXELS_PER_WORKER);
  return Math.max(Math.min(wanted, navigator.hardwareConcurrency ?? 2, MAX_WORKERS), 1);
}

export class Stage {
  header = null;
  ring = null;
  workers = [];
  /** First frames of the segments that have arrived, and the frame after the last of them. */
  starts = [];
  end = 0;
  isWhole = false;
  bytes = 0;
  /** Where the clip comes from and the length of its file; null and 0 if they are not known. */
  address = null;
  total = 0;
  /** Promise of the file's index and head, which `ranges.js` reads. */
  index = null;
  /** Whether this is a part of a clip, from `partAt`. */
  isPart = false;
  /** First frame that is wanted of the clip. */
  first = 0;
  damage = [];
  /** What the clip has besides pictures, once any of it has arrived. */
  film = null;
  /** Whether a ladder has taken the download's speed. */
  isMeasured = false;
  /** Why the GPU does not decode, where it was tried. */
  gpuFault = null;
  #on;
  #workerCount;
  #engine;
  #runtime;
  #abort = new AbortController();
  /** Bytes of the file between its head and what is fetched. */
  #left = 0;
  /** The kernels and the dictionary for the workers, and the parts of the file so far. */
  #assets = null;
  #parts = [];
  /** Moments of the download with the bytes up to then. */
  #arrivals = [];

  /**
   * Open a clip: an address, a Response, a Blob, bytes, or a part from `partAt`. `workers` is the
   * number of workers, or null, and `engine` is "auto", "wasm" or "webgpu". `runtime` is the address
   * of onnxruntime-web's files, or null. `on` has the functions `opened`, `progressed`,
   * `receivedExtras`, `arrived` and `failed`, which get this stage first.
   */
  constructor(source, { workers, engine, runtime = null }, on) {
    this.#workerCount = workers;
    this.#engine = engine;
    this.#runtime = runtime && new URL(`${runtime}`.replace(/\/?$/, "/"), document.baseURI).href;
    this.#on = on;
    if (source.head) this.#goOn(source);
    this.#feed(source).catch((error) => this.#fail(error));
  }

  /** Signal that this clip is closed. */
  get signal() {
    return this.#abort.signal;
  }

  get isClosed() {
    return this.signal.aborted;
  }

  /** The file, as far as it has arrived. */
  get file() {
    return new Blob(this.#parts);
  }

  /** Bytes per second that have arrived lately; 0 if too few have arrived to tell. */
  get bytesPerSecond() {
    const first = this.#arrivals[0];
    const now = this.isWhole ? this.#arrivals.at(-1)?.now : performance.now();
    const passed = now - first?.now;
    const isEnough = this.#arrivals.length > 1 && (this.isWhole || passed > LEAST_MS);
    return isEnough ? (1000 * (this.bytes - first.bytes)) / Math.max(passed, 1) : 0;
  }

  /** Number of the file's byte that comes next. */
  get position() {
    return this.bytes + this.#left;
  }

  /** Whether a frame has arrived. */
  has(frame) {
    return this.first <= frame && frame < this.end;
  }

  /** Take what is known of a clip by its other Stage. */
  #goOn({ address, total, index, head, offset, first }) {
    Object.assign(this, { address, total, index, first, end: first, isPart: true });
    this.#left = offset - head.length;
  }

  /** End the workers and the download. */
  close() {
    this.#abort.abort();
    for (const worker of this.workers) worker.terminate();
  }

  /** Start a worker, and pass on to it what has arrived so far. */
  #addWorker() {
    const place = this.workers.length;
    const worker = startWorker();
    worker.onmessage = ({ data }) => this.isClosed || this.#receive(place, data);
    // One GPU serves all.
    const engine = place ? "wasm" : this.#engine;
    const wishes = { engine, first: this.first, left: this.#left, runtime: this.#runtime };
    worker.postMessage({ type: "open", ...this.#assets, ...wishes });
    for (const bytes of this.#parts) worker.postMessage({ type: "feed", bytes, isLast: false });
    if (this.isWhole) worker.postMessage({ type: "feed", bytes: new Uint8Array(0), isLast: true });
    worker.onerror = (event) => this.#fail(new Error(event.message ?? "a worker failed"));
    this.workers.push(worker);
  }

  #fail(error) {
    if (!this.isClosed) this.#on.failed(this, error);
  }

  /** Pass the source's bytes on to the workers as they arrive. */
  async #feed(source) {
    const { signal } = this.#abort;
    const isAddress = typeof source === "string" || source instanceof URL;
    const kernels = loadKernels();
    loadDictionary(USUAL_VERSION).catch(() => {}); // who needs it will hear of its failure
    let response = isAddress ? await fetch(source, { signal }) : (source.response ?? source);
    if (!(response instanceof Response)) response = new Response(response);
    const reader = checked(response).body.getReader();
    signal.addEventListener("abort", () => reader.cancel().catch(() => {}));
    if (isAddress) [this.address, this.total] = [source, lengthOf(response)];
    if (source.head) await this.#take(source.head, kernels);
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted) return;
      if (done) break;
      await this.#take(value, kernels);
      if (signal.aborted) return;
      this.#note();
    }
    if (!this.workers.length) await this.#open(kernels);
    this.isWhole = true;
    this.#send(new Uint8Array(0), true);
  }

  async #take(bytes, kernels) {
    this.bytes += bytes.length;
    this.#parts.push(bytes);
    if (this.workers.length) this.#send(bytes, false);
    else if (this.bytes > VERSION_AT) await this.#open(kernels);
  }

  /** Note how much has arrived by now, and forget what is long ago. */
  #note() {
    const now = performance.now();
    const kept = this.#arrivals.findLastIndex((each) => each.now < now - WINDOW_MS);
    if (kept > 0) this.#arrivals.splice(0, kept);
    this.#arrivals.push({ now, bytes: this.bytes });
  }

  #send(bytes, isLast) {
    for (const worker of this.workers) worker.postMessage({ type: "feed", bytes, isLast });
  }

  /** Start the first worker, once the version of the file is known. */
  async #open(kernels) {
    const head = new Uint8Array(await new Blob(this.#parts).arrayBuffer());
    const dictionaries = await loadDictionary(head[VERSION_AT]);
    this.#assets = { module: await kernels, dictionaries };
    if (!this.isClosed) this.#addWorker();
  }

  /** Start the other workers once the size of the frames is known. */
  #begin(header) {
    this.header = header;
    const count = this.#workerCount ?? workersFor(header.width, header.height);
    while (this.workers.length < count) this.#addWorker();
    this.ring = new Ring(this.workers, () => this.#on.arrived(this));
    this.#on.opened(this);
  }

  #receive(place, data) {
    if (data.type === "error") {
      const error = new Error(data.message);
      error.name = data.name;
      this.#fail(error);
    } else if (data.type === "gpufault") {
      this.gpuFault = data.message;
    } else if (data.type === "picture") {
      this.ring?.receive(place, data);
    } else if (place === 0 && data.type === "extras") {
      this.#on.receivedExtras(this, data);
    } else if (place === 0 && data.type === "progress") {
      this.end = data.end;
      this.starts.push(...data.starts);
      this.damage = data.damage;
      if (!this.header) this.#begin(data.header);
      this.#on.progressed(this);
    }
  }
}
