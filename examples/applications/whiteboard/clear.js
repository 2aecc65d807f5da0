for (const key of $state.keys()) if (key.startsWith("stroke:")) delete $state[key];
return null;
