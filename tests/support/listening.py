"""What notes the sound and the flashes of the page that decodes in the browser."""

LISTEN = """
(() => {
  window.heard = [];
  window.seen = [];
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (!(target instanceof AudioDestinationNode)) return connect.call(this, target, ...rest);
    const { context } = this;
    const tap = context.createScriptProcessor(256, 2, 2);
    let last = -1;
    tap.onaudioprocess = ({ inputBuffer, outputBuffer, playbackTime }) => {
      const samples = inputBuffer.getChannelData(0);
      outputBuffer.copyToChannel(samples, 0);
      const place = samples.findIndex((each) => Math.abs(each) > 0.05);
      if (place < 0) return;
      const time = playbackTime + (place - 2 * 256) / context.sampleRate;
      const latency = context.outputLatency || 0;
      const moment = performance.now() + 1000 * (time - context.currentTime + latency);
      if (moment > last + 150) heard.push(moment);
      last = moment;
    };
    connect.call(this, tap);
    return connect.call(tap, target);
  };
  const small = new OffscreenCanvas(8, 8).getContext("2d", { willReadFrequently: true });
  let isBright = false;
  nervcast.addEventListener("timeupdate", () => {
    small.drawImage(document.getElementById("picture"), 0, 0, 8, 8);
    const [red, , , alpha] = small.getImageData(4, 4, 1, 1).data;
    if (!alpha) return;
    const isFlash = red > 100;
    if (isFlash && !isBright && !nervcast.paused) seen.push(performance.now());
    isBright = isFlash;
  });
  return true;
})()
"""
"""Notes the moments at which beeps are heard and flashes are seen."""
