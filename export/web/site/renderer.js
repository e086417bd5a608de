/** Draws RGBA pictures on a canvas: with WebGL2, or else as image data. */

const VERTICES = `#version 300 es
out vec2 place;
void main() {
  place = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  gl_Position = vec4(2.0 * place.x - 1.0, 1.0 - 2.0 * place.y, 0.0, 1.0);
}`;
const COLOURS = `#version 300 es
precision mediump float;
uniform sampler2D picture;
in vec2 place;
out vec4 colour;
void main() { colour = texture(picture, place); }`;

export class Renderer {
  #canvas;
  #gl;
  #flat;
  #latest = null;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#gl = canvas.getContext("webgl2", { alpha: false, antialias: false });
    if (!this.#gl) this.#flat = canvas.getContext("2d", { alpha: false });
    else this.#prepare();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      this.#prepare();
      if (this.#latest) this.draw(...this.#latest);
    });
  }

  /** Draw a picture of RGBA pixels, and keep it to draw it again. */
  draw(pixels, width, height) {
    this.#latest = [pixels, width, height];
    const canvas = this.#canvas;
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    if (this.#flat) {
      this.#flat.putImageData(new ImageData(pixels, width, height), 0, 0);
      return;
    }
    const gl = this.#gl;
    if (gl.isContextLost()) return;
    gl.viewport(0, 0, width, height);
    const bytes = new Uint8Array(pixels.buffer, pixels.byteOffset, pixels.length);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  #prepare() {
    const gl = this.#gl;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTICES], [gl.FRAGMENT_SHADER, COLOURS]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) {
      gl.texParameteri(gl.TEXTURE_2D, side, gl.LINEAR);
    }
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) {
      gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    }
  }
}
