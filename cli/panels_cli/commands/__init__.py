"""The commands of `panels`, a module for each noun. They read, ask and print; what they decide is decided by
pure modules.
"""
