// A WHEP viewer (draft-ietf-wish-whep): offers to receive, and reconnects when the connection is lost.

const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const CONNECT_MS = 10000;
const NO_CONNECTION = navigator.userAgent.includes("Firefox") && ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname)
  ? "no connection: Firefox needs the player to be started with --host and an address of the network"
  : "no connection";

export class Viewer {
  /** Show a clip in a <video>; `notice` is told what hinders it, or "" when nothing does. */
  constructor(video, clip, notice) {
    this.video = video;
    this.url = `/whep/${encodeURIComponent(clip)}`;
    this.notice = notice;
    this.attempt = 0;
    this.connect();
  }

  async connect() {
    const peer = new RTCPeerConnection();
    this.peer = peer;
    this.deadline = setTimeout(() => this.retry(peer, NO_CONNECTION), CONNECT_MS);
    peer.addTransceiver("video", { direction: "recvonly" });
    peer.ontrack = (event) => { this.video.srcObject = new MediaStream([event.track]); };
    peer.onconnectionstatechange = () => {
      if (peer.connectionState === "connected") {
        clearTimeout(this.deadline);
        this.attempt = 0;
        this.notice("");
      } else if (peer.connectionState === "failed" || peer.connectionState === "disconnected") {
        this.retry(peer, "connection lost");
      }
    };
    try {
      await peer.setLocalDescription();
      // The server needs no candidates of the browser: its checks arrive from the right address.
      const response = await fetch(this.url, {
        method: "POST", headers: { "Content-Type": "application/sdp" }, body: peer.localDescription.sdp,
      });
      const answer = await response.text();
      if (!response.ok) throw new Error(JSON.parse(answer).error);
      if (peer !== this.peer) {
        fetch(response.headers.get("Location"), { method: "DELETE" });
        return;
      }
      this.session = response.headers.get("Location");
      await peer.setRemoteDescription({ type: "answer", sdp: answer });
    } catch (error) {
      this.retry(peer, error instanceof TypeError ? "no server" : error.message);
    }
  }

  retry(peer, reason) {
    if (peer !== this.peer) return;
    this.close();
    const wait = RETRY_MS[Math.min(this.attempt++, RETRY_MS.length - 1)];
    this.notice(`${reason}; trying again…`);
    this.timer = setTimeout(() => this.connect(), wait);
  }

  close() {
    clearTimeout(this.timer);
    clearTimeout(this.deadline);
    this.peer?.close();
    this.peer = null;
    if (this.session) fetch(this.session, { method: "DELETE", keepalive: true }).catch(() => {});
    this.session = null;
  }

  /** Return the statistics of the received video, or null while there are none. */
  async statistics() {
    if (!this.peer) return null;
    const report = await this.peer.getStats();
    const all = [...report.values()];
    const inbound = all.find((entry) => entry.type === "inbound-rtp" && entry.kind === "video");
    return inbound ? { ...inbound, codec: report.get(inbound.codecId)?.mimeType?.replace("video/", "") } : null;
  }
}
