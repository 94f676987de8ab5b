"""Split a model into graphs, write ONNX, lower the precision, build engines, prove the bundle."""
