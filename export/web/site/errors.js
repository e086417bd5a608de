/** A bitstream breaks the rules of its format. */
export class BitstreamError extends Error {
  name = "BitstreamError";
}

/** A clip follows the rules, but this decoder cannot play it; the message names the reason. */
export class UnsupportedError extends Error {
  name = "UnsupportedError";
}
