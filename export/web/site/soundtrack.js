/** Plays the sound of a clip in time with its pictures; loaded for clips with sound alone. */

import { packetTime } from "./extras.js";

const SAMPLE_RATE = 48000;
const PACKET_SECONDS = 0.02;
/** Seconds of sound that are decoded and scheduled ahead. */
const AHEAD_SECONDS = 0.6;
/** Time from a start to the first sound, in which the first packets are decoded. */
const START_SECONDS = 0.06;
/** Largest difference of sound and pictures, in seconds, before the sound starts anew. */
const MAX_SKEW = 0.03;
/** Packets before the first that is heard, after which a decoder is in tune. */
const LEAD_PACKETS = 4;

/** Whether this browser can play sound. */
export const canPlay = () => typeof AudioDecoder === "function" && typeof AudioContext === "function";

export class Soundtrack {
  #format;
  #packets = new Map();
  /** Number of the packet after the last that has arrived. */
  #arrived = 0;
  #volume;
  /** Made with the first sound, since browsers want the viewer to have touched the page. */
  #context = null;
  #gain = null;
  #resuming = null;
  #decoder = null;
  /** Moment of the context's clock at which the clip's start would be heard. */
  #origin = null;
  /** Time at which the clip began last, and number of the next packet to decode. */
  #lap = 0;
  #next = 0;
  /** Number of starts so far: sound of an earlier one is not played. */
  #generation = 0;
  #sources = new Set();

  /** Take the format of the packets, and a loudness. */
  constructor(format, volume) {
    this.#format = format;
    this.#volume = volume;
  }

  /** Take packets in a row, from a number on. */
  add({ first, packets }) {
    packets.forEach((packet, index) => this.#packets.set(first + index, packet));
    this.#arrived = Math.max(this.#arrived, first + packets.length);
  }

  /** Expect packets anew from a time in seconds on: those that have not arrived will. */
  expect(seconds) {
    this.#arrived = Math.floor((seconds - packetTime(this.#format, 0)) / PACKET_SECONDS);
  }

  /** Loudness, 0 to 1. */
  set volume(volume) {
    this.#volume = volume;
    if (this.#gain) this.#gain.gain.value = volume;
  }

  /**
   * Play along with pictures at a time in seconds, at normal speed. A clip that begins anew after
   * each `period` has times that go on.
   */
  follow(time, period) {
    if (!this.#context) this.#open();
    if (this.#context.state !== "running") {
      // Browsers wait with this until the viewer has touched the page.
      this.#resuming ??= this.#context.resume().finally(() => (this.#resuming = null));
      return;
    }
    // A device plays scheduled sound a little later.
    const latency = this.#context.outputLatency || 0;
    const heard = this.#context.currentTime - latency;
    const isLost = Math.abs(heard - this.#origin - time) > MAX_SKEW || time > this.#lap + period;
    if (this.#origin === null || isLost) {
      this.stop();
      this.#origin = heard - time;
      this.#lap = time < period ? 0 : Math.floor(time / period) * period;
      const start = time + latency + START_SECONDS;
      const number = Math.floor((start - this.#lap - packetTime(this.#format, 0)) / PACKET_SECONDS);
      this.#next = Math.max(number - LEAD_PACKETS, 0);
      this.#renew(start, this.#lap + period);
    }
    while (this.#lap + packetTime(this.#format, this.#next) < time + AHEAD_SECONDS) {
      if (packetTime(this.#format, this.#next) >= period) {
        this.#lap += period;
        this.#next = 0;
        this.#renew(this.#lap, this.#lap + period);
      } else if (this.#decode(this.#next)) this.#next++;
      else break;
    }
  }

  /** Be silent until `follow` is called again. */
  stop() {
    this.#origin = null;
    this.#generation++;
    for (const source of this.#sources) source.stop();
    this.#sources.clear();
    if (this.#decoder?.state === "configured") this.#decoder.close();
    this.#decoder = null;
  }

  /** End for good. */
  close() {
    this.stop();
    this.#context?.close();
  }

  #open() {
    this.#context = new AudioContext({ sampleRate: SAMPLE_RATE });
    this.#gain = new GainNode(this.#context, { gain: this.#volume });
    this.#gain.connect(this.#context.destination);
  }

  /** Begin to decode sound that is played from a time of the clip to another. */
  #renew(start, end) {
    const before = this.#decoder;
    before?.flush().then(() => before.close(), () => {});
    const [generation, lap] = [this.#generation, this.#lap];
    this.#decoder = new AudioDecoder({
      output: (data) => {
        if (generation === this.#generation) this.#play(data, lap, start, end);
        data.close();
      },
      error: () => {}, // the rest is silent, until the next start with a new decoder
    });
    this.#decoder.configure({
      codec: "opus", sampleRate: SAMPLE_RATE, numberOfChannels: this.#format.channels,
    });
  }

  /** Decode a packet; false if it has not arrived, or the decoder has failed. */
  #decode(number) {
    const data = this.#packets.get(number);
    if (!data) return number < this.#arrived; // a damaged packet is silent
    if (this.#decoder.state !== "configured") return false;
    const timestamp = Math.round(1e6 * number * PACKET_SECONDS);
    this.#decoder.decode(new EncodedAudioChunk({ type: "key", timestamp, data }));
    return true;
  }

  /** Schedule decoded samples, as far as they are between two times of the clip. */
  #play(data, lap, start, end) {
    const { numberOfFrames: frames, numberOfChannels: channels } = data;
    const buffer = this.#context.createBuffer(channels, frames, SAMPLE_RATE);
    for (let channel = 0; channel < channels; channel++) {
      data.copyTo(buffer.getChannelData(channel), { planeIndex: channel, format: "f32-planar" });
    }
    const time = lap + data.timestamp / 1e6 + packetTime(this.#format, 0);
    const skipped = Math.max(start - time, 0);
    const length = Math.min(frames / SAMPLE_RATE, end - time) - skipped;
    const when = this.#origin + time + skipped;
    if (length <= 0 || when < this.#context.currentTime) return;
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#gain);
    source.onended = () => this.#sources.delete(source);
    source.start(when, skipped, length);
    this.#sources.add(source);
  }
}
