const { colour, points } = $args ?? {};
if (!Array.isArray(points) || points.length < 4 || points.length > 2_000 || points.length % 2) {
  throw new Error("expected 2 to 1,000 points, as x and y in turn");
}
if (!points.every((value) => typeof value === "number" && value >= 0 && value <= 1)) {
  throw new Error("expected points from 0 to 1");
}
if (!/^#[0-9a-f]{6}$/.test(colour)) throw new Error("expected a colour such as #2f5bd0");

// Strokes have numbers that grow, so that the oldest ones are easily found once there are too many.
const number = ($state.strokes ?? 0) + 1;
$state.strokes = number;
$state[`stroke:${number}`] = { by: $scope.sub ?? "somebody", colour, points };
delete $state[`stroke:${number - 400}`];
return number;
