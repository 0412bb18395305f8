"""The files of a layer list, which `layer_list` writes and `torch_networks` reads."""

LAYERS, WEIGHTS, EXAMPLE = "layers.json", "weights.npz", "example.npz"
