"""Attacks against a real system while well-behaved clients use it: ``scripts/isolation_test``."""
