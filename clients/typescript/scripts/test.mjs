// Runs the tests, all or those named: node scripts/test.mjs core replica
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

import { build } from "esbuild";

import { ROOT } from "./build.mjs";

const names = process.argv.slice(2);
const found = readdirSync(join(ROOT, "test")).filter((file) => file.endsWith(".test.ts"));
const wanted = found.filter((file) => !names.length || names.includes(file.replace(".test.ts", "")));
const outdir = join(ROOT, "build", "test");
rmSync(outdir, { recursive: true, force: true });
await build({
  absWorkingDir: ROOT,
  entryPoints: wanted.map((file) => `test/${file}`),
  outdir,
  bundle: true,
  format: "esm",
  target: "es2022",
  platform: "node",
  packages: "external",
  sourcemap: "inline",
  logLevel: "warning",
});
const files = wanted.map((file) => join(outdir, file.replace(".ts", ".js")));
const { status } = spawnSync(process.execPath, ["--enable-source-maps", "--test", ...files], {
  cwd: ROOT,
  stdio: "inherit",
  timeout: 240_000,
});
process.exitCode = status ?? 1;
