// The keyboard: what each key does, for the page and for its help.

/** Rows of the help: keys (as KeyboardEvent.key has them, and as people read them), the action's name, and what it does. */
const KEYS = [
  { keys: [" ", "k"], shown: ["Space"], action: "play", does: "Play or pause" },
  { keys: ["ArrowLeft"], shown: ["←"], action: "secondBack", does: "One second back", repeats: true },
  { keys: ["ArrowRight"], shown: ["→"], action: "secondForward", does: "One second forward", repeats: true },
  { keys: [","], shown: [","], action: "frameBack", does: "One frame back", repeats: true },
  { keys: ["."], shown: ["."], action: "frameForward", does: "One frame forward", repeats: true },
  { keys: ["Home"], shown: ["Home"], action: "first", does: "To the start" },
  { keys: ["End"], shown: ["End"], action: "last", does: "To the end" },
  { keys: ["[", "-"], shown: ["[", "-"], action: "slower", does: "Slower" },
  { keys: ["]", "+", "="], shown: ["]", "+"], action: "faster", does: "Faster" },
  { keys: ["l"], shown: ["L"], action: "loop", does: "Loop" },
  { keys: ["m"], shown: ["M"], action: "mute", does: "Sound on or off" },
  { keys: ["ArrowUp"], shown: ["↑"], action: "louder", does: "Louder", repeats: true },
  { keys: ["ArrowDown"], shown: ["↓"], action: "quieter", does: "Quieter", repeats: true },
  { keys: ["c"], shown: ["C"], action: "subtitles", does: "Subtitles on or off" },
  { keys: ["p"], shown: ["P"], action: "private", does: "Your own timeline, or everyone's" },
  { keys: ["f"], shown: ["F"], action: "fullscreen", does: "Full screen" },
  { keys: ["n"], shown: ["N"], action: "nextClip", does: "Next clip" },
  { keys: ["N"], shown: ["Shift+N"], action: "previousClip", does: "Previous clip" },
  { keys: ["?"], shown: ["?"], action: "help", does: "This help" },
];

/**
 * Call `actions[name]()` for the keys, unless they are meant for what has the focus.
 * An action that returns false leaves its key to the browser.
 */
export function bindKeys(actions) {
  const byKey = new Map(KEYS.flatMap((row) => row.keys.map((key) => [key, row])));
  addEventListener("keydown", (event) => {
    const { key, shiftKey } = event;
    // Not the key as it is: with caps lock on, an N is one without shift.
    const row = byKey.get(shiftKey ? key.toUpperCase() : key.toLowerCase()) ?? byKey.get(key) ?? byKey.get(key.toLowerCase());
    if (!row || isForeign(event)) return;
    const isLeft = (!event.repeat || row.repeats) && actions[row.action]() === false;
    if (!isLeft) event.preventDefault();
  });
}

/** Return the rows of the help: which keys, and what they do. */
export const helpRows = () => KEYS.map(({ shown, does }) => ({ shown, does }));

/** Whether a key is the browser's own, or belongs to the list, the button or the dialog that has the focus. */
function isForeign(event) {
  // Some keyboards have brackets on AltGr, which browsers may show as Ctrl and Alt.
  if ((event.ctrlKey || event.altKey || event.metaKey) && !event.getModifierState("AltGraph")) return true;
  if (event.target.closest("select, dialog")) return true;
  return event.key === " " && event.target.closest("button, summary") !== null;
}
