// The engine compiles regular expressions with the flag v and then matches them wrongly, so that the flag
// is refused: in a literal when the panel is made, and in a constructor here.
function checkedFlags(flags) {
  if (flags === undefined) return undefined;
  const text = $String(flags);
  for (let index = 0; index < text.length; index++) {
    if (text[index] === "v") {
      throw new $SyntaxError(
        "the regular expression flag v is not available, because the engine gets it wrong; use u",
      );
    }
  }
  return text;
}

{
  const withFlags = (args) => (args.length > 1 ? [args[0], checkedFlags(args[1])] : args);
  const CheckedRegExp = new $Proxy($RegExp, {
    construct: (target, args, newTarget) => construct(target, withFlags(args), newTarget),
    apply(target, self, args) {
      const [pattern, flags] = withFlags(args);
      // as the standard has it: a regular expression that is called with one is that one
      const isSame = flags === undefined && pattern instanceof $RegExp;
      if (isSame && pattern.constructor === CheckedRegExp) return pattern;
      return new target(pattern, flags);
    },
  });
  globalThis.RegExp = CheckedRegExp;
  defineProperty($RegExp.prototype, "constructor", {
    value: CheckedRegExp, writable: true, configurable: true,
  });
  const compile = uncurry($RegExp.prototype.compile);
  defineProperty($RegExp.prototype, "compile", {
    value: { compile(pattern, flags) { return compile(this, pattern, checkedFlags(flags)); } }.compile,
    writable: true,
    configurable: true,
  });
}
