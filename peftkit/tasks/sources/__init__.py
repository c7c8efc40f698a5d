"""Where the rows of tasks come from: files, folders and hub datasets, and the splits that are made of them."""
