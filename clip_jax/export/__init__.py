"""A model on its way to a device: towers as graphs, files in the formats of runtimes, each measured before it is called done."""
