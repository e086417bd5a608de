/** A ladder: clips of the same film in several sizes, and the change from one to another. */

import { checked, readShort, workersFor } from "./stage.js";

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
/** Pictures per second that a page draws; more of them need not be decoded. */
const DRAWN = 60;
/** Time for which a rung is avoided that could not be followed; it doubles with each time. */
const AVOID_MS = 10_000;
const MAX_AVOID_MS = 80_000;
/** Time after a download from which its speed tells nothing of the line any more. */
const STALE_MS = 10_000;
/** Bytes of a file that is kept for the way back. */
const MAX_KEPT_BYTES = 2 ** 26;

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
 * Return the place of the largest rung that arrives and is decoded in time. `bytesPerSecond` is the
 * line's speed and `pixelsPerSecond` that of a worker, `workersOf` the number of workers for a width
 * and a height. `seconds` is the film's duration, `rate` its pictures per second on the page's clock.
 */
export function bestRung(
  rungs, { bytesPerSecond, pixelsPerSecond, seconds, rate, workersOf = workersFor },
) {
  const fits = ({ bytes, width, height }) =>
    bytesPerSecond >= (LINE_RESERVE * bytes) / seconds &&
    pixelsPerSecond * workersOf(width, height) >= DECODE_RESERVE * rate * width * height;
  return Math.max(rungs.findLastIndex(fits), 0);
}

export class Ladder {
  rungs;
  /** Place of the rung that is played. */
  index = 0;
  /** Faults of rungs that could not be played. */
  damage = [];
  /** Bytes that have arrived of rungs that were played before, or given up. */
  #pastBytes = 0;
  #address;
  #open;
  #workersOf;
  /** Place of the rung that the viewer wants, or null. */
  #wanted = null;
  /** The rung that is being opened: its place, its Stage, and the number at which it is due. */
  #next = null;
  #chosenAt = 0;
  /** From which rung on all are avoided, until when, and for how long the next time. */
  #avoidFrom = Infinity;
  #avoidUntil = 0;
  #avoidMs = AVOID_MS;
  #faulty = new Set();
  /** Files that have arrived as a whole, by place. */
  #kept = new Map();
  /** Speed of the line, and when it was measured. */
  #line = { bytesPerSecond: 0, at: -Infinity };
  #late = { count: 0, due: 0 };

  /**
   * Load a list. `open` opens an address or a Blob as a Stage; `workers` is the number of workers of
   * all stages, or null. Throws an Error.
   */
  static async load(address, signal, open, workers) {
    const response = await fetch(address, { signal });
    const bytes = await readShort(checked(response), MAX_LIST_BYTES);
    if (!bytes) throw new Error(`the list of the ladder has over ${MAX_LIST_BYTES} bytes`);
    const text = new TextDecoder().decode(bytes);
    return new Ladder(parseLadder(text), response.url, open, workers);
  }

  /** Take rungs, the address of their list, what opens one, and the number of workers or null. */
  constructor(rungs, address, open, workers = null) {
    this.rungs = rungs;
    this.#address = new URL(address);
    this.#open = open;
    this.#workersOf = workers === null ? workersFor : () => workers;
  }

  get wanted() {
    return this.#wanted;
  }

  set wanted(index) {
    this.#wanted = index;
    this.#chosenAt = -Infinity;
    this.defer();
  }

  /** Bytes that have arrived of all rungs but the present one. */
  get bytes() {
    return this.#pastBytes + (this.#next?.stage.bytes ?? 0);
  }

  /** Bytes of the memory of the rung that is being opened. */
  get memoryBytes() {
    return this.#next?.stage.ring?.memoryBytes ?? 0;
  }

  /** Open the smallest rung, whose first picture is the earliest. */
  begin() {
    return this.#stage(0);
  }

