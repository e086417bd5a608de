/** Subtitles over a picture, and chapters at its seek bar; loaded for clips with any of them. */

/** Name under which the browser keeps the chosen language; an empty one stands for none. */
const KEPT = "nervcast.subtitles";
const NONE = -1;
const CLOCK = /(?:(\d+):)?(\d\d):(\d\d)\.(\d{3})/g;

export class Captions {
  #list = create("select", { id: "subtitles", title: "Subtitles (C)", hidden: true });
  #box = create("div", { id: "captions" });
  #marks = create("div", { id: "marks" });
  #chapter = create("span", { id: "chapter" });
  #tracks = [];
  #chapters = [];
  #duration = 0;
  #offered = "";
  #shown = "";
  #choose;

  /**
   * Put the subtitles over the picture in `stage`, the chapters at the bar `seek`, and the list of
   * tracks after `clock`. `choose` is called for each choice.
   */
  constructor({ stage, seek, clock, choose = () => {} }) {
    this.#choose = choose;
    const href = new URL("captions.css", import.meta.url).href;
    document.head.append(create("link", { rel: "stylesheet", href }));
    this.#list.setAttribute("aria-label", "Subtitles");
    this.#list.addEventListener("change", () => this.#chosen());
    stage.append(this.#box);
    seek.after(this.#marks, this.#chapter);
    clock.after(this.#list);
    addEventListener("keydown", (event) => {
      const isForeign =
        event.ctrlKey || event.altKey || event.metaKey || event.target.closest("select, dialog");
      if (isForeign || event.key.toLowerCase() !== "c" || this.#list.hidden) return;
      event.preventDefault();
      this.#toggle();
    });
  }

  /** Number of the chosen track; -1 for none. */
  get chosen() {
    return this.#list.hidden ? NONE : Number(this.#list.value);
  }

  /** Offer tracks, each with a language and a title, and chapters of a clip of some seconds. */
  offer(tracks, chapters, duration) {
    this.#tracks = tracks;
    const offered = JSON.stringify([tracks.map(nameOf), chapters, duration]);
    if (offered === this.#offered) return;
    this.#offered = offered;
    this.#chapters = chapters;
    const options = tracks.map((track, number) => new Option(nameOf(track, number), number));
    this.#list.replaceChildren(new Option("No subtitles", NONE), ...options);
    this.#list.hidden = !tracks.length;
    this.#list.value = kept() ? this.#numberOf(kept()) : NONE;
    const inside = chapters.filter(({ start }) => start > 0 && start < duration);
    this.#marks.replaceChildren(...inside.map(({ start }) => mark(start / duration)));
    this.#choose();
  }

  /** Show the chapter and the cues of a time in seconds, of the cues of the chosen track. */
  show(time, cues = []) {
    const present = cues.filter(({ start, stop }) => start <= time && time < stop);
    const shown = present.map(({ text }) => text).join("\n\n");
    if (shown !== this.#shown) {
      this.#shown = shown;
      this.#box.replaceChildren(...present.map(({ text }) => paragraph(text)));
    }
    const title = this.#chapters.findLast(({ start }) => start <= time)?.title ?? "";
    if (this.#chapter.textContent !== title) this.#chapter.textContent = title;
  }

  #numberOf(language) {
    return this.#tracks.findIndex((track) => track.language === language);
  }

  #chosen() {
    keep(this.#tracks[this.chosen]?.language ?? "");
    this.#choose();
  }

  /** Turn the subtitles off, or on in the first language. */
  #toggle() {
    this.#list.value = this.chosen === NONE ? 0 : NONE;
    this.#chosen();
  }
}

/** Return the cues of a WebVTT file as `player serve` writes it, with times in seconds. */
export function parseWebvtt(text) {
  return text.split("\n\n").flatMap((block) => {
    const [times, ...lines] = block.split("\n");
    const [start, stop] = [...times.matchAll(CLOCK)].map(secondsOf);
    return stop === undefined ? [] : [{ start, stop, text: lines.join("\n").trimEnd() }];
  });
}

const secondsOf = ([, hours = 0, minutes, seconds, thousandths]) =>
  3600 * hours + 60 * minutes + Number(seconds) + thousandths / 1000;

/** Return the text of a cue as an element: the browser reads its tags, and drops foreign ones. */
function paragraph(text) {
  const element = create("p", {});
  element.append(new VTTCue(0, 1, text).getCueAsHTML());
  return element;
}

function mark(place) {
  const element = create("i", {});
  element.style.setProperty("--place", place);
  return element;
}

/** Return the name of a track for viewers. */
function nameOf({ language, title }, number) {
  if (title) return title;
  try {
    return new Intl.DisplayNames([], { type: "language" }).of(language);
  } catch {
    return language || `Track ${number + 1}`;
  }
}

const create = (tag, properties) => Object.assign(document.createElement(tag), properties);

function keep(language) {
  try {
    localStorage.setItem(KEPT, language);
  } catch {
    // Some browsers keep nothing.
  }
}

function kept() {
  try {
    return localStorage.getItem(KEPT) ?? "";
  } catch {
    return "";
  }
}
