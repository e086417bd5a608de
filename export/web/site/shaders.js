/** The operators as compute shaders in WGSL. */

import { UnsupportedError } from "./errors.js";
import { FLOAT, size } from "./graph.js";
import { COPIES, loopsOf, resizeTaps } from "./layout.js";

/** Invocations of a workgroup. */
export const WORKGROUP = 64;
/** Output channels that an invocation of a convolution computes, at most. */
const BLOCK = 16;
const VECTOR = 4;
/** Most multiplications of a convolution: those of a pass that takes seconds end in a reset. */
const MAX_MULTIPLICATIONS = 2 ** 36;

const SIGMOID = "fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(min(-x, 80.0))); }";
/** The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
const ERROR_FUNCTION = `
fn error_function(x: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * abs(x));
  let sum = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return sign(x) * (1.0 - sum * exp(-x * x));
}`;
/** The weights of cubic convolution with a = -0.75, as ONNX's GridSample has it. */
const CUBIC_WEIGHTS = `
fn cubic_weights(t: f32) -> vec4f {
  let a = -0.75;
  let u = 1.0 - t;
  return vec4f(
    a * t * u * u, ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0,
    ((a + 2.0) * u - (a + 3.0)) * u * u + 1.0, a * u * t * t,
  );
}`;

/**
 * Return a pass over `count` places `i`, from inputs `x0`, `x1`, ... to an output `y`.
 *
 * An input is a value of the graph, `{ value, pack }` with a function that rearranges its
 * elements, or `{ data }`; vectors of four floats are read from those with `isVector`.
 */
function pass(inputs, output, count, body, { functions = "", type = "f32" } = {}) {
  const bound = inputs.map((input) => (input.root === undefined ? input : { value: input }));
  const declared = bound.map(
    ({ isVector }, place) =>
      `@group(0) @binding(${place}) var<storage, read> x${place}: array<${isVector ? "vec4f" : "f32"}>;`,
  );
  const code = `${declared.join("\n")}
@group(0) @binding(${bound.length}) var<storage, read_write> y: array<${type}>;
${functions}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * ${WORKGROUP}u;
  if (i >= ${count}u) { return; }
  ${body}
}`;
  return { inputs: bound, output, count, code };
}

function unary(expression, functions = "") {
  return (_, [x], [y]) => [pass([x], y, y.count, `let x = x0[i]; y[i] = ${expression};`, { functions })];
}

function swish({ attributes }, [x], [y]) {
  const body = `let x = ${float(attributes.factor)} * x0[i]; y[i] = x * sigmoid(x);`;
  return [pass([x], y, y.count, body, { functions: SIGMOID })];
}

/** Return a number as a literal of WGSL. */
function float(value) {
  if (!Number.isFinite(value)) throw new UnsupportedError("a constant is not finite");
  return `f32(${value})`;
}

function clip(_, [x, ...bounds], [y]) {
  const [least, most] = bounds.map((bound) => {
    if (bound && !bound.constant) throw new UnsupportedError("Clip has bounds that are no constants");
    return bound ? bound.constant[0] : null;
  });
  let value = "x0[i]";
  if (Number.isFinite(least ?? NaN)) value = `max(${value}, ${float(least)})`;
  if (Number.isFinite(most ?? NaN)) value = `min(${value}, ${float(most)})`;
  return [pass([x], y, y.count, `y[i] = ${value};`)];
}

function binary(expression) {
  return (_, [a, b], [y]) => {
    const steps = loopsOf(a, b, y).reverse().map(
      ({ length, a: stepA, b: stepB }) =>
        `k = rest % ${length}u; rest = rest / ${length}u; p += k * ${stepA}u; q += k * ${stepB}u;`,
    );
    const body = `var rest = i; var k = 0u; var p = 0u; var q = 0u;
  ${steps.join("\n  ")}
  let a = x0[p]; let b = x1[q]; y[i] = ${expression};`;
    return [pass([a, b], y, y.count, body)];
  };
}

