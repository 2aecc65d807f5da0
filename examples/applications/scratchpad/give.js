const text = String($args?.text ?? "").trim();
if (!text || text.length > 500) $fail("BAD_TASK", "expected a task of 1 to 500 characters");
$state.task = text;
$state.steps = [];
$state.isDone = false;
$emit("task", { text, by: $scope.sub ?? "somebody" });
return text;
