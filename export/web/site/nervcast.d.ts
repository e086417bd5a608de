/** Plays neural video on a canvas, decoded in workers of the page. */

export type NervEngine = "wasm" | "webgpu";

export interface NervStatistics {
  /** What decodes. */
  engine: NervEngine;
  /** Why WebGPU does not decode, where it was tried. */
  gpuFault: string | null;
  /** Number of workers. */
  workers: number;
  /** Milliseconds of a worker for a picture, on average. */
  decodeMilliseconds: number;
  /** Pictures per second that all workers could decode. */
  decodeFps: number;
  /** Pictures per second that were drawn in the last two seconds. */
  drawnFps: number;
  /** Frames that were not decoded when they were due. */
  lateFrames: number;
  decodedFrames: number;
  /** Bytes of the workers' memory and of the pictures that wait. */
  memoryBytes: number;
  downloadedBytes: number;
  /** Whether all has arrived, from where the present download began. */
  isComplete: boolean;
  /** Faults of the clip, described for people. */
  damage: string[];
}

export interface NervCue {
  /** Seconds. */
  start: number;
  stop: number;
  /** Text of a WebVTT cue. */
  text: string;
}

export interface NervTextTrack {
  /** Language tag, or an empty text. */
  language: string;
  /** Name for viewers, or an empty text. */
  title: string;
  /** The cues that have arrived. */
  cues: NervCue[];
}

export interface NervAbout {
  title?: string;
  language?: string;
  date?: string;
  /** Chapters with their starts in seconds. */
  chapters?: { start: number; title: string }[];
}

export interface NervRung {
  /** Name of the file. */
  file: string;
  /** Size of the file. */
  bytes: number;
  width: number;
  height: number;
}

export interface NervPlayerOptions {
  /** Number of workers; by default one for each 640x360 pixels of a frame, 4 at most. */
  workers?: number | null;
  /**
   * What decodes; "auto" by default: WebGPU if there is a GPU, and the kernels in WebAssembly until
   * it is ready, or where it cannot decode a clip. "webgpu" takes a GPU of software, too.
   */
  engine?: "auto" | NervEngine;
  /**
   * Address of a folder with the files of onnxruntime-web, which decodes clips that the player's own
   * kernels cannot run. By default, such clips are refused.
   */
  runtime?: string | URL | null;
}

export interface NervPlayerEvents {
  volumechange: CustomEvent<null>;
  play: CustomEvent<null>;
  pause: CustomEvent<null>;
  ended: CustomEvent<null>;
  /** The picture of a seek has been drawn. */
  seeked: CustomEvent<null>;
  timeupdate: CustomEvent<null>;
  /** More of the clip has arrived. */
  progress: CustomEvent<null>;
  /** Another clip of the ladder is played. */
  rungchange: CustomEvent<null>;
  error: CustomEvent<Error>;
}

export class NervPlayer extends EventTarget {
  constructor(canvas: HTMLCanvasElement, options?: NervPlayerOptions);
  /** Whether the clip begins anew at its end; false at first. */
  loop: boolean;
  /** Time in seconds; setting it seeks. */
  currentTime: number;
  /** Speed, 1/16 to 16; slow motion shows pictures between frames, where the clip has them. */
  playbackRate: number;
  /** Loudness of the sound, 0 to 1; 1 at first. Sound plays at normal speed alone. */
  volume: number;
  /** Whether the sound is off; false at first. Browsers play none before the viewer's first touch. */
  muted: boolean;
  /** Whether the clip has sound that this browser can play; the event "progress" tells of changes. */
  readonly hasSound: boolean;
  /** Subtitles; the event "progress" tells of changes. */
  readonly textTracks: NervTextTrack[];
  /** What the clip tells about its film. */
  readonly about: NervAbout;
  /** The clips of a ladder, from the smallest file to the largest; none for a single clip. */
  readonly rungs: NervRung[];
  /** Place of the clip that is played in `rungs`. */
  readonly rung: number;
  /** Place of the clip that is wanted; null, as at first, if it follows from the line and the machine. */
  wantedRung: number | null;
  readonly paused: boolean;
  /** Seconds, or NaN before a clip is open. */
  readonly duration: number;
  readonly videoWidth: number;
  readonly videoHeight: number;
  /** Frames per second of the clip, or NaN before one is open. */
  readonly frameRate: number;
  /** Seconds up to which the clip has arrived, from where the present download began. */
  readonly buffered: number;
  readonly statistics: NervStatistics;
  /**
   * Open a clip, or a ladder by the address of its list, which ends in ".json". Resolves once the
   * first picture is drawn.
   *
   * Rejects with an error named BitstreamError if it is no valid clip, or UnsupportedError if this
   * decoder cannot play it, or AbortError if the player opens another clip or ends meanwhile.
   */
  load(source: string | URL | Response | Blob | BufferSource): Promise<void>;
  play(): void;
  pause(): void;
  /** Pause at a time in seconds, and return its picture. */
  frame(seconds?: number): Promise<ImageBitmap>;
  /** End all workers and the download. */
  destroy(): void;
  addEventListener<Kind extends keyof NervPlayerEvents>(
    type: Kind,
    listener: (this: NervPlayer, event: NervPlayerEvents[Kind]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
}