function copying(op) {
  return (node, inputs, outputs) =>
    COPIES[op](node, inputs, outputs).map(({ x, y, shape, from, to, fromOffset = 0, toOffset = 0 }) => {
      const steps = shape.map(
        (length, axis) =>
          `k = rest % ${length}u; rest = rest / ${length}u; p += k * ${from[axis]}u; q += k * ${to[axis]}u;`,
      );
      const body = `var rest = i; var k = 0u; var p = ${fromOffset}u; var q = ${toOffset}u;
  ${steps.reverse().join("\n  ")}
  y[q] = x0[p];`;
      return pass([x], y, size(shape), body);
    });
}

/** Return what an activation that a convolution ends with makes of a value. */
function activated(value, { activation, factor = 1 }) {
  if (activation === "Sigmoid") return `sigmoid(${value})`;
  if (activation === "Swish") return `swish(${float(factor)} * ${value})`;
  return value;
}

/**
 * Return what is done with each element `v` of a plane under a kernel: `oy` and `ox` are the row and
 * the column of the output, and `start` is the place of the input's plane.
 */
function overTaps({ attributes }, [, , height, width], [, , rows, columns], body) {
  const { pads = [0, 0, 0, 0] } = attributes;
  const isPadded = pads.some(Boolean);
  if (!isPadded && rows * columns === 1) return `let v = x0[start + u32(oy * ${width} + ox)]; ${body}`;
  // Outside lies 0. Conditions that branch would take compilers very long.
  return `for (var r = 0; r < ${rows}; r++) {
      let iy = oy + r - ${pads[0]};
      for (var c = 0; c < ${columns}; c++) {
        let ix = ox + c - ${pads[1]};
        let isInside = (u32(iy) < ${height}u) & (u32(ix) < ${width}u);
        let v = select(0.0, x0[start + select(0u, u32(iy) * ${width}u + u32(ix), isInside)], isInside);
        ${body}
      }
    }`;
}

function depthwise(node, [x, weights, bias], [y]) {
  const [, channels, height, width] = x.shape;
  const [, , rows, columns] = weights.shape;
  const [, , outHeight, outWidth] = y.shape;
  const body = `let ox = i32(i % ${outWidth}u);
  let oy = i32(i / ${outWidth}u % ${outHeight}u);
  let plane = i / ${outHeight * outWidth}u;
  let channel = plane % ${channels}u;
  let start = plane * ${height * width}u;
  var w = channel * ${rows * columns}u;
  var sum = ${bias ? "x2[channel]" : "0.0"};
  ${overTaps(node, x.shape, weights.shape, "sum += v * x1[w]; w++;")}
  y[i] = sum;`;
  return [pass([x, weights, ...(bias ? [bias] : [])], y, y.count, body)];
}

/**
 * Return how the outputs of a convolution are computed together: the channels of a `block`, the
 * `blocks` of a group, and functions that put the weights, or the bias, of a block's channels
 * beside each other.
 */
function packingOf([outputs, terms, rows, columns], group) {
  const each = outputs / group;
  const block = Math.min(BLOCK, Math.ceil(each / VECTOR) * VECTOR);
  const blocks = Math.ceil(each / block);
  const packer = (taps) => (from) => {
    const packed = new Float32Array(group * blocks * block * taps);
    for (let output = 0; output < outputs; output++) {
      const inGroup = output % each;
      const place = Math.floor(output / each) * blocks + Math.floor(inGroup / block);
      for (let tap = 0; tap < taps; tap++) {
        packed[(place * taps + tap) * block + (inGroup % block)] = from[output * taps + tap];
      }
    }
    return packed;
  };
  return { block, blocks, pack: packer(terms * rows * columns), packBias: packer(1) };
}

