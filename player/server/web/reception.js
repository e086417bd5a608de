// What arrives at this browser: frames and bits per second, from the connection's statistics and from the frames shown.

import { StampReader } from "/static/stamp.js";

/** Several frames make one reading, or a single one would swing it. */
const MIN_SECONDS = 0.9;

export class Reception {
  constructor(video) {
    this.video = video;
    this.stamped = false;  // whether the picture carries a time stamp
    this.stamps = new StampReader();
    this.counts = Boolean(video.requestVideoFrameCallback);
    this.presented = 0;
    this.timed = this.waitedMs = 0;  // frames of which the browser tells when they came, and their time from then to the screen
    this.forget();
    if (this.counts) this.#next();
  }

  /** Start anew, with another connection. */
  forget() {
    this.previous = null;
    this.rates = null;
  }

  /** Return what came since the last call but MIN_SECONDS ago, null while that is not known. */
  measure(inbound) {
    if (!inbound) return null;
    const { presented, timed, waitedMs } = this;
    const now = { ...inbound, presented, timed, waitedMs, hidden: document.hidden };
    const seconds = this.previous ? (now.timestamp - this.previous.timestamp) / 1000 : 0;
    if (this.previous && seconds < MIN_SECONDS) return this.rates;
    this.rates = this.previous && this.#compare(this.previous, now, seconds);
    this.previous = now;
    return this.rates;
  }

  /** Return the delay from the server's encoder to the screen: measured where the picture tells, else added up. */
  latency({ encode_ms: encodeMs, rtt_ms: rttMs }) {
    if (this.stamped) return this.stamps.summary();
    const trip = rttMs ?? this.rates?.rttMs ?? null;
    const here = this.rates?.processingMs ?? null;
    return trip === null || here === null ? null : { ms: (encodeMs ?? 0) + trip / 2 + here, p95: null, measured: false };
  }

  #compare(before, now, seconds) {
    const change = (key) => (now[key] ?? 0) - (before[key] ?? 0);
    const each = (delay, count) => delay in now && change(count) > 0 ? change(delay) / change(count) : null;
    const lost = Math.max(change("packetsLost"), 0), received = change("packetsReceived");
    // To the screen if the browser tells, else to the decoded picture: the jitter buffer's delay is part of both.
    const bufferSeconds = each("jitterBufferDelay", "jitterBufferEmittedCount");
    const processingMs = each("waitedMs", "timed") ?? 1000 * each("totalProcessingDelay", "framesDecoded");
    return {
      receivedFps: change("framesDecoded") / seconds,
      // Browsers show no frames in a hidden tab, which is nothing to report.
      presentedFps: this.counts && !now.hidden && !before.hidden ? change("presented") / seconds : null,
      bitrate: 8 * change("bytesReceived") / seconds,
      loss: lost + received > 0 ? lost / (lost + received) : null,
      processingMs: processingMs || null,
      bufferMs: bufferSeconds === null ? null : 1000 * bufferSeconds,
      rttMs: now.rttMs,
      jitterMs: now.jitter === undefined ? null : 1000 * now.jitter,
      freezes: now.freezeCount ?? null,
      lost: now.packetsLost ?? 0,
      dropped: now.framesDropped ?? 0,
      codec: now.codec,
    };
  }

  #next() {
    this.video.requestVideoFrameCallback((_, { receiveTime, expectedDisplayTime }) => {
      this.presented++;
      if (receiveTime !== undefined) {
        this.timed++;
        this.waitedMs += expectedDisplayTime - receiveTime;
      }
      if (this.stamped) this.stamps.read(this.video, expectedDisplayTime);
      this.#next();
    });
  }
}
