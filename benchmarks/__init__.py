"""Benchmarks: what the construction costs and how exact it is. They measure; no time is asserted anywhere.

``python -m benchmarks`` (or ``make bench``) runs every topic and writes ``benchmarks/results.md`` and ``results.json``.
"""