/** Each invocation computes up to 16 channels of a place. */
function conv(node, [x, weights, bias, residual], [y]) {
  if (weights.isVarying || bias?.isVarying) throw new UnsupportedError("weights of Conv vary");
  const { group = 1 } = node.attributes;
  const [batch, channels, height, width] = x.shape;
  const [outputs, terms, rows, columns] = weights.shape;
  const [, , outHeight, outWidth] = y.shape;
  const pixels = outHeight * outWidth;
  const each = outputs / group;
  const taps = terms * rows * columns;
  if (y.count * taps > MAX_MULTIPLICATIONS) throw new UnsupportedError("a convolution is too large");
  // Only convolutions of one group add or activate anything.
  if (group > 1 && group === channels && group === outputs) {
    return depthwise(node, [x, weights, bias], [y]);
  }
  const { block, blocks, pack, packBias } = packingOf(weights.shape, group);
  const vectors = block / VECTOR;
  const biases = bias
    ? { value: bias, pack: packBias, isVector: true }
    : { data: new Float32Array(group * blocks * block), isVector: true };
  const sums = Array.from({ length: vectors }, (_, index) => index);
  const add = sums.map((index) => `a${index} += v * x1[w + ${index}u];`).join(" ");
  const stores = Array.from({ length: block }, (_, lane) => {
    const sum = `a${lane >> 2}[${lane & 3}]`;
    const value = activated(residual ? `(${sum} + x3[to + ${lane * pixels}u])` : sum, node.attributes);
    const store = `y[to + ${lane * pixels}u] = ${value};`;
    return each % block ? `if (first + ${lane}u < ${each}u) { ${store} }` : store;
  });
  const body = `let at = i % ${pixels}u;
  let place = i / ${pixels}u % ${group * blocks}u;
  let picture = i / ${pixels * group * blocks}u;
  let oy = i32(at / ${outWidth}u);
  let ox = i32(at % ${outWidth}u);
  let first = place % ${blocks}u * ${block}u;
  let part = place / ${blocks}u;
  ${sums.map((index) => `var a${index} = x2[place * ${vectors}u + ${index}u];`).join(" ")}
  var start = (picture * ${channels}u + part * ${terms}u) * ${height * width}u;
  var w = place * ${taps * vectors}u;
  for (var term = 0u; term < ${terms}u; term++) {
    ${overTaps(node, x.shape, weights.shape, `${add} w += ${vectors}u;`)}
    start += ${height * width}u;
  }
  let to = (picture * ${outputs}u + part * ${each}u + first) * ${pixels}u + at;
  ${stores.join("\n  ")}`;
  const functions = `${SIGMOID}\nfn swish(x: f32) -> f32 { return x * sigmoid(x); }`;
  const inputs = [x, { value: weights, pack, isVector: true }, biases, ...(residual ? [residual] : [])];
  return [pass(inputs, y, batch * group * blocks * pixels, body, { functions })];
}

function resize(node, inputs, outputs) {
  const [[x], [y]] = [inputs, outputs];
  const [, , height, width] = x.shape;
  const [, , outHeight, outWidth] = y.shape;
  const { across, down } = resizeTaps(node, inputs, outputs);
  /** Places and weights, one after the other: places are small enough to be exact as floats. */
  const table = ({ places, weights }) => ({
    data: Float32Array.from(places.flatMap((place, index) => [place, weights[index]])),
  });
  const body = `let column = i % ${outWidth}u;
  let row = i / ${outWidth}u % ${outHeight}u;
  let plane = i / ${outWidth * outHeight}u * ${height * width}u;
  var sum = 0.0;
  for (var r = 0u; r < ${down.count}u; r++) {
    let line = 2u * (row * ${down.count}u + r);
    let start = plane + u32(x2[line]) * ${width}u;
    var part = 0.0;
    for (var c = 0u; c < ${across.count}u; c++) {
      let tap = 2u * (column * ${across.count}u + c);
      part += x1[tap + 1u] * x0[start + u32(x1[tap])];
    }
    sum += x2[line + 1u] * part;
  }
  y[i] = sum;`;
  return [pass([x, table(across), table(down)], y, y.count, body)];
}

