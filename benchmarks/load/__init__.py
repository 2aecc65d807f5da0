"""The load test: clients that verify every answer, and what they measured."""
