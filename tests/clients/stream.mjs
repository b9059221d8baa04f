// Runs one ShapeStream and prints its events as one JSON object per line.
// The options come as JSON in the first argument; the script ends when its standard input closes.
import { FetchError, ShapeStream } from "@electric-sql/client";

// The client's event-source library uses browser globals to find out whether the page is visible; Node.js has none.
globalThis.window ??= globalThis;
globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };

const options = JSON.parse(process.argv[2]);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// A page gets its token from its own server. Here the test runs that server.
const token = async () => `Bearer ${await (await fetch(options.tokenUrl)).text()}`;

const stream = new ShapeStream({
  url: options.url,
  params: options.params,
  headers: { Authorization: token },
  warnOnHttp: false,
  liveSse: options.liveSse ?? false,
  backoffOptions: { initialDelay: 10, maxDelay: 50, multiplier: 1.3 },
  onError: (error) => {
    const status = error instanceof FetchError ? error.status : null;
    print({ error: status, code: error.json?.code ?? null, name: error.name });
    return options.retry?.includes(status) ? {} : undefined;
  },
});

stream.subscribe(
  (messages) => print({ messages: messages.map(({ key, value, headers }) => ({ key, value, headers })) }),
  (error) => print({ stopped: error.status ?? String(error) }),
);

process.stdin.on("end", () => process.exit(0)).resume();
