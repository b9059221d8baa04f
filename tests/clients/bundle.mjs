// Bundles Electric's client for the demo's page: node tests/clients/bundle.mjs
// With --check it compares the bundle and its licences with the files in the tree instead of writing them.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const modules = new URL("node_modules/", import.meta.url);
const page = new URL("../../src/demo/page/", import.meta.url);
const read = (name) => readFileSync(new URL(name, modules), "utf8");
const { version } = JSON.parse(read("@electric-sql/client/package.json"));

const { outputFiles } = await build({
  stdin: {
    contents: 'export { FetchError, ShapeStream } from "@electric-sql/client";',
    resolveDir: fileURLToPath(new URL(".", import.meta.url)),
  },
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  banner: { js: `/*! @electric-sql/client ${version}, bundled by tests/clients/bundle.mjs; see electric-client.LICENSE */` },
  write: false,
});
const licence = (name) => `${name}\n${"=".repeat(name.length)}\n\n${read(`${name}/LICENSE`).trim()}\n`;
const files = {
  "electric-client.js": outputFiles[0].text,
  "electric-client.LICENSE": ["@electric-sql/client", "@microsoft/fetch-event-source"].map(licence).join("\n"),
};

for (const [name, content] of Object.entries(files)) {
  const path = new URL(name, page);
  if (!process.argv.includes("--check")) {
    writeFileSync(path, content);
  } else if (readFileSync(path, "utf8") !== content) {
    console.error(`src/demo/page/${name} is not what tests/clients/bundle.mjs makes: run it`);
    process.exitCode = 1;
  }
}
