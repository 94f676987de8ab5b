"""Writes tensorrt_names.txt: the names that the Python bindings of several TensorRT versions have in common.

    python tests/runtime/list_tensorrt_names.py WHEEL...

The wheels (``pip download --no-deps tensorrt-cu12-bindings==10.3.0`` and so on) are small and need no GPU: the libraries that
they are bindings of are replaced by empty ones, made with the C compiler, which is enough to import them.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

OUT = Path(__file__).with_name("tensorrt_names.txt")
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def names_of(module: object) -> list[str]:
    """The public names of a module and of its classes, ``Class.name``."""
    names = []
    for name, value in vars(module).items():
        if not name.startswith("_"):
            names.append(name)
            if isinstance(value, type):
                names += [f"{name}.{attribute}" for attribute in dir(value) if not attribute.startswith("_")]
    return sorted(names)


def print_names(folder: Path) -> None:
    """Import the bindings unpacked in a folder and print version and names; once per process."""
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    major = next(folder.glob("*.dist-info")).name.split("-")[1].partition(".")[0]
    for library in LIBRARIES:
        path = folder / f"{library}.so.{major}"
        subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-o", path, source], check=True)
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(folder))
    module = importlib.import_module("tensorrt_bindings")
    print(json.dumps([module.__version__, names_of(module)]))


def main() -> None:
    versions, common = [], None
    for wheel in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            zipfile.ZipFile(wheel).extractall(folder)
            command = [sys.executable, __file__, "--unpacked", folder]
            version, names = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        versions.append(version)
        common = set(names) if common is None else common & set(names)
    header = f"# In all of TensorRT {', '.join(versions)}; see list_tensorrt_names.py"
    OUT.write_text("\n".join([header, *sorted(common or ())]) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--unpacked":
        print_names(Path(sys.argv[2]))
    else:
        main()
