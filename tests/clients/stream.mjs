// Runs one ShapeStream as a test tells it, and prints what it sees as one JSON object a line.
// The options come as JSON in the first argument; the script ends when its standard input does.
import { FetchError, ShapeStream } from "@electric-sql/client";

// The client's event-source library asks a browser's globals whether its page is visible; node has none of them.
globalThis.window ??= globalThis;
globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };

const options = JSON.parse(process.argv[2]);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// A page asks its own server for a token; here a test answers for it.
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
