"""Annotated data sets, metrics, protocols, reports."""