function gridSample(node, [x, grid], [y]) {
  const [batch, channels, height, width] = x.shape;
  if (batch !== 1) throw new UnsupportedError("a picture is made of several at once");
  const { mode = "linear", align_corners: aligned = 0, padding_mode: padding, planar } = node.attributes;
  const isCubic = mode.endsWith("cubic");
  const hasBorder = padding === "border";
  const count = grid.count / 2;
  const taps = isCubic ? 4 : 2;
  const scaled = (axis, length) => {
    const place = planar ? `i + ${axis * count}u` : `2u * i + ${axis}u`;
    const exact = `(x1[${place}] + 1.0) * ${float((aligned ? length - 1 : length) / 2)} ${aligned ? "" : "- 0.5"}`;
    const bounds = hasBorder && !isCubic ? `0.0, ${float(length - 1)}` : "-1e6, 1e6";
    return `clamp(${exact}, ${bounds})`;
  };
  const weights = (t) => (isCubic ? `cubic_weights(${t})` : `vec4f(1.0 - ${t}, ${t}, 0.0, 0.0)`);
  const body = `let px = ${scaled(0, width)};
  let py = ${scaled(1, height)};
  let wx = ${weights("(px - floor(px))")};
  let wy = ${weights("(py - floor(py))")};
  let left = i32(floor(px)) - ${isCubic ? 1 : 0};
  let top = i32(floor(py)) - ${isCubic ? 1 : 0};
  for (var channel = 0u; channel < ${channels}u; channel++) {
    var sum = 0.0;
    for (var r = 0; r < ${taps}; r++) {
      let iy = top + r;
      let start = channel * ${height * width}u + u32(clamp(iy, 0, ${height - 1}) * ${width});
      var part = 0.0;
      for (var c = 0; c < ${taps}; c++) {
        let ix = left + c;
        let value = x0[start + u32(clamp(ix, 0, ${width - 1}))];
        ${hasBorder ? "part += wx[c] * value;" : `if (ix >= 0 && ix < ${width}) { part += wx[c] * value; }`}
      }
      ${hasBorder ? "sum += wy[r] * part;" : `if (iy >= 0 && iy < ${height}) { sum += wy[r] * part; }`}
    }
    y[channel * ${count}u + i] = sum;
  }`;
  return [pass([x, grid], y, count, body, { functions: CUBIC_WEIGHTS })];
}

/** Return the pass from colours (3, rows of `stride`) to RGBA pixels, in one integer each. */
export function pixels(frame, output, width, height) {
  const { rows, stride } = frame;
  const plane = rows * stride;
  const functions = "fn value(x: f32) -> u32 { return u32(round(clamp(x, 0.0, 1.0) * 255.0)); }";
  const body = `let at = i / ${width}u * ${stride}u + i % ${width}u;
  let colours = vec4u(value(x0[at]), value(x0[at + ${plane}u]), value(x0[at + ${2 * plane}u]), 255u);
  y[i] = dot(colours, vec4u(1u, 256u, 65536u, 16777216u));`;
  return pass([frame], output, width * height, body, { functions, type: "u32" });
}

const OPERATORS = {
  Abs: unary("abs(x)"), Add: binary("a + b"), Ceil: unary("ceil(x)"), Clip: clip,
  Concat: copying("Concat"), Conv: conv, DepthToSpace: copying("DepthToSpace"),
  Div: binary("a / b"), Erf: unary("error_function(x)", ERROR_FUNCTION), Exp: unary("exp(x)"),
  Expand: copying("Expand"), Floor: unary("floor(x)"),
  Gelu: unary("0.5 * x * (1.0 + error_function(0.70710678 * x))", ERROR_FUNCTION),
  GridSample: gridSample, Max: binary("max(a, b)"), Min: binary("min(a, b)"),
  Mul: binary("a * b"), Neg: unary("-x"), Relu: unary("max(x, 0.0)"), Resize: resize,
  Sigmoid: unary("sigmoid(x)", SIGMOID), Split: copying("Split"), Sqrt: unary("sqrt(x)"),
  Sub: binary("a - b"), Swish: swish,
  // For large numbers, some GPUs divide one infinity by another.
  Tanh: unary("tanh(clamp(x, -15.0, 15.0))"), Transpose: copying("Transpose"),
};

/** Operators that these shaders have. WGSL's sines are too inexact for large angles. */
export const OPERATOR_NAMES = new Set(Object.keys(OPERATORS));

/** Return the passes of a step of a program. Throws UnsupportedError if there are none. */
export function passesOf({ node, inputs, outputs }) {
  if (!OPERATOR_NAMES.has(node.op)) throw new UnsupportedError(`there is no shader for ${node.op}`);
  if ([inputs[0], ...outputs].some(({ type }) => type !== FLOAT)) {
    throw new UnsupportedError(`${node.op} has integers`);
  }
  return OPERATORS[node.op](node, inputs, outputs);
}
