const { task, step } = $args ?? {};
if (task !== $state.task) $fail("TASK_CHANGED", "the task has changed");
if (!$state.steps[step]) throw new Error(`expected the index of a step, from 0 to ${$state.steps.length - 1}`);
$state.steps[step].isDone = true;
$state.isDone = $state.steps.every((each) => each.isDone);
return $state.isDone;
