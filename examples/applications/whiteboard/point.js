const { x, y } = $args ?? {};
if (![x, y].every((value) => typeof value === "number" && value >= 0 && value <= 1)) {
  throw new Error("expected x and y from 0 to 1");
}
$emit("cursor", { by: $scope.sub ?? "somebody", x, y });
return null;
