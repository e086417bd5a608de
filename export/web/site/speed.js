/** The page that measures how fast both engines decode the clips of the site. */

import { loadClips, withToken } from "./address.js";
import { Stage } from "./stage.js";

const ENGINES = { wasm: "WebAssembly", webgpu: "WebGPU" };
const WARM_UP_MS = 1000;
const MEASURED_MS = 3000;

const find = (id) => document.getElementById(id);

/** Resolve with the pictures per second of a clip by an engine, and the number of its workers. */
function measure(address, engine) {
  return new Promise((resolve, reject) => {
    let began = null;
    const stage = new Stage(address, { workers: null, engine }, {
      opened: () => {},
      receivedExtras: () => {},
      failed(_, error) {
        stage.close();
        reject(error);
      },
      progressed({ ring, isWhole, end, header }) {
        if (!isWhole) return;
        ring.restart(0, (number) => number % end, 4 * header.width * header.height);
        ring.fill(0);
      },
      arrived({ ring, gpuFault }) {
        const waiting = ring.take(Infinity);
        if (waiting) ring.recycle(waiting.pixels);
        ring.fill(0);
        const now = performance.now();
        if (engine === "webgpu" && gpuFault) {
          stage.close();
          reject(new Error(gpuFault));
        } else if (ring.engine === engine) {
          began ??= { now: now + WARM_UP_MS, decoded: null };
          if (began.decoded === null && now >= began.now) began = { now, decoded: ring.decoded };
          const passed = now - began.now;
          if (began.decoded === null || passed < MEASURED_MS) return;
          stage.close();
          resolve({ fps: (1000 * (ring.decoded - began.decoded)) / passed, workers: ring.workerCount });
        }
      },
    });
  });
}

function addRow(values) {
  const row = document.createElement("tr");
  row.append(...values.map((textContent) => Object.assign(document.createElement("td"), { textContent })));
  find("speeds").append(row);
}

async function measureAll() {
  find("begin").disabled = true;
  find("speeds").replaceChildren();
  try {
    for (const { name, file, width, height, rate } of await loadClips()) {
      if (/\.json([?#]|$)/.test(file)) {
        addRow([name, "", "", "", "", "a ladder is not measured"]);
        continue;
      }
      for (const [engine, title] of Object.entries(ENGINES)) {
        find("state").textContent = `${name}: ${title}…`;
        const about = [name, `${width}×${height}`, title];
        try {
          const { fps, workers } = await measure(withToken(file), engine);
          const pace = `${fps.toFixed(1)} fps, ${(fps / rate).toFixed(1)}×`;
          addRow([...about, String(workers), `${(1000 / fps).toFixed(1)} ms`, pace]);
        } catch (error) {
          addRow([...about, "", "", error.message]);
        }
      }
    }
    find("state").textContent = "Done.";
  } catch (error) {
    find("state").textContent = error.message;
  }
  find("begin").disabled = false;
}

async function tellMachine() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const { vendor, architecture, description } = adapter?.info ?? {};
  const gpu = [vendor, architecture, description].filter(Boolean).join(" ");
  find("machine").textContent = `${navigator.hardwareConcurrency} cores; GPU: ${adapter ? gpu || "unnamed" : "none"}. ${navigator.userAgent}`;
}

find("begin").addEventListener("click", measureAll);
tellMachine();
