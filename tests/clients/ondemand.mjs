// Runs one live query of TanStack DB on an on-demand Electric collection. Whenever its titles change, it prints them as
// one JSON object per line. The options come as JSON in the first argument; the script ends when its standard input
// closes.
import { createCollection, createLiveQueryCollection, eq, inArray, like, or } from "@tanstack/db";
import { electricCollectionOptions } from "@tanstack/electric-db-collection";

const options = JSON.parse(process.argv[2]);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const token = async () => `Bearer ${await (await fetch(options.tokenUrl)).text()}`;

const tasks = createCollection(
  electricCollectionOptions({
    id: "tasks",
    getKey: (row) => row.id,
    syncMode: "on-demand",
    shapeOptions: {
      url: options.url,
      params: options.params,
      headers: { Authorization: token },
      subsetMethod: options.method,
      warnOnHttp: false,
      onError: (error) => print({ error: error.status ?? String(error), code: error.json?.code ?? null }),
    },
  }),
);

// One condition for each form of SQL that TanStack DB's compiler generates.
const wanted = ({ task }) => or(like(task.title, "urgent%"), eq(task.title, "it's"), inArray(task.title, ["a", "b"]));
const query = createLiveQueryCollection({
  query: (q) =>
    q
      .from({ task: tasks })
      .where(wanted)
      .orderBy(({ task }) => task.title, "asc")
      .limit(options.limit),
  startSync: true,
});
query.subscribeChanges(() => print({ titles: query.toArray.map((row) => row.title) }), { includeInitialState: true });

process.on("unhandledRejection", (error) => print({ rejected: String(error) }));
process.stdin.on("end", () => process.exit(0)).resume();
