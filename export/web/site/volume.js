/** The page's control of the sound; loaded for clips with sound alone. */

const STEP = 0.1;
/** Name under which the browser keeps the volume. */
const KEPT = "nervcast.volume";
const SPEAKER = "M3 9v6h4l5 5V4L7 9z";
const WAVES = "M14 7.5v9a5 5 0 0 0 0-9zM14 3v2a7.3 7.3 0 0 1 0 14v2a9.3 9.3 0 0 0 0-18z";
const CROSS = "M14.5 8l-1 1 3 3-3 3 1 1 3-3 3 3 1-1-3-3 3-3-1-1-3 3z";

let button = null;

/** Show the button, unless it is there, and set the volume that the browser has kept. */
export function control(player) {
  if (button) return;
  button = document.createElement("button");
  button.id = "mute";
  button.type = "button";
  button.addEventListener("click", () => (player.muted = !player.muted));
  document.getElementById("loop").before(button);
  const keys = document.createElement("span");
  keys.innerHTML = " · <kbd>M</kbd> mute · <kbd>↑</kbd> <kbd>↓</kbd> volume";
  document.getElementById("keys").append(keys);
  player.addEventListener("volumechange", () => show(player));
  addEventListener("keydown", (event) => {
    const isForeign = event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select");
    const step = { ArrowUp: STEP, ArrowDown: -STEP }[event.key];
    if (isForeign || (!step && event.key.toLowerCase() !== "m")) return;
    event.preventDefault();
    if (step) change(player, step);
    else player.muted = !player.muted;
  });
  player.volume = kept();
}

function show(player) {
  const path = SPEAKER + (player.muted ? CROSS : WAVES);
  button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${path}"/></svg>`;
  button.setAttribute("aria-label", player.muted ? "Unmute" : "Mute");
  button.title = `Sound (M), volume ${Math.round(100 * player.volume)} % (↑ and ↓)`;
}

function change(player, step) {
  player.volume = Math.round(10 * Math.min(Math.max(player.volume + step, 0), 1)) / 10;
  player.muted = false;
  try {
    localStorage.setItem(KEPT, player.volume);
  } catch {
    // Some browsers keep nothing.
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