  /** Let the rung that is being opened wait for a new turn, after a seek or a pause. */
  defer() {
    if (this.#next) this.#next.at = null;
  }

  /** Give up a rung that has failed while it was opened: it is not tried again. */
  drop(stage, error) {
    if (stage !== this.#next?.stage) return;
    this.#exclude(this.#next.index, error);
    this.close();
  }

  /** Return a Stage instead of the present one, which has failed; null if none is left. */
  replace(stage, error) {
    this.#exclude(this.index, error);
    this.#pastBytes += stage.bytes;
    this.close();
    const usable = this.rungs.map((_, index) => index).filter((index) => !this.#faulty.has(index));
    const other = usable.findLast((index) => index < this.index) ?? usable[0];
    if (other === undefined) return null;
    this.index = other;
    return this.#stage(other);
  }

  /** End the rung that is being opened. */
  close() {
    this.#pastBytes += this.#next?.stage.bytes ?? 0;
    this.#next?.stage.close();
    this.#next = null;
  }

  /**
   * Return a Stage to play from now on, or null. `due` is the number of the picture that is due,
   * `shown` that of the one that is shown, `density` the pictures for each frame, `speed` the film's
   * seconds per second; `late` counts late pictures; `isHeld` tells that the film waits for bytes;
   * `timesOf` maps a Stage to the function from numbers to frames.
   */
  follow(moment) {
    const { now, due, shown, present, density, speed, isPaused, isHeld, timesOf } = moment;
    if (isPaused ? this.#wanted !== null : now >= this.#chosenAt + CHOICE_MS) {
      this.#chosenAt = now;
      this.#prepare(this.#choose(moment), moment);
    }
    const next = this.#next;
    const ring = next?.stage.ring;
    if (!ring) return null;
    const { frames, rate, isContinuous, width, height } = next.stage.header;
    const { header } = present;
    if (frames !== header.frames || rate !== header.rate || isContinuous !== header.isContinuous) {
      this.drop(next.stage, new Error("it has other frames"));
      return null;
    }
    // The clock stands: the picture that is due may be changed at once.
    const stands = isPaused || isHeld;
    const lead = Math.ceil(LEAD_SECONDS * rate * density * speed);
    if (stands ? next.at > due : due > next.at + lead) next.at = null;
    if (next.at === null) {
      const at = stands ? due : this.#turn(due + lead, density, next.stage);
      const times = timesOf(next.stage);
      if (at === null || times(at) === null) return null;
      next.at = at;
      ring.restart(at, times, 4 * width * height);
    }
    ring.fill(stands ? next.at : Math.max(next.at, due));
    if (due < next.at || !ring.has(due, stands ? -1 : shown)) return null;
    this.#pastBytes += present.bytes;
    if (present.isWhole && present.bytes <= MAX_KEPT_BYTES) this.#kept.set(this.index, present.file);
    this.index = next.index;
    this.#faulty.delete(next.index);
    this.#next = null;
    this.#late = { count: moment.late, due };
    return next.stage;
  }

  /** Return the number of the picture to change at: where a segment begins, or at once by choice. */
  #turn(first, density, stage) {
    if (this.#wanted !== null) return first;
    const { frames } = stage.header;
    const place = (first / density) % frames;
    const start = stage.starts.find((each) => each >= place) ?? (stage.isWhole ? frames : null);
    return start === null ? null : Math.ceil(first + (start - place) * density - 1e-6);
  }

  #choose({ now, due, present, late, density, speed, isHeld }) {
    if (this.#wanted !== null) return this.#wanted;
    const { header, ring } = present;
    const rate = header.rate * density * speed;
    const count = late - this.#late.count;
    const passed = due - this.#late.due;
    this.#late = { count: late, due };
    const isLate = rate <= DRAWN && passed > 0 && count > MAX_LATE * passed;
    // Two rungs are decoded at once while one is being opened: that one may be too large.
    const blamed = Math.max(this.index, isHeld ? 0 : (this.#next?.index ?? 0));
    if (blamed > 0 && (isHeld || isLate)) this.#avoid(blamed, now);
    if (now >= this.#avoidUntil) this.#avoidFrom = Infinity;
    this.#measure(present, now);
    const isKnown = now < this.#line.at + STALE_MS;
    const isHere = (index) => this.#kept.has(index) || (index === this.index && present.isWhole);
    const usable = this.rungs.map((rung, index) => {
      return { ...rung, index, bytes: isHere(index) ? 0 : rung.bytes };
    });
    const possible = usable.filter(({ index }) => index < this.#avoidFrom && !this.#faulty.has(index));
    // A line whose speed is not known is tried with the next rung above.
    const above = possible.find(({ index }) => index > this.index)?.index ?? this.index;
    const allowed = possible.filter(({ index }) => isKnown || index <= above);
    const best = bestRung(allowed, {
      bytesPerSecond: isKnown ? this.#line.bytesPerSecond : Infinity,
      pixelsPerSecond: ring.milliseconds ? (1000 * header.width * header.height) / ring.milliseconds : 0,
      seconds: header.frames / header.rate,
      rate: Math.min(rate, DRAWN),
      // One GPU decodes all pictures.
      workersOf: ring.engine === "webgpu" ? () => 1 : this.#workersOf,
    });
    return allowed[best]?.index ?? this.index;
  }

  /** Note the speed of the download that is under way, or of the one that has just ended. */
  #measure(present, now) {
    for (const stage of [present, this.#next?.stage]) {
      if (!stage || stage.isMeasured || !stage.bytesPerSecond) continue;
      this.#line = { bytesPerSecond: stage.bytesPerSecond, at: now };
      stage.isMeasured = stage.isWhole;
    }
  }

  /** Open a rung beside the present one, unless it is the one that is played, or being opened. */
  #prepare(index, { now, present }) {
    if (index === (this.#next?.index ?? this.index)) return;
    if (this.#next?.index > index && this.#wanted === null) this.#avoid(this.#next.index, now);
    this.close();
    // A rung above waits while the present one still arrives: both would share the line.
    const waits = index > this.index && !present.isWhole && this.#wanted === null;
    if (index !== this.index && !waits) this.#next = { index, stage: this.#stage(index), at: null };
  }

  #avoid(index, now) {
    if (index >= this.#avoidFrom) return;
    if (now > this.#avoidUntil + MAX_AVOID_MS) this.#avoidMs = AVOID_MS;
    this.#avoidFrom = index;
    this.#avoidUntil = now + this.#avoidMs;
    this.#avoidMs = Math.min(2 * this.#avoidMs, MAX_AVOID_MS);
  }

  #exclude(index, error) {
    this.#faulty.add(index);
    this.#kept.delete(index);
    this.damage.push(`${this.rungs[index].file} cannot be played: ${error.message}`);
    if (this.#wanted === index) this.#wanted = null;
  }

  #stage(index) {
    const url = new URL(encodeURIComponent(this.rungs[index].file), this.#address);
    url.search = this.#address.search; // with the token, if there is one
    return this.#open(this.#kept.get(index) ?? url);
  }
}
