"""Search methods, the bilevel gradient and pruning, in plain torch."""
