"""What can be seen from outside: metrics, stage timings, logs."""
