/** A ladder: clips of the same film in several sizes, and the change from one to another. */

import { checked, workersFor } from "./stage.js";

const FORMAT = "nervcast ladder";
const VERSION = 1;
const MAX_RUNGS = 16;
const MAX_LIST_BYTES = 2 ** 16;
const MAX_NAME = 255;
/** What no name of a file may hold: separators, and what cannot be seen. */
const FOREIGN = /[\\/\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;
const LIMITS = { bytes: 2 ** 30, width: 8192, height: 8192 };

/** Time between two choices. */
const CHOICE_MS = 500;
/** Time from the decision to the change at the earliest, in which the first pictures are decoded. */
const LEAD_SECONDS = 0.5;
/** How much faster than the film a rung has to arrive, and to be decoded. */
const LINE_RESERVE = 1.5;
const DECODE_RESERVE = 1.3;
/** Share of the frames that may be late. */
const MAX_LATE = 0.1;
/** Time for which a rung is avoided that could not be followed; it doubles with each time. */
const AVOID_MS = 10_000;
const MAX_AVOID_MS = 80_000;

/** Return what is wrong with the entry of a rung, or null. */
function fault(entry) {
  const name = entry?.file;
  const isName =
    typeof name === "string" && name.endsWith(".nerv") && !FOREIGN.test(name) &&
    new TextEncoder().encode(name).length <= MAX_NAME;
  if (!isName) return "it has a rung without a file of its own folder";
  for (const [key, most] of Object.entries(LIMITS)) {
    const value = entry[key];
    if (!Number.isInteger(value) || value <= 0 || value > most) {
      return `${key} of ${name} must be in 1..${most}`;
    }
  }
  return null;
}

/** Return the rungs of a list, from the smallest file to the largest. Throws an Error. */
export function parseLadder(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error("the list of the ladder is not JSON");
  }
  if (found?.format !== FORMAT) throw new Error("this is no list of a ladder");
  if (found.version !== VERSION) throw new Error(`the ladder is of another version than ${VERSION}`);
  const { rungs } = found;
  if (!Array.isArray(rungs) || rungs.length < 1 || rungs.length > MAX_RUNGS) {
    throw new Error(`a ladder must have 1 to ${MAX_RUNGS} rungs`);
  }
  for (const entry of rungs) {
    const reason = fault(entry);
    if (reason) throw new Error(`the ladder cannot be used: ${reason}`);
  }
  if (new Set(rungs.map(({ file }) => file)).size < rungs.length) {
    throw new Error("the ladder names a file twice");
  }
  const plain = rungs.map(({ file, bytes, width, height }) => ({ file, bytes, width, height }));
  return plain.sort((a, b) => a.bytes - b.bytes);
}

/**
 * Return the place of the largest rung that arrives and is decoded in time. `bytesPerSecond` and
 * `pixelsPerSecond` (of a worker) are measured; 0 if that is not known yet. `seconds` is the film's
 * duration, `rate` its pictures per second on the page's clock.
 */
export function bestRung(rungs, { bytesPerSecond, pixelsPerSecond, seconds, rate }) {
  const fits = ({ bytes, width, height }) =>
    bytesPerSecond >= (LINE_RESERVE * bytes) / seconds &&
    pixelsPerSecond * workersFor(width, height) >= DECODE_RESERVE * rate * width * height;
  return Math.max(rungs.findLastIndex(fits), 0);
}

export class Ladder {
  rungs;
  /** Place of the rung that is played, and of the one that the viewer wants, or null. */
  index = 0;
  wanted = null;
  /** Faults of rungs that could not be opened. */
  damage = [];
  #address;
  #open;
  #next = null;
  #chosenAt = 0;
  /** Until when rungs from a place on are avoided, and for how long the next time. */
  #avoidFrom = Infinity;
  #avoidUntil = 0;
  #avoidMs = AVOID_MS;
  #faulty = new Set();
  /** Speed of the line, as the latest download has shown it; 0 if it may have changed since. */
  #bytesPerSecond = 0;
  #late = { count: 0, due: 0 };

  /** Load a list. `open` opens a clip's address as a Stage. Throws an Error. */
  static async load(address, signal, open) {
    const response = checked(await fetch(address, { signal }));
    const text = await response.text();
    if (text.length > MAX_LIST_BYTES) throw new Error(`the list has over ${MAX_LIST_BYTES} bytes`);
    return new Ladder(parseLadder(text), response.url, open);
  }

  /** Take rungs, the address of their list, and what opens an address. */
  constructor(rungs, address, open) {
    this.rungs = rungs;
    this.#address = new URL(address);
    this.#open = open;
  }

  /** Open the smallest rung, whose first picture is the earliest. */
  begin() {
    return this.#stage(0);
  }

