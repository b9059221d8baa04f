// The demo's page. It runs Electric's client against shapegate, and shows what the demo's process reports.
import { FetchError, ShapeStream } from "./electric-client.js";

const byId = (id) => document.getElementById(id);
const options = await (await fetch("/options")).json();

/** Sends a POST to the demo. Returns its status and its JSON or text. */
async function post(path, body = "") {
  try {
    const answer = await fetch(path, { method: "POST", headers: { "x-demo": "1" }, body });
    const text = await answer.text();
    const isJson = answer.headers.get("content-type")?.startsWith("application/json");
    return { ok: answer.ok, text, json: isJson ? JSON.parse(text) : null };
  } catch {
    return { ok: false, text: "", json: { message: "The demo does not answer." } };
  }
}

function log(words) {
  const line = document.createElement("li");
  line.textContent = `${new Date().toLocaleTimeString()} ${words}`;
  byId("log").append(line);
  while (byId("log").children.length > 50) byId("log").firstChild.remove();
  byId("log").scrollTop = byId("log").scrollHeight;
}

function show(id, words, kind = "") {
  const element = byId(id);
  if (element.textContent !== words) element.textContent = words;
  element.classList.toggle("good", kind === "good");
  element.classList.toggle("bad", kind === "bad");
}

// ---- Sharing: figures, plot and buttons.

const SECONDS = 60;
const history = [];

function plot({ responses, requests }) {
  history.push({ at: performance.now(), responses, requests });
  while (history.length > SECONDS + 1) history.shift();
  const rates = history.slice(1).map((now, index) => {
    const before = history[index];
    const seconds = (now.at - before.at) / 1000;
    return { out: (now.responses - before.responses) / seconds, in: (now.requests - before.requests) / seconds };
  });
  const most = Math.max(10, ...rates.map((rate) => rate.out), ...rates.map((rate) => rate.in));
  const line = (of) =>
    rates
      .map((rate, index) => {
        const x = 600 - ((rates.length - 1 - index) * 600) / SECONDS;
        return `${index ? "L" : "M"}${x.toFixed(1)} ${(118 - (116 * rate[of]) / most).toFixed(1)}`;
      })
      .join("");
  byId("plot-out").setAttribute("d", line("out"));
  byId("plot-in").setAttribute("d", line("in"));
  const [first, last] = [history[0], history.at(-1)];
  show(
    "plot-words",
    `The last minute: ${last.responses - first.responses} responses to clients from ` +
      `${last.requests - first.requests} requests to Electric. Top line: ${Math.ceil(most)} per second.`,
  );
}

const running = (is) => (is ? ["running", "good"] : ["restarting", "bad"]);

async function refresh() {
  try {
    const answer = await fetch("/state");
    const state = await answer.json();
    if (!answer.ok) throw new Error(state.message);
    show("upstream", String(state.upstream));
    show("upstream-noun", state.upstream === 1 ? "request" : "requests");
    show("waiting", String(state.waiting));
    show("waiting-noun", state.waiting === 1 ? "client is" : "clients are");
    show("electric", ...(options.ownElectric ? ["your own"] : running(state.electric)));
    show("issuer", ...running(state.issuer));
    plot(state);
  } catch {
    for (const id of ["electric", "issuer"]) show(id, "unknown: the demo has ended", "bad");
  }
  setTimeout(refresh, 1000);
}

for (const button of document.querySelectorAll("button[data-post]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    const path = button.id === "write" ? `/row?organization=${byId("organization").value}` : button.dataset.post;
    if (button.dataset.begins) log(button.dataset.begins);
    const { json } = await post(path);
    log(json.message);
    button.disabled = false;
    button.focus();
  });
}
if (options.ownElectric) {
  for (const id of ["write", "restart-electric"]) byId(id).hidden = true;
}
byId("metrics").href = options.metricsUrl;

// ---- Safety: the page's client, its token and its requests.

