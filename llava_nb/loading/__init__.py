"""From a name to a model that is ready: find its files, see whether it fits, read it, save it."""
