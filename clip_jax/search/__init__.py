"""Search in folders of pictures by words and pictures: the index, exact search, and the local page."""
