// The sound: off until the viewer wants it, since browsers play none before; its volume is remembered.

const STEP = 0.1;
/** Name under which the browser keeps the volume. */
const KEPT = "nervcast.volume";

export class Sound {
  /** Control the sound of a <video> by a button, which is shown for clips with sound alone. */
  constructor(video, button) {
    this.video = video;
    this.button = button;
    video.volume = kept();
    button.addEventListener("click", () => this.toggle());
    video.addEventListener("volumechange", () => this.#show());
    this.#show();
  }

  /** Follow the timeline's state: sound is heard at normal speed alone. */
  follow(state) {
    this.button.hidden = !state.sound;
    this.button.disabled = state.speed !== 1;
  }

  /** Turn the sound on or off; false if there is none. */
  toggle() {
    if (this.button.hidden) return false;
    this.video.muted = !this.video.muted;
    return true;
  }

  /** Turn the volume up or down; false if there is no sound. */
  change(direction) {
    if (this.button.hidden) return false;
    const volume = Math.min(Math.max(this.video.volume + direction * STEP, 0), 1);
    this.video.volume = Math.round(10 * volume) / 10;
    this.video.muted = false;
    try {
      localStorage.setItem(KEPT, this.video.volume);
    } catch {
      // Some browsers keep nothing.
    }
    return true;
  }

  #show() {
    const { muted, volume } = this.video;
    this.button.classList.toggle("muted", muted);
    this.button.setAttribute("aria-label", muted ? "Unmute" : "Mute");
    this.button.title = `Sound (M), volume ${Math.round(100 * volume)} % (↑ and ↓)`;
  }
}

function kept() {
  try {
    const volume = Number(localStorage.getItem(KEPT) ?? 1);
    return volume >= 0 && volume <= 1 ? volume : 1;
  } catch {
    return 1;
  }
}
