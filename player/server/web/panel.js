// The statistics panel: what the server and this browser measure, as numbers and as plots, and what is known of the clip.

import { Plot } from "/static/plots.js";

/**
 * The panel's figures. Of a sample {state, received, latency} (the last two may be null), `value` returns the number or null,
 * `note` what else there is to say, and `reference` where the plot has a line.
 */
const FIGURES = [
  {
    id: "decode-fps", label: "Decode", unit: "fps", title: "What the engine could decode per second, with nothing to wait for",
    value: ({ state }) => state.decode_fps || null,  // 0 where nothing was decoded lately
    note: ({ state }) => {
      if (!state.engine) return "loading…";
      return state.decode_fps ? `${short(state.decode_fps / state.fps)}× real time` : "";
    },
  },
  {
    id: "encode-fps", label: "Encode", unit: "fps", title: "What the video encoder could encode per second, with nothing to wait for",
    value: ({ state }) => state.encode_fps || null,
    note: ({ state }) => state.encode_ms ? `${short(state.encode_ms)} ms a frame` : "",
  },
  {
    id: "sent-fps", label: "Sent", unit: "fps",
    title: "Frames per second that the server handed to the network for you; how many watch; frames that were not decoded in time",
    value: ({ state }) => state.sent_fps,
    note: ({ state }) => `${count(state.viewers, "viewer")}, ${state.missed} late`,
    reference: ({ state }) => state.fps,
  },
  {
    id: "received-fps", label: "Received", unit: "fps", title: "Frames per second that this browser decoded",
    value: ({ received }) => received?.receivedFps,
    note: ({ received }) => typeof received?.bufferMs === "number" ? `buffer ${short(received.bufferMs)} ms` : "",
    reference: ({ state }) => state.fps,
  },
  {
    id: "presented-fps", label: "Presented", unit: "fps", title: "Frames per second that this browser brought to the screen",
    value: ({ received }) => received?.presentedFps,
    note: ({ received }) => received ? `${count(received.freezes ?? 0, "freeze")}, ${count(received.dropped, "drop")}` : "",
    reference: ({ state }) => state.fps,
  },
  {
    id: "bitrate", label: "Bitrate", unit: "Mb/s", title: "What this browser receives, and what the server's video encoder makes",
    value: ({ received }) => received && received.bitrate / 1e6,
    format: (value) => value.toFixed(2),
    note: ({ state }) => state.bitrate ? `${(state.bitrate / 1e6).toFixed(2)} encoded` : "",
  },
  {
    id: "latency", label: "Latency", unit: "ms",
    title: "From the server's encoder to your screen: measured where the picture carries its time, else (≈) added up from"
      + " the encoder's time, half the round trip, and the time that frames spend in this browser",
    value: ({ latency }) => latency?.ms,
    approximate: ({ latency }) => latency?.measured === false,
    note: ({ latency }) => {
      if (!latency) return "";
      return latency.measured ? `median; p95 ${short(latency.p95)} ms` : "estimated";
    },
  },
  {
    id: "rtt", label: "Round trip", unit: "ms", title: "Time for a packet to come here and its answer to get back, and how evenly packets come",
    value: ({ state, received }) => state.rtt_ms ?? received?.rttMs,
    note: ({ received }) => typeof received?.jitterMs === "number" ? `jitter ${short(received.jitterMs)} ms` : "",
  },
  {
    id: "loss", label: "Loss", unit: "%", title: "Packets that were lost on their way here",
    value: ({ state, received }) => percent(state.loss ?? received?.loss),
    note: ({ received }) => received ? `${count(received.lost, "packet")} lost` : "",
  },
  {
    id: "ahead", label: "Ahead", unit: "frames", title: "Decoded frames that wait to be sent, and segments of the clip that could not be decoded",
    value: ({ state }) => state.ahead,
    note: ({ state }) => `${state.damaged} damaged`,
  },
  {
    id: "queue", label: "Queue", unit: "packets", title: "Encoded frames that wait for you, and those that came too fast for you",
    value: ({ state }) => state.queue,
    note: ({ state }) => `${state.dropped} dropped`,
  },
];

const NOTHING = "–";

/** Return a number with as many digits as tell something. */
const short = (value) => value.toFixed(value >= 100 || Number.isInteger(value) ? 0 : 1);
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const percent = (fraction) => typeof fraction === "number" ? 100 * fraction : null;

export class Panel {
  /** Fill two description lists: one with the figures, one with the facts. */
  constructor(figures, facts) {
    this.facts = facts;
    this.cards = FIGURES.map((figure) => new Card(figure));
    figures.replaceChildren(...this.cards.map(({ element }) => element));
  }

  /** Add a second's sample, null where there is none; drawn if somebody can see it. */
  add(sample, seen) {
    for (const card of this.cards) card.add(sample, seen);
  }

  /** Show what is known of the clip, of its entry in the list of clips, and of how it is played. */
  tell(state, clip, codec) {
    const facts = {
      Engine: state.engine ?? "loading…",
      Model: modelOf(clip),
      Codec: state.codec ?? codec ?? NOTHING,
      Size: `${state.width}×${state.height}`,
      Frames: `${framesOf(state, clip)} at ${short(state.fps)} fps`,
      File: bytesOf(state.file_bytes),
      Cost: `${state.bits_per_pixel.toFixed(3)} bits per pixel`,
    };
    const text = JSON.stringify(facts);
    if (text === this.told) return;
    this.told = text;
    this.facts.replaceChildren(...Object.entries(facts).map(([term, detail]) => group(term, detail)));
  }
}

class Card {
  constructor(figure) {
    this.figure = figure;
    this.number = create("b", { id: figure.id, textContent: NOTHING });
    this.about = create("span", { textContent: "≈", hidden: true });
    this.note = create("dd", { className: "note", textContent: "\u00a0" });
    const canvas = create("canvas", { ariaHidden: "true" });
    this.element = create("div", { title: figure.title }, [
      create("dt", { textContent: figure.label }),
      create("dd", {}, [this.about, this.number, ` ${figure.unit}`]),
      create("dd", {}, [canvas]),
      this.note,
    ]);
    this.plot = new Plot(canvas);
  }

  add(sample, seen) {
    const { value, note, reference, approximate, format = short } = this.figure;
    const number = sample && (value(sample) ?? null);
    this.plot.push(number, sample ? reference?.(sample) ?? null : null);
    this.number.textContent = number === null ? NOTHING : format(number);
    this.about.hidden = !(sample && approximate?.(sample));
    this.note.textContent = (sample && note?.(sample)) || "\u00a0";
    if (seen) this.plot.draw();
  }
}

/** Return the preset that a clip was encoded with, else the size of its network. */
export function modelOf({ settings, weights }) {
  const preset = /(?:^|\s)--preset[ =](\S+)/.exec(settings ?? "")?.[1];
  if (preset !== undefined) return preset;
  return weights ? `${short(weights / 1000)} k weights` : NOTHING;
}

/** Return a number of bytes for people. */
export const bytesOf = (bytes) => bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

/** Return how many frames there are, of how many where the clip is still being written. */
function framesOf({ frames }, clip) {
  return clip.playlist === null && frames < clip.frames ? `${frames} of ${clip.frames}` : frames;
}

function group(term, detail) {
  return create("div", {}, [create("dt", { textContent: term }), create("dd", { textContent: detail, title: detail })]);
}

/** Return an element with properties and children. */
export function create(tag, properties, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
