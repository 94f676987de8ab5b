"""Where frames come from: one class per kind, one URI scheme each."""
