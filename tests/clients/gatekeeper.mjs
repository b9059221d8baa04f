// Runs a client of the gatekeeper, like Electric's example: it requests the options of a ShapeStream with a POST, uses
// them, and requests new ones after a 401 or 403. It prints its events as one JSON object per line. The options come as
// JSON in the first argument; the script ends when its standard input closes.
import { FetchError, ShapeStream } from "@electric-sql/client";

const options = JSON.parse(process.argv[2]);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const fetchConfig = async () => {
  const headers = options.token ? { Authorization: `Bearer ${options.token}` } : {};
  const answer = await fetch(options.gatekeeper, { method: "POST", headers });
  print({ minted: answer.status });
  return answer.json();
};

const stream = new ShapeStream({
  ...(await fetchConfig()),
  onError: async (error) => {
    if (!(error instanceof FetchError)) throw error;
    print({ error: error.status, code: error.json?.code ?? null });
    if (error.status === 401 || error.status === 403) return fetchConfig();
    throw error;
  },
});

stream.subscribe(
  (messages) => print({ messages: messages.map(({ key, value, headers }) => ({ key, value, headers })) }),
  (error) => print({ stopped: error.status ?? String(error) }),
);

process.stdin.on("end", () => process.exit(0)).resume();
