"""What `torch.save` wrote in, arrays by their names out; no code of a file is run."""
