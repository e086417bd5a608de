// One session by WHEP (draft-ietf-wish-whep): an offer to receive, its answer, the connection, the goodbye.

import { request } from "/static/api.js";

const ICE_SERVER = /<((?:stun|turn)s?:[^>]+)>((?:\s*;\s*[\w-]+=(?:"[^"]*"|[^\s;,]*))*)/g;
const PARAMETER = /([\w-]+)=(?:"([^"]*)"|([^\s;,]*))/g;

export class Session {
  /** Nothing happens before open(); then `onTrack(track)` and `onChange()` are called as things come. */
  constructor(url) {
    this.url = url;
    this.id = null;  // the server's name for it, once there is an answer
    this.candidates = [];
    this.closed = false;
  }

  /** Connect; resolves once there is an answer, and throws what hinders it. */
  async open() {
    const iceServers = await findIceServers(this.url);
    if (this.closed) return;
    const peer = this.peer = new RTCPeerConnection({ iceServers });
    const { receiver } = peer.addTransceiver("video", { direction: "recvonly" });
    if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
    peer.addTransceiver("audio", { direction: "recvonly" });
    peer.ontrack = ({ track }) => this.onTrack(track);
    peer.onconnectionstatechange = () => this.onChange();
    // Without a STUN or TURN server there is nothing to tell: the browser's checks arrive from the right address.
    if (iceServers.length > 0) peer.onicecandidate = ({ candidate }) => this.#found(candidate);
    const { sdp } = await peer.createOffer();
    // Browsers mix sound down to mono unless the offer asks for stereo (RFC 7587, section 7).
    await peer.setLocalDescription({ type: "offer", sdp: sdp.replace("useinbandfec=1", "useinbandfec=1;stereo=1") });
    const response = await request(this.url, {
      method: "POST", headers: { "Content-Type": "application/sdp" }, body: peer.localDescription.sdp,
    });
    this.location = new URL(response.headers.get("Location"), response.url);
    this.id = this.location.pathname.split("/").at(-1);
    if (this.closed) {
      this.#leave();
      return;
    }
    await peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
    this.#tell();
  }

  get connected() {
    return this.peer?.connectionState === "connected";
  }

  get lost() {
    return ["failed", "disconnected", "closed"].includes(this.peer?.connectionState);
  }

  /** Hang up, and say so to the server: also while the page goes away. */
  close() {
    if (this.closed) return;
    this.closed = true;
    if (this.id !== null) this.#leave();
    this.peer?.close();
  }

  /** Return the statistics of the received video, with the codec's name and the round trip in ms; null while there are none. */
  async statistics() {
    if (!this.peer || this.closed) return null;
    const report = await this.peer.getStats();
    const all = [...report.values()];
    const inbound = all.find((entry) => entry.type === "inbound-rtp" && entry.kind === "video");
    if (!inbound) return null;
    const pair = all.find((entry) => entry.type === "candidate-pair" && entry.nominated);
    const rtt = pair?.currentRoundTripTime;
    return {
      ...inbound,
      codec: report.get(inbound.codecId)?.mimeType?.replace("video/", ""),
      rttMs: rtt === undefined ? null : 1000 * rtt,
    };
  }

  #leave() {
    request(this.location, { method: "DELETE", keepalive: true }).catch(() => {});
  }

  #found(candidate) {
    // Host candidates are hidden by mDNS names, of which the server can make nothing.
    if (!candidate || candidate.type === "host") return;
    this.candidates.push(candidate);
    if (this.id !== null) this.#tell();
  }

  /** Send the candidates found so far (trickle ICE, RFC 8840). */
  #tell() {
    const found = this.candidates.splice(0);
    if (found.length === 0 || this.closed) return;
    const [ufrag] = this.peer.localDescription.sdp.match(/a=ice-ufrag:.*/);
    const [password] = this.peer.localDescription.sdp.match(/a=ice-pwd:.*/);
    const lines = found.map(({ candidate }) => `a=${candidate}`);
    const body = [ufrag, password, "m=video 9 UDP/TLS/RTP/SAVPF 0", `a=mid:${found[0].sdpMid}`, ...lines, ""].join("\r\n");
    const headers = { "Content-Type": "application/trickle-ice-sdpfrag" };
    request(this.location, { method: "PATCH", headers, body }).catch(() => {});
  }
}

/** Return the STUN and TURN servers that the server names, none where it cannot be asked: the offer will tell why. */
async function findIceServers(url) {
  try {
    const response = await request(url, { method: "OPTIONS" });
    return parseLinks(response.headers.get("Link") ?? "");
  } catch {
    return [];
  }
}

function parseLinks(header) {
  return [...header.matchAll(ICE_SERVER)].map(([, urls, rest]) => {
    const parameters = Object.fromEntries([...rest.matchAll(PARAMETER)].map(([, key, quoted, bare]) => [key, quoted ?? bare]));
    const { username, credential } = parameters;
    return username === undefined ? { urls } : { urls, username, credential };
  });
}
