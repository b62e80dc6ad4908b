"""Making attacked data sets: the surrogate, the cache of images, the pool, how good they are."""
