"""The pool: a supervisor process that keeps sandbox processes alive."""
