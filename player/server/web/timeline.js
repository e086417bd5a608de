// What the server last told of the timeline, which goes on by itself until it tells again.

/** Longest time that the position is carried on without news: a lost server plays nothing. */
const MAX_SECONDS = 2.5;

export class Timeline {
  constructor() {
    this.state = null;
  }

  /** Take the server's word. */
  set(state) {
    this.state = state;
    this.at = performance.now();
  }

  /** Expect what a wish will do, before the server has answered. */
  expect({ step, ...wish }) {
    const now = { ...this.state, frame: this.frame, ...wish };
    if (step !== undefined) {
      // From a time in between, the next whole frame on either side is one step away.
      const whole = step < 0 ? Math.ceil(now.frame) : Math.floor(now.frame);
      Object.assign(now, { frame: this.clamp(whole + step), playing: false });
    }
    this.set(now);
  }

  /** The last frame's number. */
  get last() {
    return Math.max(this.state.frames - 1, 0);
  }

  /** The position now, in frames. */
  get frame() {
    const { frame, frames, fps, speed, playing, loop } = this.state;
    if (!playing) return frame;
    const seconds = Math.min((performance.now() - this.at) / 1000, MAX_SECONDS);
    const now = frame + seconds * fps * speed;
    if (now < frames) return now;
    return loop ? now % frames : this.last;
  }

  clamp(frame) {
    return Math.min(Math.max(frame, 0), this.last);
  }
}

/** Return a time in seconds as minutes, seconds and tenths. */
export function clock(seconds) {
  // In whole tenths, or 59.97 would read 0:60.0.
  const tenths = Math.floor(10 * seconds + 1e-6);
  const minutes = Math.floor(tenths / 600);
  return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
}
