// Where the picture is shown: in the page, over all of the screen, or in a small window of its own.

const IDLE_MS = 3000;

const find = (id) => document.getElementById(id);
const video = find("video"), player = find("player");

/** Show the buttons that this browser can do something for, and hide the controls over a full screen where nobody moves. */
export function prepareScreen() {
  find("fullscreen").hidden = !(document.fullscreenEnabled || video.webkitEnterFullscreen);
  find("inset").hidden = !document.pictureInPictureEnabled;
  find("fullscreen").addEventListener("click", toggleFullscreen);
  video.addEventListener("dblclick", toggleFullscreen);
  find("inset").addEventListener("click", toggleInset);
  let idle;
  const wake = () => {
    player.classList.remove("idle");
    clearTimeout(idle);
    if (document.fullscreenElement) idle = setTimeout(() => player.classList.add("idle"), IDLE_MS);
  };
  document.addEventListener("fullscreenchange", wake);
  for (const kind of ["pointermove", "pointerdown", "keydown"]) player.addEventListener(kind, wake, { passive: true });
}

/** Fill the screen with the player and its controls; where only videos may (iPhones), with the video. */
export function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (document.fullscreenEnabled) player.requestFullscreen().catch(() => {});
  else video.webkitEnterFullscreen?.();
}

function toggleInset() {
  if (document.pictureInPictureElement) document.exitPictureInPicture();
  else video.requestPictureInPicture().catch(() => {});
}

/** Give the picture the room that its shape needs, before it is there. */
export function showShape(width, height) {
  video.style.aspectRatio = `${width} / ${height}`;
}
