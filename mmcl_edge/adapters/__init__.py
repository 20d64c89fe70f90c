"""The trainable blocks: experts, router, cross-modality adapter, fusion, heads, encoder."""
