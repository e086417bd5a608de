/** A bitstream breaks the rules of its format. */
export class BitstreamError extends Error {
  name = "BitstreamError";
}

/** A clip follows the rules, but this decoder cannot play it; the message names the reason. */
export class UnsupportedError extends Error {
  name = "UnsupportedError";
  /** Whether it is too large for any decoder of a page. */
  isTooLarge = false;
}

/** Return the error of a clip that is too large. */
export function tooLarge(message) {
  return Object.assign(new UnsupportedError(message), { isTooLarge: true });
}
