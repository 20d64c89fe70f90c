"""Range calibration (int8) and confidence calibration (temperature, rejection)."""
