"""What an operator does with a data directory: ``panels-gateway backup``, ``restore``, ``export``,
``import``, ``verify``.
"""
