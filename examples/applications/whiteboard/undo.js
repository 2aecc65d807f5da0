const me = $scope.sub ?? "somebody";
const mine = $state.keys()
  .filter((key) => key.startsWith("stroke:") && $state[key].by === me)
  .map((key) => Number(key.slice("stroke:".length)));
if (!mine.length) $fail("NO_STROKE", "there is no stroke of yours");
const last = Math.max(...mine);
delete $state[`stroke:${last}`];
return last;
