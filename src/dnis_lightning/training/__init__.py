"""Lightning: the data module, the modules that train and search, callbacks."""
