// A client of the gatekeeper, as Electric's own example is one: it posts for the options of a ShapeStream, spreads them,
// and posts again when it is refused. Prints what it sees as one JSON object a line; ends when its standard input does.
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
