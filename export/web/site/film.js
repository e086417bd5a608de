/** What a clip has besides pictures, as a player uses it; loaded for clips with any of it. */

import { ExtrasReader } from "./extras.js";
import { Soundtrack, canPlay } from "./soundtrack.js";

const MAX_DAMAGE = 100;

export class Film {
  /** Player of the sound; null without sound, or if this browser cannot play it. */
  soundtrack = null;
  /** Faults of the chunks, described for people. */
  damage = [];
  #reader;
  #heard = 0;

  /** Take the clip's header. */
  constructor(header) {
    this.#reader = new ExtrasReader(header);
  }

  get textTracks() {
    return this.#reader.tracks;
  }

  get about() {
    return this.#reader.about;
  }

  /** Take chunks as they arrive; sound begins with a loudness. Those that break a rule are left out. */
  take(chunks, volume) {
    const reader = this.#reader;
    for (const chunk of chunks) {
      try {
        reader.take(chunk);
      } catch (error) {
        if (error.name !== "BitstreamError") throw error;
        if (this.damage.length < MAX_DAMAGE) this.damage.push(`chunk ${chunk.kind} cannot be used: ${error.message}`);
      }
    }
    if (reader.sound && canPlay()) this.soundtrack ??= new Soundtrack(reader.sound, volume);
    for (const part of reader.parts.slice(this.#heard)) this.soundtrack?.add(part);
    this.#heard = reader.parts.length;
  }
}
