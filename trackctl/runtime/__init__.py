"""Everything that a device needs to track: numpy, OpenCV and one engine; never torch, onnx or typer."""
