"""Built-in study files: `batchcliff init NAME` prints one, `batchcliff run NAME` runs it."""
