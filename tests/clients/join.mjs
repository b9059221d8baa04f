// Runs a live query of TanStack DB that joins an eager collection with an on-demand one: the keys of the first are sent
// to load the rows of the second. It prints how many rows have a match whenever that changes, as one JSON object per
// line. The options come as JSON in the first argument; the script ends when its standard input closes.
import { BasicIndex, createCollection, createLiveQueryCollection, eq } from "@tanstack/db";
import { electricCollectionOptions } from "@tanstack/electric-db-collection";

const options = JSON.parse(process.argv[2]);
const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const token = async () => `Bearer ${await (await fetch(options.tokenUrl)).text()}`;

const collection = (id, url, params, more) =>
  createCollection({
    ...electricCollectionOptions({
      id,
      getKey: (row) => row.id,
      shapeOptions: {
        url,
        params,
        headers: { Authorization: token },
        subsetMethod: "POST",
        warnOnHttp: false,
        onError: (error) => print({ error: error.status ?? String(error), code: error.json?.code ?? null }),
      },
      ...more,
    }),
    autoIndex: "eager",
    defaultIndexType: BasicIndex,
  });

const items = collection("items", options.itemsUrl);
const tasks = collection("tasks", options.url, options.params, { syncMode: "on-demand" });
const joined = createLiveQueryCollection({
  query: (q) =>
    q.from({ item: items }).join({ task: tasks }, ({ item, task }) => eq(item.title, task.id), "left"),
  startSync: true,
});
let printed = -1;
joined.subscribeChanges(() => {
  const matched = joined.toArray.filter((row) => row.task !== undefined).length;
  if (matched !== printed) print({ joined: (printed = matched) });
});

process.on("unhandledRejection", (error) => print({ rejected: String(error) }));
process.stdin.on("end", () => process.exit(0)).resume();
