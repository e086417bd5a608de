// Small plots of the last minute, one value a second.

const LENGTH = 60;
const HEADROOM = 1.15;

export class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.values = Array(LENGTH).fill(null);
    sizes.observe(canvas);
    plots.set(canvas, this);
  }

  /** Add a value, null where there is none; `reference` is where a line is drawn, null for nowhere. */
  push(value, reference = null) {
    this.values.shift();
    this.values.push(value);
    this.reference = reference;
  }

  draw() {
    const { canvas: { width, height }, context, values, reference } = this;
    const top = HEADROOM * Math.max(...values, reference ?? 0) || 1;
    const thick = Math.max(Math.round(1.5 * devicePixelRatio), 1);
    const x = (index) => index * width / (LENGTH - 1);
    const y = (value) => height - thick / 2 - Math.max(value, 0) / top * (height - thick);
    context.clearRect(0, 0, width, height);
    if (reference !== null) {
      context.strokeStyle = colours.reference;
      context.lineWidth = Math.max(Math.round(devicePixelRatio), 1);
      context.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      context.beginPath();
      context.moveTo(0, Math.round(y(reference)) + 0.5);
      context.lineTo(width, Math.round(y(reference)) + 0.5);
      context.stroke();
    }
    context.strokeStyle = colours.line;
    context.fillStyle = colours.area;
    context.lineWidth = thick;
    context.lineJoin = "round";
    context.setLineDash([]);
    for (const [first, last] of runs(values)) {
      context.beginPath();
      // A single value is a dash, or it would not be seen.
      context.moveTo(first === last ? x(first - 1) : x(first), y(values[first]));
      for (let index = first; index <= last; index++) context.lineTo(x(index), y(values[index]));
      context.stroke();
      context.lineTo(x(last), height);
      context.lineTo(first === last ? x(first - 1) : x(first), height);
      context.fill();
    }
  }
}

/** Yield the first and the last index of each stretch without a gap. */
function* runs(values) {
  let first = null;
  for (let index = 0; index <= values.length; index++) {
    const there = index < values.length && values[index] !== null;
    if (there) first ??= index;
    else if (first !== null) {
      yield [first, index - 1];
      first = null;
    }
  }
}

const plots = new Map();
let colours = readColours();

// Sizes come from the layout when it changes: asking for them would make it happen.
const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect, devicePixelContentBoxSize: [exact] = [] } of entries) {
    target.width = exact?.inlineSize ?? Math.round(contentRect.width * devicePixelRatio);
    target.height = exact?.blockSize ?? Math.round(contentRect.height * devicePixelRatio);
    plots.get(target).draw();
  }
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colours = readColours();
  for (const plot of plots.values()) plot.draw();
});

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return { line: colour("accent"), area: colour("accent-faint"), reference: colour("quiet") };
}
