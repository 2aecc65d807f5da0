const { task, steps } = $args ?? {};
// A person may have given another task while the agent was thinking: its plan is for what is not wanted any more.
if (task !== $state.task) $fail("TASK_CHANGED", "the task has changed");
if (!Array.isArray(steps) || !steps.length || steps.length > 50 || !steps.every((step) => typeof step === "string")) {
  throw new Error("expected 1 to 50 steps, as texts");
}
$state.steps = steps.map((text) => ({ text: text.slice(0, 500), isDone: false }));
return steps.length;
