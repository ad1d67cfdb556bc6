"""Published traces of real load, one format a file, each read into a `Trace` and asked again by `replay`."""