const decode = (part) => {
  const bytes = Uint8Array.from(atob(part.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
};
const encode = (text) =>
  btoa(String.fromCharCode(...new TextEncoder().encode(text)))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

/** The token that the client sends. `renewable`: after a 401 the page gets a new one, as an application would. */
let token = { text: "", renewable: true };
let controller = new AbortController();

function use(text, renewable = true) {
  token = { text, renewable };
  byId("claims").value = JSON.stringify(decode(text.split(".")[1]), null, 2);
}

async function renew() {
  const answer = await fetch(`/token/${byId("organization").value === "org-2" && owns("org-2") ? "org-2" : "org-1"}`);
  if (!answer.ok) throw new Error("no token: the issuer is restarting");
  use(await answer.text());
}

/** Returns whether the current token names an organization. */
const owns = (organization) => {
  try {
    return decode(token.text.split(".")[1]).organizationIds?.includes(organization) ?? false;
  } catch {
    return false;
  }
};

function listed(id, pairs) {
  const cells = pairs.flatMap(([name, value]) => {
    const [term, detail] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, detail.textContent] = [name, value];
    return [term, detail];
  });
  byId(id).replaceChildren(...cells);
}

/** Shows a request of the client, and the one that Electric got for it. */
async function compare(url, headers, status) {
  const bearer = new Headers(headers).get("authorization") ?? "";
  const asked = [...new URL(url).searchParams].filter(([name]) => name !== "cache-buster");
  listed("asked", [...asked, ["Authorization", `${bearer.slice(0, 19)}…`]]);
  if (status >= 500) return listed("sent", [["nothing", "Electric is unreachable"]]);
  if (status === 401 || status === 403) return listed("sent", [["nothing", `shapegate answers ${status} itself`]]);
  if (options.ownElectric) return listed("sent", [["see", "the log of your Electric, or shapegate explain"]]);
  const sent = await (await fetch(`/upstream${new URL(url).search}`)).json();
  if (sent) listed("sent", sent);
}

const reason = (status, body) =>
  `${status} ${body?.code ?? ""}: ${body?.message ?? "no message"}${body?.reason ? ` Reason: ${body.reason}.` : ""}`;

/** Opens the shape again with the current token and organization. */
function follow() {
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  const organization = byId("organization").value;
  const rows = new Map();
  let live = false;
  show("outcome", "…");
  show("client", "connecting");
  draw(rows);
  const stream = new ShapeStream({
    url: options.shapeUrl,
    params: { table: "tasks", organizationId: organization },
    headers: { Authorization: () => `Bearer ${token.text}` },
    signal,
    warnOnHttp: false,
    backoffOptions: { initialDelay: 250, maxDelay: 2000, multiplier: 1.5 },
    fetchClient: async (url, init) => {
      const answer = await fetch(url, init);
      if (!signal.aborted) observe(String(url), init, answer.clone());
      return answer;
    },
    onError: async (error) => {
      if (!(error instanceof FetchError) || error.status !== 401 || !token.renewable) return undefined;
      log(`The page’s client got ${reason(error.status, error.json)} It gets a new token and goes on.`);
      for (;;) {
        try {
          await renew();
          return {};
        } catch {
          await new Promise((wake) => setTimeout(wake, 1000));
        }
      }
    },
  });
  stream.subscribe(
    (messages) => {
      if (signal.aborted) return;
      for (const { key, value, headers } of messages) {
        if (headers.control === "must-refetch") [live] = [false, rows.clear()];
        else if (headers.operation === "delete") rows.delete(key);
        else if (headers.operation) rows.set(key, { ...rows.get(key)?.value, ...value, fresh: live });
        if (headers.control === "up-to-date") live = true;
      }
      draw(rows);
      if (live) show("outcome", `200: ${rows.size} ${rows.size === 1 ? "row" : "rows"} of ${organization}.`, "good");
      else if (rows.size === 0) show("outcome", "409: Electric has deleted the shape. The client loads it again.");
    },
    (error) => {
      if (!signal.aborted) stopped(error);
    },
  );
}

async function observe(url, init, answer) {
  const { status } = answer;
  if (status >= 500) {
    const body = await answer.json().catch(() => null);
    show("client", "retrying", "bad");
    show("outcome", `${reason(status, body)} The client keeps its rows and tries again.`, "bad");
  } else {
    const renews = status === 401 && token.renewable;
    if (status < 400) show("client", "following", "good");
    else if (status === 409 || renews) show("client", renews ? "getting a token" : "loading again");
    else show("client", "stopped", "bad");
  }
  await compare(url, init.headers, status).catch(() => {});
}

function stopped(error) {
  show("client", "stopped", "bad");
  show("outcome", reason(error.status ?? "Error", error.json ?? { message: String(error.message) }), "bad");
  draw(new Map());
}

function draw(rows) {
  const last = [...rows.values()].slice(-8);
  byId("rows").replaceChildren(
    ...last.map(({ title, fresh }) => {
      const item = document.createElement("li");
      item.textContent = title;
      item.classList.toggle("new", fresh);
      return item;
    }),
  );
}

/** Returns the edited claims, or `null` if they are not JSON. */
function claims() {
  try {
    const value = JSON.parse(byId("claims").value);
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return value;
  } catch {}
  show("outcome", "The claims are not a JSON object.", "bad");
  return null;
}

async function sign(edited, renewable) {
  const { ok, text, json } = await post("/sign", JSON.stringify(edited));
  if (!ok) return show("outcome", json.message, "bad");
  use(text, renewable);
  follow();
}

byId("organization").addEventListener("change", follow);
byId("sign").addEventListener("click", () => {
  const edited = claims();
  if (edited) sign(edited, false);
});
byId("forge").addEventListener("click", () => {
  const edited = claims();
  if (!edited) return;
  const [header, , signature] = token.text.split(".");
  use(`${header}.${encode(JSON.stringify(edited))}.${signature}`, false);
  follow();
});
byId("expire").addEventListener("click", () => {
  const edited = claims();
  if (!edited) return;
  log("The token expires in 5 seconds. shapegate ends the client’s wait at that moment.");
  sign({ ...edited, exp: Math.floor(Date.now() / 1000) + 5 }, true);
});
byId("renew").addEventListener("click", async () => {
  try {
    await renew();
    follow();
  } catch (error) {
    show("outcome", error.message, "bad");
  }
});
setInterval(() => {
  let left = NaN;
  try {
    left = Math.round(decode(token.text.split(".")[1]).exp - Date.now() / 1000);
  } catch {}
  byId("expires").textContent = Number.isNaN(left) ? "" : left > 0 ? `(valid for ${left} s)` : "(expired)";
}, 1000);

// ---- The rule.

let checking;

async function check() {
  const { json } = await post("/rule/check", byId("rule").value);
  const findings = [
    ...(json.errors ?? []).map((finding) => [finding, "bad"]),
    ...(json.warnings ?? []).map((finding) => [finding, ""]),
  ];
  const lines = findings.map(([{ line, key, message }, kind]) => {
    const found = document.createElement("p");
    found.className = `finding ${kind}`;
    found.textContent = `${line ? `Line ${line}: ` : ""}${key ? `${key}: ` : ""}${message}`;
    return found;
  });
  const valid = (json.errors ?? [json]).length === 0;
  if (valid) {
    const found = document.createElement("p");
    found.className = "finding good";
    found.textContent = "No errors.";
    lines.push(found);
  }
  byId("findings").replaceChildren(...lines);
  byId("apply").disabled = !valid;
  byId("rule").setAttribute("aria-invalid", String(!valid));
}

byId("rule").addEventListener("input", () => {
  clearTimeout(checking);
  checking = setTimeout(check, 200);
});
byId("apply").addEventListener("click", async () => {
  const { json } = await post("/rule", byId("rule").value);
  log(json.message);
  follow();
});
byId("reset").addEventListener("click", () => {
  byId("rule").value = options.rule;
  check();
});

byId("rule").value = options.rule;
check();
await renew();
follow();
refresh();
