"""Export models to files that run without this package, ONNX and `torch.export`, and check them."""

from dfpc_plugin.exporting.int8 import Int8Export, quantize_onnx
from dfpc_plugin.exporting.onnx_file import OnnxExport, export_onnx
from dfpc_plugin.exporting.program import ProgramExport, export_program
from dfpc_plugin.runtimes.errors import ExportError

__all__ = ["ExportError", "Int8Export", "OnnxExport", "ProgramExport", "export_onnx", "export_program", "quantize_onnx"]
