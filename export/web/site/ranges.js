/** Parts of a clip from a host that serves ranges: a seek need not wait for all that comes before. */

import { ChunkReader, ENTRY_BYTES } from "./container.js";
import { readShort } from "./stage.js";

/** Bytes of the file's end that are fetched first: they hold the index of 3,800 segments. */
const LAST_BYTES = 2 ** 16;
const MAX_INDEX_BYTES = 2 ** 24;
/** Bytes of the index's chunk besides its entries, and of its end: their number and a checksum. */
const INDEX_BYTES = 20;
const END_BYTES = 8;
/** Bytes of the index's chunk before its entries. */
const START_BYTES = 12;
/** Bytes that a seek waits for: another request takes as long. */
const NEAR_BYTES = 2 ** 18;

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

/** Ask for a file from a byte on; null if the host sends something else. */
async function request(address, first, signal) {
  const response = await fetch(address, { headers: { Range: `bytes=${first}-` }, signal });
  // Hosts of another origin may hide the header that tells the range.
  const range = response.headers.get("content-range") ?? `bytes ${first}-`;
  if (response.status === 206 && range.startsWith(`bytes ${first}-`)) return response;
  response.body?.cancel().catch(() => {});
  return null;
}

/** Return the last bytes of a file; null if the host sends something else. */
async function lastBytes({ address, total }, count, signal) {
  const response = await request(address, total - count, signal);
  const bytes = response && (await readShort(response, count));
  return bytes?.length === count ? bytes : null;
}

/**
 * Return the entries of a file's index, which is at its end, and the file's head; null if there is
 * no index that fits.
 */
async function findIndex(stage) {
  const { total, file, signal } = stage;
  let end = await lastBytes(stage, Math.min(LAST_BYTES, total), signal);
  if (!end) return null;
  const wanted = ENTRY_BYTES * viewOf(end).getUint32(end.length - END_BYTES, true) + INDEX_BYTES;
  if (wanted > Math.min(total, MAX_INDEX_BYTES)) return null;
  if (wanted > end.length) end = await lastBytes(stage, wanted, signal);
  if (!end) return null;
  const chunk = end.subarray(end.length - wanted);
  const entries = parseEntries(chunk.subarray(START_BYTES, -END_BYTES));
  if (!entries) return null;
  // The checksum depends on the file's head, so that the index cannot be another file's.
  const reader = new ChunkReader();
  const head = new Uint8Array(await file.slice(0, entries[0].offset).arrayBuffer());
  const found = [...reader.feed(head), ...reader.feed(chunk)].at(-1);
  return found?.kind === "INDX" && found.isIntact ? { entries, head } : null;
}

/** Return the entries of segments in order; null if they are none. */
function parseEntries(bytes) {
  const view = viewOf(bytes);
  const entries = Array.from({ length: bytes.length / ENTRY_BYTES }, (_, index) => {
    const at = ENTRY_BYTES * index;
    return { offset: view.getUint32(at, true), start: view.getUint32(at + 8, true), isKey: bytes[at + 16] === 1 };
  });
  const isOrdered = entries.every(
    ({ offset, start }, index) =>
      !index || (offset > entries[index - 1].offset && start > entries[index - 1].start),
  );
  return entries.length && isOrdered ? entries : null;
}

/** Return a promise of the index, which is read once for all seeks, and again after a failure. */
function indexOf(stage) {
  stage.index ??= findIndex(stage).catch((error) => {
    stage.index = null;
    throw error;
  });
  return stage.index;
}

/**
 * Return what a new Stage plays a clip from where a frame is: the file's head, and a response that
 * goes on with a key segment. `stage` is the Stage that lacks the frame. Returns null if the frame
 * arrives soon, or if the host serves no ranges.
 */
export async function partAt(stage, frame, signal) {
  if (!stage.total) return null;
  const found = await indexOf(stage);
  const key = found?.entries.findLast(({ isKey, start }) => isKey && start <= frame);
  if (!key || signal?.aborted) return null;
  const isComing = key.start >= stage.first && key.offset < stage.position + NEAR_BYTES;
  const response = isComing ? null : await request(stage.address, key.offset, signal);
  if (!response) return null;
  const { address, total, index } = stage;
  return { address, total, index, head: found.head, response, offset: key.offset, first: key.start };
}