  /** Let the rung that is being opened wait for a new turn, after a seek. */
  defer() {
    if (this.#next) this.#next.at = null;
  }

  /** Give up a rung that has failed: it is not tried again. */
  drop(stage, error) {
    if (stage !== this.#next?.stage) return;
    const { index } = this.#next;
    this.#close();
    this.damage.push(`${this.rungs[index].file} cannot be played: ${error.message}`);
    this.#faulty.add(index);
    if (this.wanted === index) this.wanted = null;
  }

  close() {
    this.#close();
  }

  /**
   * Return a Stage to play from now on, or null. `due` is the number of the picture that is due,
   * `density` the pictures for each frame, `speed` the film's seconds per second; `late` counts late
   * pictures; `isHeld` tells that the film waits for bytes; `timesOf` maps a Stage to the function
   * from numbers to frames.
   */
  follow(moment) {
    const { now, due, present, density, isPaused, timesOf } = moment;
    if (now >= this.#chosenAt + CHOICE_MS || (isPaused && this.wanted !== null)) {
      this.#chosenAt = now;
      this.#prepare(this.#choose(moment), moment);
    }
    const next = this.#next;
    const ring = next?.stage.ring;
    if (!ring) return null;
    const { frames, rate, width, height } = next.stage.header;
    if (frames !== present.header.frames || rate !== present.header.rate) {
      this.drop(next.stage, new Error("it has other frames"));
      return null;
    }
    if (next.at === null) {
      const at = this.#turn(moment, next.stage);
      const times = timesOf(next.stage);
      if (at === null || times(at) === null) return null;
      next.at = at;
      ring.restart(at, times, 4 * width * height);
    }
    ring.fill(next.at);
    if (due < next.at) return null;
    if (!ring.has(due)) {
      // It comes too late, or cannot be decoded there: there will be another turn.
      if (!isPaused && due > next.at + rate * density * LEAD_SECONDS) next.at = null;
      return null;
    }
    this.index = next.index;
    this.#next = null;
    this.#late = { count: moment.late, due };
    return next.stage;
  }

  /** Return the number of the picture at which to change: where a segment begins, or at once. */
  #turn({ due, density, speed, isPaused, isHeld }, stage) {
    if (isPaused) return due;
    const { frames, rate } = stage.header;
    const first = due + Math.ceil(LEAD_SECONDS * rate * density * speed);
    if (isHeld || this.wanted !== null) return first;
    const place = (first / density) % frames;
    const start = stage.starts.find((each) => each >= place) ?? (stage.isWhole ? frames : null);
    return start === null ? null : Math.ceil(first + (start - place) * density - 1e-6);
  }

  #choose({ now, due, present, late, density, speed, isHeld }) {
    const { header, ring } = present;
    if (this.wanted !== null) return this.wanted;
    const count = late - this.#late.count;
    const passed = due - this.#late.due;
    this.#late = { count: late, due };
    const isLate = passed > 0 && count > MAX_LATE * passed;
    if (this.index > 0 && (isHeld || isLate)) this.#avoid(this.index, now);
    if (now >= this.#avoidUntil && this.#avoidFrom < Infinity) {
      this.#avoidFrom = Infinity;
      this.#bytesPerSecond = 0;
    }
    const download = this.#next?.stage ?? present;
    if (!download.isWhole || !this.#bytesPerSecond) {
      this.#bytesPerSecond = download.bytesPerSecond || this.#bytesPerSecond || present.bytesPerSecond;
    }
    const usable = this.rungs.map((rung, index) => ({ ...rung, index }));
    const allowed = usable.filter(({ index }) => index < this.#avoidFrom && !this.#faulty.has(index));
    const pixels = header.width * header.height;
    const best = bestRung(allowed, {
      bytesPerSecond: this.#bytesPerSecond,
      pixelsPerSecond: ring.milliseconds ? (1000 * pixels) / ring.milliseconds : 0,
      seconds: header.frames / header.rate,
      rate: Math.min(header.rate * density * speed, 60),
    });
    return allowed[best]?.index ?? this.index;
  }

  /** Open a rung beside the present one, unless it is the one that is played, or being opened. */
  #prepare(index, { now, present }) {
    if (index === (this.#next?.index ?? this.index)) return;
    if (this.#next?.index > index && this.wanted === null) this.#avoid(this.#next.index, now);
    this.#close();
    // A rung above waits while the present one still arrives: both would share the line.
    const waits = index > this.index && !present.isWhole && this.wanted === null;
    if (index !== this.index && !waits) this.#next = { index, stage: this.#stage(index), at: null };
  }

  #avoid(index, now) {
    this.#avoidFrom = index;
    this.#avoidUntil = now + this.#avoidMs;
    this.#avoidMs = Math.min(2 * this.#avoidMs, MAX_AVOID_MS);
  }

  #stage(index) {
    const url = new URL(encodeURIComponent(this.rungs[index].file), this.#address);
    url.search = this.#address.search; // with the token, if there is one
    return this.#open(url);
  }

  #close() {
    this.#next?.stage.close();
    this.#next = null;
  }
}
