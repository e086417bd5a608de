/** Rewrites of a graph's nodes that save passes over memory. */

import { size } from "./graph.js";

/**
 * Return the nodes of a graph, with patterns that kernels compute at once as single nodes.
 *
 * `Swish` is x * factor * sigmoid(x * factor). A `Conv` takes it or a `Sigmoid` as its
 * `activation`, and adds a fourth input before.
 */
export function fuse(graph, values) {
  const uses = new Map([[graph.frames, 1]]);
  for (const { inputs } of graph.nodes) {
    for (const name of inputs) uses.set(name, (uses.get(name) ?? 0) + 1);
  }
  const swishes = fuseSwish(graph.nodes, values, uses);
  return fuseGrids(fuseConvolutions(swishes, values, uses), uses);
}

/** Let GridSample read a grid (1, 2, H, W) as it was before a transposition. */
function fuseGrids(nodes, uses) {
  const isGrid = ({ op, attributes }) => op === "Transpose" && String(attributes.perm) === "0,2,3,1";
  const makers = new Map(nodes.filter(isGrid).map((node) => [node.outputs[0], node]));
  const gone = new Set();
  const fused = nodes.map((node) => {
    const maker = node.op === "GridSample" ? makers.get(node.inputs[1]) : null;
    if (!maker || uses.get(node.inputs[1]) !== 1) return node;
    gone.add(maker);
    const attributes = { ...node.attributes, planar: true };
    return { ...node, inputs: [node.inputs[0], maker.inputs[0]], attributes };
  });
  return fused.filter((node) => !gone.has(node));
}

/** Put Swish in place of Mul by a constant, Sigmoid, and Mul. */
function fuseSwish(nodes, values, uses) {
  const made = new Map(nodes.map((node) => [node.outputs[0], node]));
  const gone = new Set();
  const found = new Map();
  for (const node of nodes) {
    if (node.op !== "Mul") continue;
    const gate = made.get(node.inputs[1]);
    const scaled = made.get(node.inputs[0]);
    const isSwish =
      gate?.op === "Sigmoid" &&
      gate.inputs[0] === node.inputs[0] &&
      scaled?.op === "Mul" &&
      uses.get(node.inputs[0]) === 2 &&
      uses.get(node.inputs[1]) === 1;
    const factor = isSwish ? values.get(scaled.inputs[1]) : null;
    if (!factor?.constant || size(factor.shape) !== 1 || factor.shape.length > values.get(scaled.inputs[0]).shape.length) continue;
    gone.add(scaled).add(gate);
    const attributes = { factor: factor.constant[0] };
    found.set(node, { op: "Swish", inputs: [scaled.inputs[0]], outputs: node.outputs, attributes });
  }
  return nodes.filter((node) => !gone.has(node)).map((node) => found.get(node) ?? node);
}

/** Let convolutions add what alone is added to them, and end with the activation after it. */
function fuseConvolutions(nodes, values, uses) {
  const convolutions = new Map();
  const fused = new Set();
  for (const node of nodes) {
    const found = withResidual(node, convolutions, values, uses) ?? withActivation(node, convolutions, uses);
    if (found) fused.delete(found.replaced);
    const made = found?.node ?? node;
    fused.add(made);
    if (made.op === "Conv" && (made.attributes.group ?? 1) === 1) {
      convolutions.set(made.outputs[0], made);
    }
  }
  return [...fused];
}

/** Return a convolution that adds another value of its own size, in place of an Add. */
function withResidual({ op, inputs, outputs }, convolutions, values, uses) {
  if (op !== "Add") return null;
  for (const [name, other] of [inputs, inputs.toReversed()]) {
    const replaced = convolutions.get(name);
    const isFusible =
      replaced &&
      uses.get(name) === 1 &&
      values.get(name).isVarying && // what does not vary is computed once
      !replaced.attributes.activation &&
      !replaced.inputs[3] &&
      String(values.get(other).shape) === String(values.get(name).shape);
    if (!isFusible) continue;
    const [x, weights, bias = ""] = replaced.inputs;
    return { replaced, node: { ...replaced, inputs: [x, weights, bias, other], outputs } };
  }
  return null;
}

/** Return a convolution that ends with an activation. */
function withActivation({ op, inputs, outputs, attributes }, convolutions, uses) {
  const replaced = convolutions.get(inputs[0]);
  const isFusible =
    ["Swish", "Sigmoid"].includes(op) && replaced && uses.get(inputs[0]) === 1 &&
    !replaced.attributes.activation;
  if (!isFusible) return null;
  const { factor = 1 } = attributes;
  const node = { ...replaced, outputs, attributes: { ...replaced.attributes, activation: op, factor } };
  return { replaced, node };
}
