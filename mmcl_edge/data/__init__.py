"""Media decoding, task folders, dataset readers, streams of experiences."""
