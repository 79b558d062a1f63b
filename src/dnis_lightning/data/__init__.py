"""From raw files to batches: sources, the encoded store, splits, the train vocabulary, the loader."""
