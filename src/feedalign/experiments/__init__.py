"""The systems of the papers as scripts over the library: config, data, model, attach, loop, record."""
