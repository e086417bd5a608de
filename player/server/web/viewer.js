// The viewer: keeps a session of the chosen clip, and connects again when it is lost.

import { inWords } from "/static/api.js";
import { Session } from "/static/whep.js";

const BACK_OFF_SECONDS = [0.5, 1, 2, 4, 8];
const CONNECT_SECONDS = 10;
const HIDDEN_SECONDS = 60;
/** What will be refused again, however often it is asked. */
const FINAL = [400, 401, 403, 405, 406, 413, 415];

export class Viewer {
  /**
   * Show a clip in a <video>, from watch() on. `changed()` is called whenever `phase`, `id` or `blocked` changes;
   * the phases are connecting, live, waiting (until `retryAt`, for `reason`), failed (for `reason`), and asleep.
   */
  constructor(video, changed) {
    this.video = video;
    this.changed = changed;
    this.clip = null;
    this.session = null;
    this.phase = "connecting";
    this.reason = "";
    this.attempt = 0;
    this.blocked = false;  // whether the browser plays nothing before a touch
    video.addEventListener("playing", () => {
      this.blocked = false;
      changed();
    });
  }

  /** The server's name for the session, or null. */
  get id() {
    return this.session?.id ?? null;
  }

  /** Connect to a clip, also to the one that is watched. */
  watch(clip) {
    this.clip = clip;
    this.attempt = 0;
    this.connect();
  }

  async connect() {
    this.#end();
    const session = this.session = new Session(`/whep/${encodeURIComponent(this.clip)}`);
    session.onTrack = (track) => this.#show(track);
    session.onChange = () => {
      if (session.connected) this.#connected();
      else if (session.lost) this.lose(session, new Error("connection lost"));
    };
    this.deadline = setTimeout(() => this.lose(session, new Error("no connection")), 1000 * CONNECT_SECONDS);
    this.#enter("connecting");
    try {
      await session.open();
      if (session === this.session) this.changed();
    } catch (error) {
      this.lose(session, error);
    }
  }

  /** Give a session up for an error, and try again later where that may help. */
  lose(session, error) {
    if (session !== this.session) return;
    this.#end();
    this.status = error.status;
    if (FINAL.includes(error.status)) {
      this.#enter("failed", inWords(error));
      return;
    }
    const backOff = BACK_OFF_SECONDS[Math.min(this.attempt++, BACK_OFF_SECONDS.length - 1)];
    const seconds = Math.max(backOff, error.retrySeconds ?? 0);
    this.told = seconds > backOff;
    this.retryAt = performance.now() + 1000 * seconds;
    this.timer = setTimeout(() => this.connect(), 1000 * seconds);
    this.#enter("waiting", inWords(error));
  }

  /** Connect at once if the viewer waits for no better reason than its own patience. */
  hurry() {
    if (this.phase === "asleep" || (this.phase === "waiting" && !this.told)) this.connect();
  }

  /** Hang up until hurry() or watch(). */
  sleep() {
    this.#end();
    this.#enter("asleep");
  }

  /** Sleep while nobody can see the page, wake when it is seen again or the network is back. */
  followPage() {
    let nap;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(nap);
      if (!document.hidden) this.hurry();
      else nap = setTimeout(() => { if (!document.pictureInPictureElement) this.sleep(); }, 1000 * HIDDEN_SECONDS);
    });
    addEventListener("online", () => { if (!document.hidden) this.hurry(); });
    addEventListener("pagehide", () => this.sleep());
    addEventListener("pageshow", (event) => { if (event.persisted) this.hurry(); });
  }

  /** Return the statistics of the received video, or null while there are none. */
  async statistics() {
    return await this.session?.statistics() ?? null;
  }

  #show(track) {
    const others = this.video.srcObject?.getTracks() ?? [];
    const kept = others.filter(({ kind, readyState }) => kind !== track.kind && readyState === "live");
    this.video.srcObject = new MediaStream([...kept, track]);
    this.video.play().catch((error) => {
      this.blocked = error.name === "NotAllowedError";
      this.changed();
    });
  }

  #connected() {
    clearTimeout(this.deadline);
    this.attempt = 0;
    this.#enter("live");
  }

  #enter(phase, reason = "") {
    this.phase = phase;
    this.reason = reason;
    this.changed();
  }

  #end() {
    clearTimeout(this.timer);
    clearTimeout(this.deadline);
    // Paused, it keeps the last picture.
    this.video.pause();
    this.session?.close();
    this.session = null;
  }
}
