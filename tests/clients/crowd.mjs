// Runs many ShapeStreams in one process, as many clients, and prints what they have as one JSON object per line. The
// options come as JSON in the first argument. A line on standard input is a command: `{"join":n,"every":ms}` starts `n`
// more clients, `{"until":title}` prints a summary once every client has the row with this title; the script ends when
// its standard input closes.
import { createInterface } from "node:readline";
import { ShapeStream } from "@electric-sql/client";

// The client's event-source library uses browser globals to find out whether the page is visible; Node.js has none.
globalThis.window ??= globalThis;
globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };

const options = JSON.parse(process.argv[2]);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// What the client complains about: fast loops, stale responses, event streams that end too early.
const warnings = new Set();
console.warn = (text) => {
  // Electric's 409 to a poll that waits has no handle.
  if (!String(text).includes("Received 409 response without a shape handle")) warnings.add(String(text));
};

const clients = [];
let wanted;

const check = () => {
  if (wanted === undefined || !clients.every((client) => client.titles.has(wanted))) return;
  wanted = undefined;
  const logs = new Set(clients.map((client) => JSON.stringify([...client.titles])));
  print({
    clients: clients.length,
    // How many different sets of rows there are, and one of them.
    logs: logs.size,
    titles: [...clients[0].titles],
    twice: clients.flatMap((client) => client.twice),
    reloads: clients.map((client) => client.reloads).reduce((sum, reloads) => sum + reloads, 0),
    cursors: clients.filter((client) => client.repeated).length,
    errors: clients.flatMap((client) => client.errors),
    warnings: [...warnings],
  });
};

const start = () => {
  const client = { titles: new Set(), twice: [], reloads: 0, repeated: false, errors: [] };
  clients.push(client);
  // A client must never get the cursor that it has sent.
  const fetchClient = async (url, init) => {
    const response = await fetch(url, init);
    const sent = new URL(url).searchParams.get("cursor");
    client.repeated ||= Boolean(sent) && response.headers.get("electric-cursor") === sent;
    return response;
  };
  const stream = new ShapeStream({
    url: options.url,
    params: options.params,
    headers: { Authorization: `Bearer ${options.token}` },
    warnOnHttp: false,
    liveSse: options.liveSse ?? false,
    fetchClient,
    onError: (error) => {
      client.errors.push(error.status ?? String(error));
      return {};
    },
  });
  stream.subscribe((messages) => {
    for (const { value, headers } of messages) {
      if (headers.control === "must-refetch") {
        client.titles.clear();
        client.reloads += 1;
      } else if (headers.operation === "insert") {
        if (client.titles.has(value.title)) client.twice.push(value.title);
        client.titles.add(value.title);
      }
    }
    check();
  });
};

const join = async (count, every) => {
  for (let number = 0; number < count; number++) {
    start();
    await new Promise((resolve) => setTimeout(resolve, every));
  }
  print({ joined: clients.length });
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line);
    if (command.join) join(command.join, command.every);
    wanted = command.until ?? wanted;
    check();
  })
  .on("close", () => process.exit(0));
