// dist: one file for each entry point, minified, and the declarations.
import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");

/** Bundles an entry point for those who use it. */
export async function bundle(entry, outdir) {
  await build({
    absWorkingDir: ROOT,
    entryPoints: [`src/${entry}.ts`],
    outdir,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    platform: entry === "node" ? "node" : "neutral",
    external: ["react"],
    sourcemap: "linked",
    sourcesContent: true,
    logLevel: "warning",
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  rmSync(join(ROOT, "dist"), { recursive: true, force: true });
  for (const entry of ["index", "node", "react"]) await bundle(entry, join(ROOT, "dist"));
  const tsc = join(ROOT, "node_modules", "typescript", "bin", "tsc");
  execFileSync(process.execPath, [tsc, "-p", "tsconfig.build.json"], { cwd: ROOT, stdio: "inherit" });
}
