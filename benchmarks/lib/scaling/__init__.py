"""One video over several GPUs: the bytes that leave a GPU, and a model of the time. Standard library only."""
