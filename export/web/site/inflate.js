/** Raw DEFLATE (RFC 1951) with a preset dictionary, as strict as zlib. */

import { BitstreamError } from "./errors.js";

const MAX_BITS = 15;
const END = 256;
const MAX_LENGTH_SYMBOLS = 286;
const MAX_DISTANCE_SYMBOLS = 30;
const WINDOW = 1 << 15;
const LENGTHS = [
  3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
  163, 195, 227, 258,
];
const LENGTH_BITS = [
  0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
];
const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/**
 * Unpack a whole stream of at most `limit` bytes, with nothing after it.
 *
 * Distances may reach back into the dictionary. Throws BitstreamError.
 */
export function inflate(data, limit, dictionary = new Uint8Array(0)) {
  return new Inflater(data, limit, dictionary).run();
}

class Inflater {
  constructor(data, limit, dictionary) {
    this.data = data;
    this.at = 0;
    this.bits = 0;
    this.held = 0;
    this.start = dictionary.length;
    this.limit = this.start + limit;
    this.to = new Uint8Array(Math.min(this.limit, this.start + 4 * data.length + 1024));
    this.to.set(dictionary);
    this.length = this.start;
  }

  run() {
    let isLast = false;
    while (!isLast) {
      isLast = this.take(1) === 1;
      const kind = this.take(2);
      if (kind === 0) this.stored();
      else if (kind === 1) this.block(FIXED_LENGTHS, FIXED_DISTANCES);
      else if (kind === 2) this.block(...this.tables());
      else throw new BitstreamError("invalid block in a DEFLATE stream");
    }
    if (this.at - (this.held >> 3) !== this.data.length) {
      throw new BitstreamError("something follows a DEFLATE stream");
    }
    return this.to.slice(this.start, this.length);
  }

  take(count) {
    while (this.held < count) {
      if (this.at >= this.data.length) throw new BitstreamError("a DEFLATE stream is cut off");
      this.bits |= this.data[this.at++] << this.held;
      this.held += 8;
    }
    const value = this.bits & ((1 << count) - 1);
    this.bits >>>= count;
    this.held -= count;
    return value;
  }

  symbol(table) {
    let code = 0;
    let first = 0;
    let index = 0;
    for (let length = 1; length <= MAX_BITS; length++) {
      code |= this.take(1);
      const count = table.counts[length];
      if (code - count < first) return table.symbols[index + code - first];
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw new BitstreamError("invalid code in a DEFLATE stream");
  }

  reserve(count) {
    if (this.length + count > this.limit) throw new BitstreamError("a DEFLATE stream is too long");
    if (this.length + count > this.to.length) {
      const grown = new Uint8Array(Math.min(this.limit, 2 * this.to.length + count));
      grown.set(this.to);
      this.to = grown;
    }
  }

  stored() {
    this.at -= this.held >> 3;
    this.bits = 0;
    this.held = 0;
    const length = this.take(16);
    if (length !== (~this.take(16) & 0xffff)) {
      throw new BitstreamError("invalid length in a DEFLATE stream");
    }
    if (this.at + length > this.data.length) {
      throw new BitstreamError("a DEFLATE stream is cut off");
    }
    this.reserve(length);
    this.to.set(this.data.subarray(this.at, this.at + length), this.length);
    this.at += length;
    this.length += length;
  }

  block(lengths, distances) {
    for (;;) {
      const symbol = this.symbol(lengths);
      if (symbol < END) {
        this.reserve(1);
        this.to[this.length++] = symbol;
        continue;
      }
      if (symbol === END) return;
      const place = symbol - END - 1;
      if (place >= LENGTHS.length) throw new BitstreamError("invalid length in a DEFLATE stream");
      const length = LENGTHS[place] + this.take(LENGTH_BITS[place]);
      const far = this.symbol(distances);
      if (far >= MAX_DISTANCE_SYMBOLS) {
        throw new BitstreamError("invalid distance in a DEFLATE stream");
      }
      const bits = Math.max((far >> 1) - 1, 0);
      const base = far < 4 ? far : (2 + (far & 1)) << bits;
      const distance = base + 1 + this.take(bits);
      if (distance > Math.min(this.length, WINDOW)) {
        throw new BitstreamError("a distance in a DEFLATE stream is too far");
      }
      this.reserve(length);
      for (let count = 0; count < length; count++) {
        this.to[this.length] = this.to[this.length - distance];
        this.length++;
      }
    }
  }

  tables() {
    const lengths = this.take(5) + 257;
    const distances = this.take(5) + 1;
    const count = this.take(4) + 4;
    if (lengths > MAX_LENGTH_SYMBOLS || distances > MAX_DISTANCE_SYMBOLS) {
      throw new BitstreamError("too many symbols in a DEFLATE stream");
    }
    const sizes = new Uint8Array(ORDER.length);
    for (let index = 0; index < count; index++) sizes[ORDER[index]] = this.take(3);
    const table = codes(sizes, false);
    const all = new Uint8Array(lengths + distances);
    for (let index = 0; index < all.length; ) {
      const symbol = this.symbol(table);
      if (symbol < 16) {
        all[index++] = symbol;
        continue;
      }
      if (symbol === 16 && index === 0) throw new BitstreamError("nothing to repeat in DEFLATE");
      const value = symbol === 16 ? all[index - 1] : 0;
      const times = symbol === 18 ? 11 + this.take(7) : 3 + this.take(symbol === 16 ? 2 : 3);
      if (index + times > all.length) throw new BitstreamError("too many lengths in DEFLATE");
      all.fill(value, index, index + times);
      index += times;
    }
    if (all[END] === 0) throw new BitstreamError("a DEFLATE block has no end");
    return [codes(all.subarray(0, lengths), true), codes(all.subarray(lengths), true)];
  }
}

/** Return the canonical code of lengths; a code of a single symbol may be incomplete. */
function codes(sizes, mayBeSingle) {
  const counts = new Uint16Array(MAX_BITS + 1);
  for (const size of sizes) counts[size]++;
  const used = sizes.length - counts[0];
  counts[0] = 0;
  let left = 1;
  for (let length = 1; length <= MAX_BITS; length++) {
    left = 2 * left - counts[length];
    if (left < 0) throw new BitstreamError("a code in a DEFLATE stream has too many symbols");
  }
  const isSingle = mayBeSingle && (used === 0 || (used === 1 && counts[1] === 1));
  if (left > 0 && !isSingle) throw new BitstreamError("a code in a DEFLATE stream is incomplete");
  const places = new Uint16Array(MAX_BITS + 2);
  for (let length = 1; length <= MAX_BITS; length++) {
    places[length + 1] = places[length] + counts[length];
  }
  const symbols = new Uint16Array(sizes.length);
  sizes.forEach((size, symbol) => {
    if (size) symbols[places[size]++] = symbol;
  });
  return { counts, symbols };
}

function fixedLengths() {
  const sizes = new Uint8Array(288).fill(8);
  sizes.fill(9, 144, 256);
  sizes.fill(7, 256, 280);
  return codes(sizes, false);
}

const FIXED_LENGTHS = fixedLengths();
const FIXED_DISTANCES = codes(new Uint8Array(32).fill(5), false);
