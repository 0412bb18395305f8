"""What annotation tools write in, pairs and classes out: the table `tools.TOOLS`."""
