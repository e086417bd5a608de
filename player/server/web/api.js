// Requests to the server: the token of the page's own address goes with each, and a refusal becomes an error.

const token = new URLSearchParams(location.search).get("token");
const NO_TOKEN = token === null
  ? "this page needs ?token=… in its address"
  : "the server does not know the token in this page's address: it needs the right ?token=…";

/** What the server refused: with its status, and in how many seconds one may ask again. */
export class Refusal extends Error {
  constructor(response, reason) {
    super(response.status === 401 ? NO_TOKEN : reason);
    this.status = response.status;
    this.retrySeconds = Number(response.headers.get("Retry-After")) || 0;
  }
}

/** Fetch; throws a Refusal for every status that is no success, and fetch's own TypeError where there is no server. */
export async function request(url, options = {}) {
  const headers = token === null ? options.headers : { ...options.headers, Authorization: `Bearer ${token}` };
  const response = await fetch(url, { ...options, headers });
  if (!response.ok) throw new Refusal(response, await reasonOf(response));
  return response;
}

/** Ask for JSON, or send a value as JSON and return the answer's. */
export async function json(url, method = "GET", value = undefined) {
  const body = value && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) };
  return (await request(url, { method, ...body })).json();
}

/** Return an address with the token, for requests that can carry no header. */
export function withToken(url, query = {}) {
  const parameters = String(new URLSearchParams(token === null ? query : { ...query, token }));
  return parameters === "" ? url : `${url}?${parameters}`;
}

/** Return an error in words for people. */
export const inWords = (error) => error instanceof TypeError ? "no server" : error.message;

async function reasonOf(response) {
  try {
    return (await response.json()).error;
  } catch {
    // A proxy in between answers in HTML.
    return `the server answers ${response.status} ${response.statusText}`;
  }
}
