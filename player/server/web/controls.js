// The controls of the timeline: what they stand at, whether they can be used, and what is wished with them.

import { clock } from "/static/timeline.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const TICK_MS = 100;
const NOT_CONNECTED = "Not connected";
const WATCH_ONLY = "You may watch, but not control what everyone sees";
/** What each control does. */
const TITLES = {
  seek: "Seek (← and →: one second)",
  play: "Play or pause (space)",
  back: "One frame back (,)",
  forward: "One frame forward (.)",
  speed: "Speed ([ and ])",
  loop: "Loop (L)",
};

const find = (id) => document.getElementById(id);
const seek = find("seek"), speed = find("speed");

export class Controls {
  /** Show a timeline, and call `wish(changes)` for what is wished of it. */
  constructor(timeline, wish) {
    this.timeline = timeline;
    this.wish = wish;
    this.dragging = false;
    speed.replaceChildren(...SPEEDS.map(option));
    showSpeed(1);
    this.#listen();
    setInterval(() => { if (!document.hidden) this.#showPosition(); }, TICK_MS);
  }

  /** Whether the timeline is there and the viewer may control it. */
  get usable() {
    return this.timeline.state?.may_control === true;
  }

  /** Show what the timeline's state is now; null while there is none. */
  show() {
    const { state } = this.timeline;
    if (state === null) this.dragging = false;
    const hindrance = this.usable ? "" : state === null ? NOT_CONNECTED : WATCH_ONLY;
    for (const [id, title] of Object.entries(TITLES)) {
      find(id).disabled = hindrance !== "";
      find(id).title = hindrance || title;
    }
    for (const button of find("playlist").querySelectorAll("button")) button.disabled = hindrance !== "";
    showAudience(state);
    if (state === null) return;
    find("play").classList.toggle("playing", state.playing);
    find("play").setAttribute("aria-label", state.playing ? "Pause" : "Play");
    find("loop").setAttribute("aria-pressed", state.loop);
    showSpeed(state.speed);
    seek.max = this.timeline.last;
    this.#showPosition();
    seek.setAttribute("aria-valuetext", `${clock(seek.value / state.fps)}, frame ${seek.value}`);
  }

  play() {
    if (!this.usable) return;
    const { state, frame, last } = this.timeline;
    // Where it has ended, there is nothing to go on with.
    const anew = !state.playing && !state.loop && frame >= last ? { frame: 0 } : {};
    this.wish({ playing: !state.playing, ...anew });
  }

  loop() {
    if (this.usable) this.wish({ loop: !this.timeline.state.loop });
  }

  seekTo(frame) {
    if (this.usable) this.wish({ frame: this.timeline.clamp(Math.round(frame)) });
  }

  seekBy(seconds) {
    if (this.usable) this.seekTo(this.timeline.frame + seconds * this.timeline.state.fps);
  }

  seekToEnd() {
    if (this.usable) this.seekTo(this.timeline.last);
  }

  step(frames) {
    if (this.usable) this.wish({ step: frames });
  }

  changeSpeed(direction) {
    if (!this.usable) return;
    const now = this.timeline.state.speed;
    const next = direction > 0 ? SPEEDS.find((value) => value > now) : [...SPEEDS].reverse().find((value) => value < now);
    if (next !== undefined) this.wish({ speed: next });
  }

  changeAudience() {
    const { state } = this.timeline;
    if (state !== null && !find("private").disabled) this.wish({ private: !state.private });
  }

  #listen() {
    find("play").addEventListener("click", () => this.play());
    find("loop").addEventListener("click", () => this.loop());
    find("back").addEventListener("click", () => this.step(-1));
    find("forward").addEventListener("click", () => this.step(1));
    find("private").addEventListener("click", () => this.changeAudience());
    speed.addEventListener("change", () => {
      this.wish({ speed: Number(speed.value) });
      // The keys are the page's again, unless it was the keyboard that chose.
      if (!speed.matches(":focus-visible")) speed.blur();
    });
    seek.addEventListener("input", () => {
      this.dragging = true;
      this.seekTo(Number(seek.value));
    });
    // A handle that is let go where it was taken has not changed.
    for (const kind of ["change", "pointerup", "pointercancel", "blur"]) seek.addEventListener(kind, () => { this.dragging = false; });
  }

  #showPosition() {
    if (this.timeline.state === null) return;
    const { state, frame, last } = this.timeline;
    const shown = this.dragging ? Number(seek.value) : Math.floor(frame + 1e-6);
    write(find("time"), `${clock((this.dragging ? shown : frame) / state.fps)} / ${clock(state.frames / state.fps)}`);
    write(find("frame"), `frame ${shown} / ${last}`);
    if (!this.dragging && Number(seek.value) !== shown) seek.value = shown;
  }
}

function showAudience(state) {
  const button = find("private");
  const alone = state?.private === true;
  button.disabled = state === null || (!alone && state.private_left <= 0);
  button.classList.toggle("own", alone);
  write(find("audience"), alone ? "Just you" : "Everyone");
  if (state === null) button.title = NOT_CONNECTED;
  else if (alone) button.title = "You have a timeline of your own: press to see what everyone sees (P)";
  else if (button.disabled) button.title = "Everyone sees the same: the server has no timeline left for you alone";
  else button.title = "Everyone sees the same: press for a timeline of your own (P)";
}

function showSpeed(value) {
  // Others may wish for any speed.
  if (![...speed.options].some((each) => Number(each.value) === value)) speed.add(option(value));
  // Set again, it would close a list that is open.
  if (Number(speed.value) !== value) speed.value = String(value);
}

const option = (value) => new Option(`${value}×`, String(value));

/** Set a text where it differs: the layout is done anew for each that is set. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
