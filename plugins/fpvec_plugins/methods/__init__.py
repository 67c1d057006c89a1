"""Methods that embed a key set into a model: FP-VEC and those that it is compared with."""
