// Fails if an entry point is larger than it may be, minified and gzipped.
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { bundle, ROOT } from "./build.mjs";

const LIMITS = { index: 8_192, react: 1_024 };
const folder = join(ROOT, "build", "size");

let failed = false;
for (const [entry, limit] of Object.entries(LIMITS)) {
  await bundle(entry, folder);
  const bytes = gzipSync(readFileSync(join(folder, `${entry}.js`)), { level: 9 }).length;
  console.log(`${entry}: ${bytes} of at most ${limit} bytes, minified and gzipped`);
  failed ||= bytes > limit;
}
rmSync(folder, { recursive: true });
process.exitCode = failed ? 1 : 0;
