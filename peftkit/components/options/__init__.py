"""The options of components: their descriptions, and those that other libraries declare."""
