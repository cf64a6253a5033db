"""Scripts to read first and to copy from: a learned optimizer in a loop of your own."""
