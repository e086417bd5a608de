// The lists that one chooses from: the server's clips, with thumbnails, and the items of a playlist.

import { withToken } from "/static/api.js";
import { bytesOf, create } from "/static/panel.js";
import { clock } from "/static/timeline.js";

/** Waits before a thumbnail is asked for again: the server decodes it first. */
const RETRY_SECONDS = [1, 1, 2, 2, 4, 4, 8, 8, 16];

export class Choice {
  /** Fill the list inside an element; `choose(name)` is called for what is clicked on. */
  constructor(element, choose) {
    this.element = element;
    this.list = element.querySelector("ul, ol");
    this.choose = choose;
    this.buttons = new Map();
  }

  /** List names, each with what `describe(name)` returns as its button's content. */
  show(names, describe) {
    this.buttons = new Map(names.map((name) => {
      const button = create("button", { type: "button", title: name }, describe(name));
      button.addEventListener("click", () => this.choose(name));
      return [name, button];
    }));
    this.list.replaceChildren(...[...this.buttons.values()].map((button) => create("li", {}, [button])));
    this.marked = undefined;
  }

  /** Mark the one that is played, and bring it into the list's view. */
  mark(name) {
    if (name === this.marked) return;
    this.marked = name;
    for (const [key, button] of this.buttons) {
      if (key === name) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    const item = this.buttons.get(name)?.parentElement;
    if (!item) return;
    // Not scrollIntoView(), which would scroll the page as well.
    const { list } = this;
    list.scrollTo(item.offsetLeft - (list.clientWidth - item.offsetWidth) / 2, item.offsetTop - (list.clientHeight - item.offsetHeight) / 2);
  }
}

/** Return a clip's thumbnail, name and facts. */
export function describeClip(clip) {
  const facts = clip.playlist === null
    ? `${clock(clip.frames / clip.fps)} · ${bytesOf(clip.file_bytes)}`
    : `${clip.playlist.length} clips in turn`;
  return [
    thumbnail(clip.name),
    create("span", { className: "name", textContent: clip.name }),
    create("span", { className: "note", textContent: facts }),
  ];
}

function thumbnail(name) {
  const image = create("img", { alt: "", loading: "lazy", decoding: "async", width: 96, height: 54 });
  const url = `/api/clips/${encodeURIComponent(name)}/thumbnail.jpg`;
  let failures = 0;
  image.addEventListener("error", () => {
    if (failures === RETRY_SECONDS.length) return;
    const seconds = RETRY_SECONDS[failures++];
    // Another address each time, or the browser may remember that there was none.
    setTimeout(() => { image.src = withToken(url, { try: failures }); }, 1000 * seconds);
  });
  image.src = withToken(url);
  return image;
}
