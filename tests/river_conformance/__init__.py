"""
The adapter for River's conformance suite: `PYTHONPATH=tests python -m river_conformance`.

River's suite starts a program for each language and calls it by JSON-RPC over standard input and output. This package is
that program for Millhand. Source: riverqueue/river, conformance/adapter/contract.json, version 18.
"""
