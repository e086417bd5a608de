// The time that a server in test mode (`serve --stamp`) draws into the picture: 32 blocks, black or white, along its top edge.

const BITS = 32;
const MODULUS = 2 ** 24;
const CHECK = 0x5a;
const WINDOW_MS = 10000;

export class StampReader {
  constructor() {
    const canvas = document.createElement("canvas");
    canvas.width = BITS;
    canvas.height = 1;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.ages = [];  // of the last WINDOW_MS: when a picture was seen, and how old it was
  }

  /** Note how old a picture will be when it is on the screen, if its stamp can be read. Clocks that differ make it differ as much. */
  read(video, displayTime) {
    const side = Math.min(Math.max(2 * Math.floor(video.videoWidth / BITS / 2), 2), 16);
    // One pixel a block, from the blocks' middle rows.
    this.context.drawImage(video, 0, side / 4, BITS * side, side / 2, 0, 0, BITS, 1);
    const { data } = this.context.getImageData(0, 0, BITS, 1);
    let code = 0;
    for (let bit = 0; bit < BITS; bit++) code = code * 2 + (data[4 * bit] > 127 ? 1 : 0);
    const shown = Date.now() + Math.max(displayTime - performance.now(), 0);
    const age = ageOf(code, Math.round(shown));
    if (age !== null) this.ages.push({ at: performance.now(), age });
  }

  /** Return the median and the 95th percentile of the window's ages, null where there are none. */
  summary() {
    const since = performance.now() - WINDOW_MS;
    this.ages = this.ages.filter(({ at }) => at >= since);
    const sorted = this.ages.map(({ age }) => age).sort((a, b) => a - b);
    if (sorted.length === 0) return null;
    const percentile = (fraction) => sorted[Math.floor(fraction * (sorted.length - 1))];
    return { ms: percentile(0.5), p95: percentile(0.95), measured: true };
  }
}

/** Return the age in ms that a code of 32 bits tells, null where its checksum is wrong. */
export function ageOf(code, now) {
  const time = Math.floor(code / 256);
  // Modulo 256 only the lowest byte of each counts, and those are the time's three bytes.
  const sum = ((time >> 16) + (time >> 8) + time + CHECK) % 256;
  if (sum !== code % 256) return null;
  const age = (now - time) % MODULUS;
  return age < MODULUS / 2 ? age : age - MODULUS;
}
