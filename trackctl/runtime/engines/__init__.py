"""Engines behind the one protocol of runtime/engine.py; each module imports its library when an engine is opened."""
