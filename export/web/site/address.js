/** Return an address with the token of the page's own address, if it has one. */
export function withToken(address) {
  const url = new URL(address, document.baseURI);
  const token = new URLSearchParams(location.search).get("token");
  if (token !== null) url.searchParams.set("token", token);
  return url;
}

/** Load the list of clips. Rejects if it cannot be loaded, or is empty. */
export async function loadClips() {
  const response = await fetch(withToken("clips.json"));
  if (!response.ok) throw new Error(`cannot load clips.json: status ${response.status}`);
  const clips = await response.json();
  if (!clips.length) throw new Error("there are no clips here");
  return clips;
}
