// Writes expected.txt: what Node.js makes of each line of corpus.txt by
// JSON.stringify(JSON.parse(line)). Run it in this folder after corpus.txt was
// changed; the test needs expected.txt only.
import { readFileSync, writeFileSync } from "node:fs";

const lines = readFileSync("corpus.txt", "utf8").trimEnd().split("\n");
writeFileSync("expected.txt", lines.map((line) => JSON.stringify(JSON.parse(line))).join("\n") + "\n");
