"""Continual audio-visual learning on devices: frozen ONNX backbones, adapters that learn on the spot."""
