// The HTTP API: requests with the key, problems as errors, event streams that come back, what the server can do.

const KEY = "equipot-api-key";
let askForKey = async () => null;
let asking = null;

/** How the page asks for an API key when the server wants one. */
export function onKeyWanted(f) {
  askForKey = f;
}

export function apiKey() {
  return sessionStorage.getItem(KEY);
}

export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What the server says is wrong (RFC 9457): `code`, `detail`, `hint`, and `errors` with JSON pointers. */
export class Problem extends Error {
  constructor(body, status) {
    super(body.detail || body.title || `The server answered ${status}.`);
    this.status = status;
    this.code = String(body.type ?? "").split("/").pop();
    this.title = body.title ?? "";
    this.detail = body.detail ?? "";
    this.hint = body.hint ?? "";
    this.errors = body.errors ?? [];
    this.requestId = body.request_id ?? "";
  }
}

const away = () =>
  new Problem({ type: "/problems/unavailable", title: "The service does not answer", detail: "The service does not answer.",
    hint: "Is it running, and is the network there? Nothing is lost: jobs go on by themselves." }, 0);

async function send(method, path, { body, headers = {}, signal } = {}) {
  const all = { Accept: "application/json", ...headers };
  if (apiKey()) all.Authorization = `Bearer ${apiKey()}`;
  if (body !== undefined && !(body instanceof FormData)) {
    all["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  try {
    return await fetch(path, { method, body, headers: all, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw away();
  }
}

/** The answer to a request. Asks for a key and tries again if one is wanted; throws a Problem otherwise. */
export async function request(method, path, options = {}) {
  for (;;) {
    const used = apiKey();
    const answer = await send(method, path, options);
    if (answer.ok) return answer;
    const problem = new Problem(await answer.json().catch(() => ({})), answer.status);
    if (answer.status !== 401) throw problem;
    if (used === apiKey()) {
      asking ??= askForKey(Boolean(used)).finally(() => (asking = null));
      if (!(await asking)) throw problem;
    }
  }
}

export async function getJson(path, signal) {
  return (await request("GET", path, { signal })).json();
}

export async function postJson(path, body, options = {}) {
  return (await request("POST", path, { ...options, body })).json();
}

/** Every item of a list that comes in pages, at most `most`. */
export async function getAll(path, signal, most = Infinity) {
  const items = [];
  let token = "";
  do {
    const size = Math.min(1000, most - items.length);
    const page = await getJson(`${path}?page_size=${size}${token ? `&page_token=${token}` : ""}`, signal);
    items.push(...page.items);
    token = page.next_page_token;
  } while (token && items.length < most);
  return items;
}

let description = null;
/** The OpenAPI document of the server, fetched once. */
export function openapi() {
  description ??= getJson("/openapi.json").catch((error) => {
    description = null;
    throw error;
  });
  return description;
}

/** Whether the server has an operation; the page shows nothing that it cannot do. */
export async function can(method, path) {
  return Boolean((await openapi()).paths[path]?.[method.toLowerCase()]);
}

/** Events of a job, each once and in order, through lost connections, until its `end` or the signal. */
export async function* events(jobId, signal) {
  let lastId = "";
  let last = "";
  for (;;) {
    try {
      const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
      const answer = await request("GET", `/v1/jobs/${jobId}/events`, { headers, signal });
      for await (const event of parseStream(answer.body)) {
        if (event.id && event.id === lastId) continue;
        lastId = event.id || lastId;
        last = event.type;
        yield event;
      }
      if (last === "end") return; // an end with more after it belongs to a run before a resume
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
    if (signal.aborted) return;
  }
}

async function* parseStream(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value.replaceAll("\r", "")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { type: "message", data: "", id: "" };
      for (const line of block.split("\n")) {
        const [, name, text] = /^(event|data|id): ?(.*)$/.exec(line) ?? [];
        if (name === "event") event.type = text;
        else if (name) event[name] += text;
      }
      if (event.data) yield { ...event, data: JSON.parse(event.data) };
    }
  }
}

/** Save what is at an address as a file; with a key the browser cannot follow a plain link. */
export async function download(path, filename) {
  let href = path;
  if (apiKey()) href = URL.createObjectURL(await (await request("GET", path, { headers: { Accept: "*/*" } })).blob());
  saveAs(href, filename);
}

export function saveText(text, filename, type = "application/json") {
  saveAs(URL.createObjectURL(new Blob([text], { type })), filename);
}

export function saveAs(href, filename) {
  const link = document.createElement("a");
  link.href = href;
  link.download = filename;
  document.body.append(link);
  link.click();
  link.remove();
  if (href.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(href), 60_000);
}
