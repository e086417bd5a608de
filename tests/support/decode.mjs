// Decodes clips with the scripts and some kernels of the web page, in Node: reads u32 length, u32 number of times, f64 times and the bytes of
// each clip from standard input, and writes a line of JSON for each.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";

const [site, codec, name] = process.argv.slice(2);
const [{ ClipReader }, { ExtrasReader }, { Kernels }, { Program }] = await Promise.all(
  ["clip", "extras", "kernels", "program"].map((name) => import(`${site}/${name}.js`)),
);
const compiled = await WebAssembly.compile(readFileSync(`${site}/${name}`));
const dictionaries = Object.fromEntries(
  [1, 2].map((version) => [version, new Uint8Array(readFileSync(`${codec}/dictionary${version}.bin`))]),
);

function decode(bytes, times) {
  const reader = new ClipReader(dictionaries);
  const found = { digests: [], pictures: [], damage: [] };
  try {
    // In two pieces, as a file arrives.
    reader.feed(bytes.subarray(0, bytes.length >> 1));
    reader.feed(bytes.subarray(bytes.length >> 1));
    found.damage = reader.finish();
    found.extras = extrasOf(reader, found.damage);
    const kernels = new Kernels(compiled);
    const program = new Program(reader, kernels);
    reader.segments.forEach((_, index) => {
      program.load(index);
      const hash = createHash("sha256");
      program.addresses.forEach((address, tensor) => {
        const count = program.shapes[tensor].reduce((product, length) => product * length, 1);
        hash.update(kernels.bytes(address, 4 * count));
      });
      found.digests.push(hash.digest("hex"));
    });
    for (const wanted of times) {
      const { index, time } = reader.locate(wanted);
      program.load(index);
      found.pictures.push(Buffer.from(program.picture(time)).toString("base64"));
    }
    found.memory = kernels.memoryBytes;
    return { ...found, outcome: found.damage.length ? "damage reported" : "decoded" };
  } catch (error) {
    const outcomes = { BitstreamError: "refused", UnsupportedError: "unsupported" };
    return { ...found, outcome: outcomes[error.name] ?? "crashed", message: error.stack };
  }
}

/** Read what a clip has besides pictures; faults are added to the damage. */
function extrasOf({ header, extras }, damage) {
  const reader = new ExtrasReader(header);
  for (const chunk of extras) {
    try {
      reader.take(chunk);
    } catch (error) {
      if (error.name !== "BitstreamError") throw error;
      damage.push(error.message);
    }
  }
  const { sound, tracks, about } = reader;
  const packets = reader.parts.map(({ first, packets: some }) => [first, some.length]);
  return { sound, packets, tracks, about };
}

let held = Buffer.alloc(0);
for await (const block of process.stdin) {
  held = Buffer.concat([held, block]);
  while (held.length >= 8) {
    const length = held.readUInt32LE(0);
    const count = held.readUInt32LE(4);
    const start = 8 + 8 * count;
    if (held.length < start + length) break;
    const times = Array.from({ length: count }, (_, index) => held.readDoubleLE(8 + 8 * index));
    const bytes = new Uint8Array(held.subarray(start, start + length));
    held = held.subarray(start + length);
    process.stdout.write(`${JSON.stringify(decode(bytes, times))}\n`);
  }
}
