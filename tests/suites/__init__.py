"""Runners for test suites that others wrote. Each takes a checkout or an installation of its suite, which is
no part of this project; ``docs/conformance.md`` says how to get them, and what came out.
"""
