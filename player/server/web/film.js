// Subtitles and chapters of the clip that plays, which are loaded for clips with any of them.

import { request } from "/static/api.js";

const TICK_MS = 100;
/** Time after which the subtitles of a growing clip are loaded again. */
const RELOAD_MS = 5000;

const find = (id) => document.getElementById(id);

let clip = null;
let timeline = null;
let captions = null;  // a promise
let parseWebvtt = null;
let cues = [];
let loading = 0;  // number of the latest request

/** Follow the timeline of an item of the list of clips. */
export async function follow(item, itsTimeline) {
  const changed = item?.name !== clip?.name;
  clip = item;
  timeline = itsTimeline;
  if (!item || (!captions && !item.subtitles.length && !item.chapters.length)) return;
  captions ??= prepare();
  const shown = await captions;
  if (item !== clip) return;
  if (changed) cues = [];
  shown.offer(item.subtitles, item.chapters, item.frames / item.fps);
  if (changed) load();
}

async function prepare() {
  const module = await import("/here/captions.js");
  parseWebvtt = module.parseWebvtt;
  const shown = new module.Captions({ stage: find("stage"), seek: find("seek"), clock: find("clock"), choose: load });
  setInterval(() => {
    const { state, frame } = timeline.state ? timeline : { state: null };
    if (state && !document.hidden) shown.show(frame / state.fps, cues);
  }, TICK_MS);
  return shown;
}

/** Load the cues of the chosen track, again and again while the clip grows. */
async function load() {
  const number = ++loading;
  const { chosen } = await captions;
  cues = [];
  if (!clip || chosen < 0 || number !== loading) return;
  const url = `/api/clips/${encodeURIComponent(clip.name)}/subtitles/${chosen}.vtt`;
  const found = await request(url).then((response) => response.text(), () => "");
  if (number !== loading) return;
  cues = parseWebvtt(found);
  if (timeline.state?.frames < clip.frames) setTimeout(() => { if (number === loading) load(); }, RELOAD_MS);
}
