/** The page's list of a ladder's rungs; loaded for ladders alone. */

let list = null;

/** Show the list, unless it is there, and what it stands at. */
export function offerRungs(player) {
  if (!list) {
    list = document.createElement("select");
    list.id = "rung";
    list.title = "Size";
    list.setAttribute("aria-label", "Size");
    list.addEventListener("change", () => (player.wantedRung = list.value === "" ? null : Number(list.value)));
    document.getElementById("loop").before(list);
  }
  const { rungs } = player;
  list.hidden = rungs.length < 2;
  const names = rungs.map(({ bytes, width, height }) => `${width}×${height}, ${(bytes / 1000).toFixed(0)} kB`);
  const texts = [`Auto (${names[player.rung]})`, ...names];
  if (list.options.length !== texts.length) {
    list.replaceChildren(...texts.map((text, index) => new Option(text, index ? String(index - 1) : "")));
  } else texts.forEach((text, index) => (list.options[index].text = text));
  list.value = player.wantedRung ?? "";
}
