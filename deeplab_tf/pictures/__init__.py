"""Files to RGB, classes to colours."""
