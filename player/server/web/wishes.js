// Wishes on their way to the server, one request at a time: a slider that is dragged wishes far more often than it helps to ask.

const GAP_MS = 80;
/** Wishes that change what the others are about: they are never merged with those. */
const TURNS = ["clip", "private", "item", "rung"];

const turn = (wish) => TURNS.find((key) => key in wish);
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

export class Wishes {
  /** `send(wish)` asks the server; where it fails, what waits is forgotten. */
  constructor(send) {
    this.send = send;
    this.waiting = [];
    this.busy = false;
  }

  /** Whether an answer is still to come, so that what else the server tells is out of date. */
  get pending() {
    return this.busy || this.waiting.length > 0;
  }

  /** Send a wish: the first at once, and what is wished meanwhile in as few requests as keep its meaning. */
  add(wish) {
    const last = this.waiting.at(-1);
    if (last && turn(last) === turn(wish)) this.waiting[this.waiting.length - 1] = merge(last, wish);
    else this.waiting.push(wish);
    if (!this.busy) this.#run();
  }

  /** Wish for nothing any more. */
  forget() {
    this.waiting = [];
  }

  async #run() {
    this.busy = true;
    while (this.waiting.length > 0) {
      const begun = performance.now();
      if (!await this.send(this.waiting.shift())) this.forget();
      await pause(GAP_MS - (performance.now() - begun));
    }
    this.busy = false;
  }
}

/** Return one wish for two in a row: the later value of each key, but steps add up, also to a frame. */
function merge(first, { step, ...second }) {
  if ("frame" in second) {
    const { step: _, ...rest } = first;
    return { ...rest, ...second };
  }
  const merged = { ...first, ...second };
  if (step === undefined) return merged;
  merged.playing = false;
  if ("frame" in first) merged.frame += step;
  else merged.step = (first.step ?? 0) + step;
  return merged;
}
